"""The system prompt: the protocol, and the tools at the length that the preset asks for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from biomni_lib.tools import domains_for, official_tools, tool_docs, tool_names, tool_signatures

Presentation = Literal["names", "signatures", "docs"]

PROTOCOL = (
    "You are a biomedical agent. Reason in <think></think>. Then either run Python in <execute></execute> and read its"
    " <observation></observation>, or answer in <solution></solution>."
)


def system_prompt(tools: Presentation, domains: Iterable[str] | None = None, official: Iterable[str] = ()) -> str:
    """The system prompt, with the tools by name, by signature, or fully documented.

    Args:
        domains: whose tools it lists, such as `tools.domains_for(task)`; phenotypes when None.
        official: fields of the official `biomni` package whose functions it lists too.
    Raises: ConfigError for an unknown domain, or when the official package lacks a field or is not installed.
    """
    names = tool_names() if domains is None else tool_names(domains)
    if tools == "names":
        listing = ", ".join(names)
    else:
        listing = "\n".join(tool_signatures(names)) if tools == "signatures" else tool_docs(names)
    imported = "\n".join(official_tools(official, tools))
    return f"{PROTOCOL}\nTools: {listing}" + (f"\nTools to import: {imported}" if imported else "")


def system_prompts(tools: Presentation, official: Sequence[str] = ()) -> Callable[[str], str]:
    """From a task's name to its system prompt, with the tools that suit it; see `system_prompt`.

    Raises: ConfigError at once when the official package lacks a field or is not installed.
    """
    official_tools(official, tools)
    return functools.cache(lambda task: system_prompt(tools, domains_for(task), official))
