"""Functions over the lake that the agent may call (`tool_functions`), and their description for the prompt."""

from biomni_lib.tools.cache import ResultCache
from biomni_lib.tools.official import official_tools
from biomni_lib.tools.registry import DOMAINS, domains_for, tool_docs, tool_functions, tool_names, tool_signatures

__all__ = [
    "DOMAINS",
    "ResultCache",
    "domains_for",
    "official_tools",
    "tool_docs",
    "tool_functions",
    "tool_names",
    "tool_signatures",
]
