"""Is an answer right? Binary, deterministic, and total: any answer gets a score, none raises.

The rules are those of the Biomni-Eval1 scorers, by kind of answer: one word (`words`: a letter, a gene symbol, a
variant), or ids in a JSON object (`objects`: a disease, genes). Their known weaknesses are not repeated: an OMIM number
is a number however it is written, several right genes are fine, and an answer that is mostly wrong genes is a guess,
not an answer. A gold that names nothing is matched by nothing.
Not here: half credit for a second choice, which only training knows (`biomni_lib.rewards`).
"""

from collections.abc import Callable
from typing import NamedTuple

from biomni_lib.errors import ConfigError
from biomni_lib.tasks.grading.objects import disease_ids, gene_ids, genes_answer, grade_disease, grade_genes
from biomni_lib.tasks.grading.words import grade_letter, grade_symbol, grade_variant, words_given


class Rule(NamedTuple):
    """How one kind of answer is read.

    Attributes:
        grade: (answer, gold, strict) to 1.0 or 0.0. ids: answer to the distinct ids it gives.
        answer: gold to an answer in the output format.
    """

    grade: Callable[[str, str, bool], float]
    ids: Callable[[str], set[str]]
    answer: Callable[[str], str] = str


_LETTER, _SYMBOL, _VARIANT = (Rule(by, words_given) for by in (grade_letter, grade_symbol, grade_variant))

_RULES = {
    "crispr_delivery": _LETTER,
    "gwas_causal_gene_gwas_catalog": _SYMBOL,
    "gwas_causal_gene_opentargets": _SYMBOL,
    "gwas_causal_gene_pharmaprojects": _SYMBOL,
    "gwas_variant_prioritization": _VARIANT,
    "lab_bench_dbqa": _LETTER,
    "lab_bench_seqqa": _LETTER,
    "rare_disease_diagnosis": Rule(grade_disease, disease_ids),
    "patient_gene_detection": Rule(grade_genes, gene_ids, genes_answer),
    "screen_gene_retrieval": _SYMBOL,
    "hle": _LETTER,
}
"""The benchmark's ten tasks, and `hle`, for which its scorer has a rule but its data no instance."""


def grade(task_name: str, answer: str | None, gold: str, *, strict: bool = False) -> float:
    """Score of an answer: 1.0 when right, else 0.0.

    Args:
        task_name: one of the benchmark's tasks, or `hle`.
        answer: what stood in the solution block; None when there was none.
        gold: the instance's gold answer: a letter, a gene symbol, a variant, a JSON object with OMIM_ID, or Ensembl ids
            separated by commas.
        strict: for training rewards: no more ids than the gold has may be given, so that hedging earns nothing.
    Raises: ConfigError for an unknown task; nothing for any answer or gold.
    """
    rule = _rule(task_name)
    if not isinstance(answer, str) or not isinstance(gold, str):
        return 0.0
    return rule.grade(answer, gold, strict)


def ids_given(task_name: str, answer: str | None) -> int:
    """How many different ids an answer gives, right or wrong: 0 for none, more than 1 when it hedges.

    Where one word is asked for, the words count: a sentence has as many ids as words, and is wrong as a list of ids is.
    Raises: ConfigError for an unknown task; nothing for any answer.
    """
    rule = _rule(task_name)
    return len(rule.ids(answer)) if isinstance(answer, str) else 0


def gold_answer(task_name: str, gold: str) -> str:
    """The gold as an answer in the task's output format, which scores 1. Raises: ConfigError for an unknown task."""
    return _rule(task_name).answer(gold)


def _rule(task_name: str) -> Rule:
    if task_name not in _RULES:
        raise ConfigError(f"unknown task {task_name!r}; the tasks are {', '.join(_RULES)}")
    return _RULES[task_name]
