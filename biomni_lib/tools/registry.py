"""The tools as the sandbox and the prompt need them: bound to a lake, and described."""

import functools
import inspect
from collections.abc import Callable, Iterable

from biomni_lib.errors import ConfigError
from biomni_lib.lake import Lake
from biomni_lib.tools.cache import ResultCache
from biomni_lib.tools.functions import TOOLS

_BY_NAME = {tool.__name__: tool for tool in TOOLS}


def tool_names() -> list[str]:
    """Names of all tools, in the order in which prompts list them."""
    return list(_BY_NAME)


def tool_functions(lake: Lake, cache: ResultCache | None = None) -> dict[str, Callable]:
    """Every tool bound to a lake, by name; the functions keep their docstrings and show no lake argument.

    Args:
        cache: answers calls that repeat, with the same results; none when None.
    """
    bound = {name: _bound(tool, lake) for name, tool in _BY_NAME.items()}
    return bound if cache is None else {name: cache.over(function) for name, function in bound.items()}


def tool_signatures(names: Iterable[str] | None = None) -> list[str]:
    """One line a tool, such as `ancestors(id: str) -> list[str]`.

    Args:
        names: tools to show; all when None.
    Raises: ConfigError for an unknown tool.
    """
    return [f"{name}{_signature(_tool(name))}" for name in (_BY_NAME if names is None else names)]


def tool_docs(names: Iterable[str] | None = None) -> str:
    """Signatures with docstrings: arguments, units and an example for each tool.

    Args:
        names: tools to show; all when None.
    Raises: ConfigError for an unknown tool.
    """
    chosen = list(_BY_NAME if names is None else names)
    lines = zip(tool_signatures(chosen), (inspect.getdoc(_tool(name)) or "" for name in chosen), strict=True)
    return "\n\n".join(signature + "\n    " + doc.replace("\n", "\n    ") for signature, doc in lines)


def _tool(name: str) -> Callable:
    if name not in _BY_NAME:
        raise ConfigError(f"unknown tool {name!r}; the tools are {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def _signature(tool: Callable) -> inspect.Signature:
    signature = inspect.signature(tool)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _bound(tool: Callable, lake: Lake) -> Callable:
    @functools.wraps(tool)
    def bound(*args: object, **kwargs: object) -> object:
        return tool(lake, *args, **kwargs)

    bound.__signature__ = _signature(tool)  # type: ignore[attr-defined]
    del bound.__wrapped__  # the unbound tool, and with it the lake argument, stays out of sight
    return bound
