"""The tools as the sandbox and the prompt need them: bound to a lake, and described.

A session finds every tool. A prompt lists those of the domains that suit its task (`domains_for`), since a list of all
would be longer than most questions.
"""

import functools
import inspect
from collections.abc import Callable, Iterable

from biomni_lib.errors import ConfigError
from biomni_lib.lake import Lake
from biomni_lib.tools import functions, genes, sequences, traits
from biomni_lib.tools.cache import ResultCache

DOMAINS: dict[str, tuple[Callable, ...]] = {
    "phenotypes": functions.TOOLS,
    "genes": genes.TOOLS,
    "sequences": sequences.TOOLS,
    "traits": traits.TOOLS,
}
DEFAULT_DOMAINS = ("phenotypes",)
_GENETICS = ("genes", "phenotypes")
_ASSOCIATIONS = (*_GENETICS, "traits")
_SUITED = {
    "gwas_causal_gene_opentargets": _ASSOCIATIONS,
    "gwas_causal_gene_pharmaprojects": _ASSOCIATIONS,
    "gwas_causal_gene_gwas_catalog": _ASSOCIATIONS,
    "gwas_variant_prioritization": _ASSOCIATIONS,
    "lab_bench_dbqa": _GENETICS,
    "lab_bench_seqqa": ("sequences",),
    "screen_gene_retrieval": _GENETICS,
    "crispr_delivery": ("sequences", "genes"),
}
_BY_NAME = {tool.__name__: tool for tools in DOMAINS.values() for tool in tools}


def domains_for(task: str) -> tuple[str, ...]:
    """Domains whose tools suit a task, in the order in which its prompt lists them; phenotypes for any other task."""
    return _SUITED.get(task, DEFAULT_DOMAINS)


def tool_names(domains: Iterable[str] = DEFAULT_DOMAINS) -> list[str]:
    """Names of the tools of some domains, in the order in which prompts list them.

    Args:
        domains: of `DOMAINS`.
    Raises: ConfigError for an unknown domain.
    """
    chosen = list(domains)
    if unknown := [domain for domain in chosen if domain not in DOMAINS]:
        raise ConfigError(f"unknown domain of tools {unknown[0]!r}; the domains are {', '.join(DOMAINS)}")
    return [tool.__name__ for domain in chosen for tool in DOMAINS[domain]]


def tool_functions(lake: Lake, cache: ResultCache | None = None) -> dict[str, Callable]:
    """Every tool of every domain bound to a lake, by name; they keep their docstrings and show no lake argument.

    Args:
        cache: answers calls that repeat, with the same results; none when None.
    """
    bound = {name: _bound(tool, lake) for name, tool in _BY_NAME.items()}
    return bound if cache is None else {name: cache.over(function) for name, function in bound.items()}


def tool_signatures(names: Iterable[str] | None = None) -> list[str]:
    """One line a tool, such as `ancestors(id: str) -> list[str]`.

    Args:
        names: tools to show; those of `tool_names()` when None.
    Raises: ConfigError for an unknown tool.
    """
    return [f"{name}{_signature(_tool(name))}" for name in (tool_names() if names is None else names)]


def tool_docs(names: Iterable[str] | None = None) -> str:
    """Signatures with docstrings: arguments, units and an example for each tool.

    Args:
        names: tools to show; those of `tool_names()` when None.
    Raises: ConfigError for an unknown tool.
    """
    chosen = list(tool_names() if names is None else names)
    lines = zip(tool_signatures(chosen), (inspect.getdoc(_tool(name)) or "" for name in chosen), strict=True)
    return "\n\n".join(signature + "\n    " + doc.replace("\n", "\n    ") for signature, doc in lines)


def _tool(name: str) -> Callable:
    if name not in _BY_NAME:
        raise ConfigError(f"unknown tool {name!r}; the tools are {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def _signature(tool: Callable) -> inspect.Signature:
    signature = inspect.signature(tool)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name != "lake"])


def _bound(tool: Callable, lake: Lake) -> Callable:
    needs_lake = "lake" in inspect.signature(tool).parameters

    @functools.wraps(tool)
    def bound(*args: object, **kwargs: object) -> object:
        return tool(lake, *args, **kwargs) if needs_lake else tool(*args, **kwargs)

    bound.__signature__ = _signature(tool)  # type: ignore[attr-defined]
    del bound.__wrapped__  # the unbound tool, and with it the lake argument, stays out of sight
    return bound
