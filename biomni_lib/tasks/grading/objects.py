"""Answers of ids in an object: `{"OMIM_ID": ...}` and `{"causal_gene": [...]}`, as JSON or as a Python dict literal.

Departs from the benchmark: an OMIM number is a number however it is written; several right genes are fine; at least
half of the genes given must be right, so that listing every candidate scores 0; a key that comes twice is two answers,
and wrong. How deep an answer may be nested is a number of its own, not what is left of the interpreter's stack.
"""

import ast
import json
import re

LONGEST_ANSWER = 20_000
"""Characters. A right answer has under a hundred; anything longer is a flood."""
LONGEST_OMIM = 40
"""Characters of one OMIM id with its prefix and blanks."""
MOST_BRACKETS = 100
"""Opening brackets, of any kind. A right answer has two, and any in the disease's name."""

_FENCE = re.compile(r"```[a-zA-Z]*\s*")
_OMIM = re.compile(r"(?:O?MIM)?\s*:?\s*#?\s*([0-9]{6})", re.IGNORECASE | re.ASCII)
_ENSEMBL = re.compile(r"(ENSG[0-9]{11})(?:\.[0-9]{1,3})?", re.IGNORECASE | re.ASCII)


def grade_disease(answer: str, gold: str, strict: bool = False) -> float:
    """1.0 when the answer's OMIM_ID is the gold's: `154700`, `"154700"` or `"OMIM:154700"`; a list of ids is wrong."""
    right, given = (_omim(_object(text).get("OMIM_ID")) for text in (gold, answer))
    return float(right is not None and given == right)


def grade_genes(answer: str, gold: str, strict: bool = False) -> float:
    """1.0 when the answer's causal_gene (a list or one value) shares an id with the gold.

    At least half of the genes given must be right; with `strict`, no more may be given than the gold has.
    """
    right, given = _genes(gold), gene_ids(answer)
    found = right & given
    if not found or (strict and len(given) > len(right)):
        return 0.0
    return float(2 * len(found) >= len(given))


def disease_ids(answer: str) -> set[str]:
    """Different values that an answer gives as OMIM_ID, numbers in one form. What is no number still counts."""
    return {str(_omim(part) or _text(part)) for part in _listed(_object(answer).get("OMIM_ID"))}


def gene_ids(answer: str) -> set[str]:
    """Different values that an answer gives as causal_gene, Ensembl ids in one form. What is no id still counts."""
    return _genes(_object(answer).get("causal_gene"))


def genes_answer(gold: str) -> str:
    """An answer that gives the gold's ids."""
    return json.dumps({"causal_gene": [gene.strip() for gene in gold.split(",")]})


def _object(text: str) -> dict:
    """The JSON object or Python dict literal that a text consists of; {} for anything else."""
    text = text.strip()
    if len(text) > LONGEST_ANSWER or sum(map(text.count, "[{(")) > MOST_BRACKETS:
        return {}
    text = _unfenced(text)
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        value = _literal(text)
    return value if isinstance(value, dict) else {}


def _unfenced(text: str) -> str:
    """The inside of a Markdown code block; any other text as it is."""
    lines = text.split("\n")
    fenced = len(lines) > 1 and lines[-1] == "```" and _FENCE.fullmatch(lines[0])
    return "\n".join(lines[1:-1]).strip() if fenced else text


def _literal(text: str) -> object:
    if not (text.startswith("{") and text.endswith("}")):
        return None
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.Dict):
            return None
        keys = [key.value for key in tree.keys if isinstance(key, ast.Constant)]
        return _unique(list(zip(keys, map(ast.literal_eval, tree.values), strict=True)))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _unique(pairs: list[tuple]) -> dict:
    """A dict of pairs; ValueError when a key comes twice, which would be two answers."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key comes twice")
    return made


def _omim(value: object) -> int | None:
    """The number of an OMIM id, or None. Booleans and fractions are no ids."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        value = int(value)
    if isinstance(value, int):
        return value if 100_000 <= value <= 999_999 else None
    text = _text(value)
    match = _OMIM.fullmatch(text) if len(text) <= LONGEST_OMIM else None
    return int(match[1]) if match else None


def _genes(value: object) -> set[str]:
    """Different ids of a list or one value, in one form: Ensembl ids without version."""
    texts = [_text(part) for part in _listed(value)]
    return {match[1].upper() if (match := _ENSEMBL.fullmatch(text)) else text for text in texts}


def _listed(value: object) -> list[object]:
    """The parts of a list or one value, of texts what commas separate; what is empty is left out."""
    items = value if isinstance(value, list | tuple) else [value]
    parts = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
    return [part for part in parts if not (part is None or (isinstance(part, str) and not part.strip()))]


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else f"not an id: {type(value).__name__}"
