"""The system prompt: the protocol, and the tools at the length that the preset asks for."""

from __future__ import annotations

from typing import Literal

from biomni_lib.tools import tool_docs, tool_names, tool_signatures

Presentation = Literal["names", "signatures", "docs"]

PROTOCOL = (
    "You are a biomedical agent. Reason in <think></think>. Then either run Python in <execute></execute> and read its"
    " <observation></observation>, or answer in <solution></solution>."
)


def system_prompt(tools: Presentation) -> str:
    """The system prompt, with the tools by name, by signature, or fully documented."""
    if tools == "names":
        listing = ", ".join(tool_names())
    else:
        listing = "\n".join(tool_signatures()) if tools == "signatures" else tool_docs()
    return f"{PROTOCOL}\nTools: {listing}"
