"""Tensors as a file for another process: written to shared memory where there is any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Tensors as a safetensors file; of those that share memory the first name alone."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    kept = {}
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor.detach().contiguous()
    save_file(kept, path)


def shared_memory() -> Path | None:
    """The folder of this machine's shared memory; None where there is none, for the usual temporary folder."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None
