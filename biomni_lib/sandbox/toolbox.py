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
    if lake_dir is None:
        return {}
    from biomni_lib.lake import Lake
    from biomni_lib.tools import tool_functions

    return dict(tool_functions(Lake.open(lake_dir)))
