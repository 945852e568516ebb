"""Removing a folder that hostile code has filled and may still be filling.

Names are resolved in opened folders only, so that a folder swapped for a link leads nowhere, and the way up is checked
against the way down; only one folder is open at a time, so that no depth exhausts stack, descriptors or path length.
"""

import os
import shutil
from pathlib import Path


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it; nothing happens when it is gone already.

    Raises: OSError when something in it cannot be removed, moved or appeared meanwhile: try again.
    """
    if not folder.exists():
        return
    if not hasattr(os, "O_PATH"):
        shutil.rmtree(folder)
        return
    current = _open_folder(str(folder), None)
    way_down: list[tuple[str, tuple[int, int], list[str]]] = []
    try:
        inner = _unlink_files(current)
        while inner or way_down:
            if inner:
                name = inner.pop()
                way_down.append((name, _identity(current), inner))
                current = _exchange(current, _open_folder(name, current))
                inner = _unlink_files(current)
            else:
                name, above, inner = way_down.pop()
                current = _exchange(current, os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=current))
                if _identity(current) != above:
                    raise OSError(f"{folder}: a folder moved while it was removed")
                os.rmdir(name, dir_fd=current)
    finally:
        os.close(current)
    folder.rmdir()


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _exchange(old: int, new: int) -> int:
    os.close(old)
    return new


def _open_folder(name: str, parent: int | None) -> int:
    """Open a folder, never a link to one, for reading, whatever its mode."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
    finally:
        os.close(handle)


def _unlink_files(folder: int) -> list[str]:
    """Remove everything but folders; the names of these."""
    inner = []
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return inner
