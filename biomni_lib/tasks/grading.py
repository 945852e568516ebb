"""Is an answer right? Binary, deterministic, and total: any answer gets a score, none raises.

The rules are those of the Biomni-Eval1 scorers, without their known weaknesses: an OMIM number is a number however it
is written, several right genes are fine, and an answer that is mostly wrong genes is a guess, not an answer.
"""

import ast
import json
import re

from biomni_lib.errors import ConfigError

LONGEST_ANSWER = 20_000
"""Characters. A right answer has under a hundred; anything longer is a flood."""

_FENCE = re.compile(r"\A```[a-zA-Z]*\s*\n(.*)\n```\Z", re.DOTALL)
_OMIM = re.compile(r"\A(?:O?MIM)?\s*:?\s*#?\s*([0-9]{6})\Z", re.IGNORECASE | re.ASCII)
_ENSEMBL = re.compile(r"\A(ENSG[0-9]{11})(?:\.[0-9]{1,3})?\Z", re.IGNORECASE | re.ASCII)


def grade(task_name: str, answer: str | None, gold: str, *, strict: bool = False) -> float:
    """Score of an answer: 1.0 when right, else 0.0.

    Args:
        task_name: `rare_disease_diagnosis` or `patient_gene_detection`.
        answer: what stood in the solution block; None when there was none.
        gold: the instance's gold answer: a JSON object with OMIM_ID, or Ensembl ids separated by commas.
        strict: for training rewards: no more ids than the gold has may be given, so that hedging earns nothing.
    Raises: ConfigError for an unknown task; nothing for any answer or gold.
    """
    if task_name not in _GRADERS:
        raise ConfigError(f"unknown task {task_name!r}; the tasks are {', '.join(_GRADERS)}")
    if not isinstance(answer, str) or not isinstance(gold, str):
        return 0.0
    return _GRADERS[task_name](answer, gold, strict)


def grade_disease(answer: str, gold: str, strict: bool = False) -> float:
    """1.0 when the answer's OMIM_ID is the gold's: `154700`, `"154700"` or `"OMIM:154700"`; a list of ids is wrong."""
    right, given = (_omim(_object(text).get("OMIM_ID")) for text in (gold, answer))
    return float(right is not None and given == right)


def grade_genes(answer: str, gold: str, strict: bool = False) -> float:
    """1.0 when the answer's causal_gene (a list or one value) shares an id with the gold.

    At least half of the genes given must be right; with `strict`, no more may be given than the gold has.
    """
    right, given = _genes(gold), _genes(_object(answer).get("causal_gene"))
    found = right & given
    if not found or (strict and len(given) > len(right)):
        return 0.0
    return float(2 * len(found) >= len(given))


_GRADERS = {"rare_disease_diagnosis": grade_disease, "patient_gene_detection": grade_genes}


def _object(text: str) -> dict:
    """The JSON object or Python dict literal that a text consists of; {} for anything else."""
    text = text[: LONGEST_ANSWER + 1].strip()
    if len(text) > LONGEST_ANSWER:
        return {}
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        value = _literal(text)
    return value if isinstance(value, dict) else {}


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
    match = _OMIM.match(value.strip()) if isinstance(value, str) else None
    return int(match[1]) if match else None


def _genes(value: object) -> set[str]:
    """Distinct ids given, in one form: Ensembl ids without version. What is no id still counts as given."""
    listed = value if isinstance(value, list | tuple) else [value]
    parts = [part for item in listed for part in (item.split(",") if isinstance(item, str) else [item])]
    return {_gene(part) for part in parts if not (part is None or (isinstance(part, str) and not part.strip()))}


def _gene(value: object) -> str:
    text = value.strip() if isinstance(value, str) else f"not an id: {type(value).__name__}"
    match = _ENSEMBL.match(text)
    return match[1].upper() if match else text
