"""Functions of the official `biomni` package, offered beside the lake's tools where that package is installed.

They lie in `biomni.tool.FIELD`; a list `description` in `biomni.tool.tool_description.FIELD` tells of each its name,
what it does, and its required and optional parameters. Only that list is read here: the agent's code imports a function
in its session. Not covered: functions that ask a server or a language model, which no session can reach.
Source: the package's own layout, github.com/snap-stanford/Biomni.
"""

import importlib
from collections.abc import Iterable
from typing import Any, Literal

from biomni_lib.errors import ConfigError


def official_tools(fields: Iterable[str], shown: Literal["names", "signatures", "docs"]) -> list[str]:
    """The functions of some fields, as a prompt lists them: one line a field, or one entry a function.

    Args:
        fields: modules of `biomni.tool`, such as `genetics`. shown: how much of each function.
    Raises: ConfigError when the package is not installed or has no such field.
    """
    listed = []
    for field in fields:
        functions = _described(field)
        if shown == "names":
            listed.append(f"biomni.tool.{field}: {', '.join(one['name'] for one in functions)}")
        else:
            listed += [f"biomni.tool.{field}.{_entry(one, docs=shown == 'docs')}" for one in functions]
    return listed


def _described(field: str) -> list[dict[str, Any]]:
    try:
        module = importlib.import_module(f"biomni.tool.tool_description.{field}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"prompt.biomni_tools = {field!r}: there is no module {error.name}; install the official package biomni, "
            "name one of its fields such as 'genetics', or leave the setting empty"
        ) from None
    return list(module.description)


def _entry(function: dict[str, Any], *, docs: bool) -> str:
    """Name and parameters, and with `docs` what it and they are."""
    required, optional = function["required_parameters"], function["optional_parameters"]
    told = [f"{one['name']}: {one['type']}" for one in required]
    told += [f"{one['name']}: {one['type']} = {one['default']!r}" for one in optional]
    lines = [f"{function['name']}({', '.join(told)})"]
    if docs:
        lines += [function["description"], *(f"{one['name']}: {one['description']}" for one in (*required, *optional))]
    return "\n    ".join(lines)
