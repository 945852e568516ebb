"""The names that agent code finds in a session: the lake's tools, bound to one opened lake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def lake_tools(lake_dir: Path | None) -> dict[str, Callable[..., Any]]:
    """Open the lake once and give its tools.

    Args:
        lake_dir: the built lake, or None for a session without tools.
    Raises: DataError when the lake is missing or corrupt.
    """
    return _tools(lake_dir, cached=False)


def cached_lake_tools(lake_dir: Path | None) -> dict[str, Callable[..., Any]]:
    """The same tools with an empty cache of their results, of which every session forks a copy of its own."""
    return _tools(lake_dir, cached=True)


def _tools(lake_dir: Path | None, *, cached: bool) -> dict[str, Callable[..., Any]]:
    if lake_dir is None:
        return {}
    from biomni_lib.lake import Lake, lake_version
    from biomni_lib.tools import ResultCache, tool_functions

    lake = Lake.open(lake_dir)
    return dict(tool_functions(lake, ResultCache(lake_version(lake_dir)) if cached else None))
