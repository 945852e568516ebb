"""Heuristics for the tasks over genes and variants, reported beside every model: they read the prompt and use tools.

`random`: any candidate. `nearest_gene`: the candidate that `nearest_genes` lists first, a single call.
`pathogenic_variants`: the gene with most of them; what is studied much has more. `in_clinvar`: a variant that
`variant_info` knows. `description`: the candidate whose description, or that of the gene nearest to a variant, shares
most words with the trait. `majority`: a gene that is a hit of a training screen; it alone knows training answers.
Candidates that are equal are drawn from at random, so that a heuristic without an opinion is `random`.
"""

import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from biomni_lib.lake import Lake
from biomni_lib.tasks.base import Instance
from biomni_lib.tools import tool_functions

Baselines = dict[str, Callable[[Instance], str]]
Scores = Callable[[dict[str, str], list[str]], Sequence[float]]
"""From the prompt's lines and the candidates to how well each fits."""

_PLACE = re.compile(r"chromosome (\w+), (?:around )?position (\d+)")
_VARIANT = re.compile(r"(rs\d+) \((\w+):(\d+)\)")
_NEAREST = 100
"""Most results of one call; a candidate behind these counts as far as any."""
_WORD = re.compile(r"[a-z0-9]{4,}")
"""Shorter words, such as `of` or `type`'s number, are not compared."""


def read_prompt(prompt: str) -> tuple[dict[str, str], list[str]]:
    """The text behind each key of a prompt's lines, and the symbols or rsIDs that it offers."""
    lines = dict(line.split(": ", 1) for line in prompt.splitlines() if ": " in line)
    if "Variants" in lines:
        return lines, [rsid for rsid, _, _ in _VARIANT.findall(lines["Variants"])]
    return lines, lines["Candidate genes"].split(", ")


def locus_baselines(lake: Lake) -> Baselines:
    """Baselines of the tasks about causal genes, by name."""
    tools = tool_functions(lake)

    def nearest(lines: dict[str, str], symbols: list[str]) -> list[float]:
        chromosome, position = _PLACE.findall(lines.get("Locus") or lines["Region"])[0]
        listed = [name for _, name, _ in tools["nearest_genes"](chromosome, int(position), top=_NEAREST)]
        return [-listed.index(symbol) if symbol in listed else -_NEAREST for symbol in symbols]

    def described(lines: dict[str, str], symbols: list[str]) -> list[float]:
        trait = lines.get("Trait") or lines["Disease"]
        return [_shared_words(trait, tools["gene_info"](symbol)["description"]) for symbol in symbols]

    scores = {"random": _equal, "nearest_gene": nearest, "pathogenic_variants": _pathogenic(lake)}
    return {name: _best(one) for name, one in (scores | {"description": described}).items()}


def variant_baselines(lake: Lake) -> Baselines:
    """Baselines of gwas_variant_prioritization, by name."""
    tools = tool_functions(lake)

    def known(lines: dict[str, str], rsids: list[str]) -> list[float]:
        return [min(1, len(tools["variant_info"](rsid))) for rsid in rsids]

    def described(lines: dict[str, str], rsids: list[str]) -> list[float]:
        places = _VARIANT.findall(lines["Variants"])
        genes = [tools["nearest_genes"](chromosome, int(position), top=1)[0][0] for _, chromosome, position in places]
        return [_shared_words(lines["Trait"], tools["gene_info"](gene)["description"]) for gene in genes]

    return {name: _best(one) for name, one in (("random", _equal), ("in_clinvar", known), ("description", described))}


def screen_baselines(lake: Lake, training_hits: set[str]) -> Baselines:
    """Baselines of screen_gene_retrieval, by name; no tool knows screens."""

    def hits(lines: dict[str, str], symbols: list[str]) -> list[float]:
        return [symbol in training_hits for symbol in symbols]

    scores = {"random": _equal, "majority": hits, "pathogenic_variants": _pathogenic(lake)}
    return {name: _best(one) for name, one in scores.items()}


def _pathogenic(lake: Lake) -> Scores:
    counted = tool_functions(lake)["count_pathogenic_variants"]
    return lambda lines, symbols: [counted(symbol) for symbol in symbols]


def _equal(lines: dict[str, str], candidates: list[str]) -> list[float]:
    return [0.0] * len(candidates)


def _shared_words(text: str, other: str) -> int:
    return len({*_WORD.findall(text.lower())} & {*_WORD.findall(other.lower())})


def _best(scores: Scores) -> Callable[[Instance], str]:
    """Answers with the candidate of the highest score; a tie is broken at random, so that order earns nothing."""

    def answer(instance: Instance) -> str:
        lines, candidates = read_prompt(instance.prompt)
        values = np.array(scores(lines, candidates), float)
        rng = np.random.default_rng(zlib.crc32(instance.id.encode()))
        return candidates[int(rng.choice(np.flatnonzero(values == values.max())))]

    return answer
