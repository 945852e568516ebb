"""A pretrained model of the Hugging Face hub, fetched once into its folder, whole or not at all.

Files go into a hidden folder beside, where those that arrived whole stay for the next start; it gets its name when
every file that the hub lists is there in its size. A branch is resolved to its commit first, and `source.json` in the
folder says which. HF_ENDPOINT (another hub), HF_TOKEN and HF_HUB_OFFLINE are read by the hub's own library.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from biomni_lib.engines.packaged_model import SOURCE
from biomni_lib.errors import RunError
from biomni_lib.provenance import require_disk

FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "LICENSE*")
"""What is fetched: configuration, weights, tokenizer, licence; not the same weights in other formats."""


def fetch_model(repository: str, revision: str | None, target: Path) -> None:
    """Fetch a model's folder; a second process that wants it waits for the first.

    Args:
        repository: OWNER/NAME on the hub. revision: branch, tag or commit; the branch main when None.
        target: the folder: weights, configuration, tokenizer, licence, source.json.
    Raises: RunError when there is no such model or revision, no network or no room, or something else at `target`.
    """
    from filelock import FileLock
    from huggingface_hub import HfApi, snapshot_download

    beside = target.with_name(f".{target.name}.fetching")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(beside.with_suffix(".lock")), _one_line(repository, revision, target):
        if (target / "config.json").is_file():
            return
        if target.is_dir() and any(target.iterdir()):
            raise RunError(f"{target}: holds files but no config.json; move them away, for {repository} to go there")
        for part in beside.rglob("*.incomplete"):  # the hub's library does not take these up again
            part.unlink()
        told = HfApi().model_info(repository, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in told.siblings or [] if _wanted(file.rfilename)}
        for need in ("config.json", "*.safetensors"):
            if not any(fnmatch(name, need) for name in sizes):
                raise RunError(f"model.repository = {repository!r}: has no {need}; name one with safetensors weights")
        here = sum(file.stat().st_size for file in beside.rglob("*") if file.is_file())
        require_disk(beside, sum(sizes.values()) - here, "model.path")
        snapshot_download(repository, revision=told.sha, local_dir=beside, allow_patterns=list(sizes))
        _check(beside, sizes, repository)
        licence = told.card_data.license if told.card_data else None
        source = {"repository": repository, "revision": revision or "main", "commit": told.sha, "licence": licence}
        (beside / SOURCE).write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(beside / ".cache")
        listed = {beside / name for name in (*sizes, SOURCE)}
        for file in beside.rglob("*"):
            if file.is_file() and file not in listed:  # of a start that asked for another revision
                file.unlink()
        beside.rename(target)


def fetch_config(repository: str, revision: str | None, target: Path) -> Path:
    """Fetch a model's `config.json` alone, into the hub library's own cache. Raises: RunError as `fetch_model`."""
    from huggingface_hub import hf_hub_download

    with _one_line(repository, revision, target):
        return Path(hf_hub_download(repository, "config.json", revision=revision))


def _wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in FILES)


def _check(folder: Path, sizes: Mapping[str, int], repository: str) -> None:
    """Where the hub was lost on the way, its library may call a folder done that is not."""
    here = {name: (folder / name).stat().st_size for name in sizes if (folder / name).is_file()}
    missing = sorted(name for name, size in sizes.items() if here.get(name) != size)
    if missing:
        raise RunError(
            f"{repository}: {len(missing)} of {len(sizes)} files did not arrive whole, {missing[0]} among them; "
            "run the same command again to go on"
        )


@contextlib.contextmanager
def _one_line(repository: str, revision: str | None, target: Path) -> Iterator[None]:
    """Say what the hub's library has to say as a RunError of one line."""
    from httpx2 import HTTPError  # what the hub's library is built on
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except RevisionNotFoundError:
        raise RunError(f"model.revision = {revision!r}: no branch, tag or commit of {repository}") from None
    except RepositoryNotFoundError:
        raise RunError(
            f"model.repository = {repository!r}: not at {constants.ENDPOINT}, or not for everyone; "
            "check the name, or set HF_TOKEN to a token that may read it"
        ) from None
    except (HTTPError, OSError) as error:
        offline = isinstance(error, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f"{repository} cannot be fetched from {constants.ENDPOINT} ({why}); run the same command again to go on, "
            f"or put its folder at {target}"
        ) from None
