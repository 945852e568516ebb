"""What the scripted teacher writes about candidates: the gene of a locus, the variant of a trait, the hit of a screen.

The code weighs pieces of evidence, each a lookup with one tool or two, and prints the candidate of the greatest sum.
`lucky_guess` looks nothing up, `one_finding` one piece, `one_by_one` three in turn of which only the last is kept,
`all_findings` adds up all but one, `verified` turns to that one afterwards. The weights were chosen on the training
split, as those of a heuristic are. What decides remains partly unknown: the best strategy is far from perfect here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from biomni_lib.engines.scripted import Conversation
from biomni_lib.sft.turns import (
    ALL_FACTS,
    ANSWER,
    GUESS,
    NEXT,
    ONE_BY_ONE,
    ONE_FACT,
    VERIFY_FURTHER,
    copy_facts,
    execute,
    solution,
)
from biomni_lib.tasks.gene_baselines import read_prompt

_GENES = 'g = q.split("Candidate genes: ")[1].split(", ")\nh = {x: [x] for x in g}\n'
_VARIANTS = """v = re.findall(r"(rs\\d+) \\((\\w+):(\\d+)", q)
h = {r: [e for e, *_ in nearest_genes(c, int(p), top=5)] for r, c, p in v}
g = list(h)
"""
_TRAIT = 'w = q.partition(": ")[2].partition("\\n")[0]\n'
"""Code that reads the candidates `g`, the genes `h` of each, and the words `w` whose phenotypes are compared."""


class Evidence(NamedTuple):
    """Code that prepares a piece of evidence, and an expression: how much speaks for a candidate `x`."""

    prepare: str
    score: str


NEARNESS = Evidence(
    'c, p = re.search(r"chromosome (\\w+),\\D+(\\d+)", q).groups()\n'
    "d = {s: b for _, s, b in nearest_genes(c, int(p), top=100)}\n",
    "-math.log10(1 + d.get(x, 10**6) / 1000)",
)
PHENOTYPE = Evidence(
    """words = [w, *sorted(re.findall(r"[A-Za-z]{4,}", w), key=len, reverse=True)]
t = [id for id, _ in next(filter(None, map(search_terms, words)), [])]
def fit(y):
    try:
        return match_score(t, gene_info(y)["ensg"])
    except ValueError:
        return 0
""",
    "max(map(fit, h[x]))",
)
NAME = Evidence(
    'def parts(s):\n    return {y[n:n + 5] for y in re.findall("[a-z]{5,}", s.lower()) for n in range(len(y) - 4)}\n',
    'max(len(parts(w) & parts(gene_info(y)["description"])) for y in h[x])',
)
EXPRESSION = Evidence("", "math.log10(1 + sum(v for _, v in tissue_expression(x, top=10)))")
PATHOGENIC = Evidence("", "max(math.log10(1 + count_pathogenic_variants(y)) for y in h[x])")
PARALOGS = Evidence("", "len(paralogs_of(x, top=100))")


def _described(words: str) -> Evidence:
    """Whether a gene's description has one of some words."""
    return Evidence("", f'any(re.search("{words}", gene_info(y)["description"]) for y in h[x])')


DRUGGABLE = _described("receptor|channel|interleukin|transport|carrier|hormone|growth|hydrox|ase\\\\b")
ESSENTIAL = _described("transcription|mediator|ribosom|splic|proteasome|RNA|DNA|mitochond|chromatin|histone|complex")


class Kind(NamedTuple):
    """Code that reads a prompt's facts; the evidence with weights; the piece that `verified` adds, with its weight."""

    read: str
    evidence: tuple[tuple[float, Evidence], ...]
    further: tuple[float, Evidence]

    def pieces(self) -> list[Evidence]:
        """All evidence there is."""
        return [piece for _, piece in (*self.evidence, self.further)]


LOCUS = Kind(_GENES + _TRAIT, ((1, NEARNESS), (4, PHENOTYPE)), (0.5, DRUGGABLE))
REGION = Kind(_GENES + _TRAIT, ((3, PHENOTYPE), (1, DRUGGABLE)), (0.01, PARALOGS))
VARIANT = Kind(_VARIANTS + _TRAIT, ((1, PHENOTYPE), (0.2, NAME)), (0.1, PATHOGENIC))
SCREENED = (
    ("neuron", 'w = "neurodegeneration"\n'),
    ("", 'w = "immunodeficiency"\n'),
)
"""The phenotype of cells that fail, by a word of the screen's question; most screens are of immune cells."""


def kind_of(prompt: str) -> Kind:
    """How the candidates of a prompt are compared."""
    lines, _ = read_prompt(prompt)
    if "Screen" in lines:
        words = next(code for said, code in SCREENED if said in lines["Screen"])
        return Kind(_GENES + words, ((3, PHENOTYPE), (0.5, EXPRESSION), (1, ESSENTIAL)), (-0.03, PARALOGS))
    return next(kind for line, kind in (("Locus", LOCUS), ("Region", REGION), ("Variants", VARIANT)) if line in lines)


def offers_candidates(prompt: str) -> bool:
    """Whether a prompt asks for one of several genes of a place or a screen, or for one of several variants."""
    return bool(re.search(r"\n(?:Locus|Region|Variants|Screen): ", prompt))


def answer(seen: Conversation, rng: np.random.Generator) -> str:
    """The turn that answers the candidate which the code printed last; any candidate when it printed none."""
    candidates = read_prompt(seen.prompt)[1]
    printed = seen.observations[-1].strip()
    return solution(ANSWER, printed if printed in candidates else _any(candidates, rng))


def _any(candidates: list[str], rng: np.random.Generator) -> str:
    return str(rng.choice(candidates))


def _read(prompt: str) -> str:
    return f"{copy_facts(prompt)}import math\n{kind_of(prompt).read}"


def _best(score: str) -> str:
    return f"print(max(g, key=lambda x: {score}))"


def _lucky_guess(seen: Conversation, rng: np.random.Generator) -> str:
    return solution(GUESS, _any(read_prompt(seen.prompt)[1], rng))


def _one_finding(seen: Conversation, rng: np.random.Generator) -> str:
    if seen.turns:
        return answer(seen, rng)
    pieces = kind_of(seen.prompt).pieces()
    piece = pieces[int(rng.integers(len(pieces)))]
    return execute(ONE_FACT, _read(seen.prompt) + piece.prepare + _best(piece.score))


def _one_by_one(seen: Conversation, rng: np.random.Generator) -> str:
    pieces, done = kind_of(seen.prompt).pieces(), len(seen.turns)
    if done == 3:
        return answer(seen, rng)
    piece = pieces[rng.permutation(len(pieces))[done]]
    code = piece.prepare + _best(piece.score)
    return execute(NEXT, code) if done else execute(ONE_BY_ONE, _read(seen.prompt) + code)


def _all_findings(seen: Conversation, rng: np.random.Generator) -> str:
    if seen.turns:
        return answer(seen, rng)
    evidence = kind_of(seen.prompt).evidence
    prepare = "".join(piece.prepare for _, piece in evidence)
    total = " + ".join(f"{weight} * ({piece.score})" for weight, piece in evidence)
    return execute(ALL_FACTS, f"{_read(seen.prompt)}{prepare}f = lambda x: {total}\n{_best('f(x)')}")


def _verified(seen: Conversation, rng: np.random.Generator) -> str:
    if len(seen.turns) != 1:
        return _all_findings(seen, rng)
    weight, piece = kind_of(seen.prompt).further
    return execute(VERIFY_FURTHER, piece.prepare + _best(f"f(x) + {weight} * ({piece.score})"))


SCRIPTS: Mapping[str, Callable[[Conversation, np.random.Generator], str]] = {
    "lucky_guess": _lucky_guess,
    "one_finding": _one_finding,
    "one_by_one": _one_by_one,
    "all_findings": _all_findings,
    "verified": _verified,
}
