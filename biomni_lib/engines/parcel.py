"""One version's weights on their way to Ray actors: a file for those on this node, Ray's object store for the others.

A parcel holds its own link to the file or to an adapter's files, so that whoever published them may delete them, and
an engine that is replaced later still gets them. It goes with the last who holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray

from biomni_lib.engines.weight_files import shared_memory, write_weights

if TYPE_CHECKING:
    from torch import Tensor

Files = Mapping[str, NDArray[np.uint8]]
"""Bytes of each file by its path below the parcel."""


class Parcel:
    """The weights of one version.

    Args:
        source: a safetensors file, the folder of an adapter, or tensors by name.
    """

    def __init__(self, source: Path | Mapping[str, Tensor]) -> None:
        beside = source.parent if isinstance(source, Path) else shared_memory()
        folder = Path(tempfile.mkdtemp(prefix="kept-", dir=beside))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = folder / (source.name if isinstance(source, Path) else "weights.safetensors")
        if not isinstance(source, Path):
            write_weights(source, self.path)
        elif source.is_dir():
            shutil.copytree(source, self.path, copy_function=_link)
        else:
            _link(source, self.path)
        self._stored: asyncio.Future[Any] | None = None

    async def seen_from(self, node: str) -> Any:
        """What an actor on a node is given: the path, or a reference to the files in Ray's object store."""
        if node == ray.get_runtime_context().get_node_id():
            return self.path
        if self._stored is None:
            self._stored = asyncio.ensure_future(asyncio.to_thread(self._store))
        return await asyncio.shield(self._stored)

    def _store(self) -> Any:
        files = [self.path] if self.path.is_file() else [path for path in self.path.rglob("*") if path.is_file()]
        return ray.put({str(path.relative_to(self.path.parent)): np.fromfile(path, np.uint8) for path in files})


def _link(source: Path | str, target: Path | str) -> None:
    """A second name of a file; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextlib.contextmanager
def unpacked(given: Path | Files) -> Iterator[Path]:
    """The weights as a path on this node, for as long as the block runs."""
    if isinstance(given, Path):
        yield given
        return
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        for name, content in given.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(path)
        yield Path(folder) / Path(next(iter(given))).parts[0]
