"""What must not be shared between splits, task by task: the one place where it is declared.

A sort of identifier is compared over all tasks that have it: a gene held out in one GWAS task is held out in all. Of
the own splits everything is read that they promise to keep apart, candidates and options included. Of a benchmark, and
of the own questions beside it, only what is asked and answered: its lists of candidates name half the genome.
Sorts with `apart` false are counted and reported, and no failure: traits of GWAS and hits of screens recur by nature,
and one paper reports loci of every chromosome.
Not covered: entities that a benchmark's question names in words unknown to the lake.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from biomni_lib.lake import Lake
from biomni_lib.lake.columns import Groups
from biomni_lib.tasks.base import EVALUATION_ONLY, Instance
from biomni_lib.tasks.crispr_cases import Case, load_cases
from biomni_lib.tasks.grading.objects import disease_ids, gene_ids, genes_answer

Reader = Callable[[Instance, Lake], set[str]]

_OPTIONS = re.compile(r"^(?:Options|Answers?|Choices):|^\W?[Aa][.:)] ", re.MULTILINE)
DNA_WORD = 24
"""Bases. The records of two splits share no word of so many on either strand (`lake/data/README.md`)."""


class Sort(NamedTuple):
    """A sort of identifier.

    Attributes:
        name: under which it is compared. read: of what the own splits keep apart.
        asked: of what a question asks and its answer, for comparison with a benchmark; None where no benchmark has it.
        apart: whether sharing one is a leak.
    """

    name: str
    read: Reader
    asked: Reader | None
    apart: bool = True


def is_benchmark(instance: Instance) -> bool:
    """Whether an instance is of Eval1 or LAB-Bench."""
    return instance.id.startswith(EVALUATION_ONLY)


def own_text(instance: Instance) -> str:
    """What of a prompt is a text of its own: the values of the lines that tell two questions of a task apart.

    Of a benchmark the whole prompt, whose form is unknown here.
    """
    if is_benchmark(instance):
        return instance.prompt
    lines = [re.match(r"(?:([\w ]+): |[a-f]\. )?(.*)", line) for line in instance.prompt.splitlines()]
    wanted = TEXT_LINES.get(instance.task)
    kept = (line for line in lines if line and line[1] not in ("Task", "Output format") and line[2] != "Options:")
    return "\n".join(line[2] for line in kept if wanted is None or line[1] in wanted)


def _ids(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text))


def _genes_named(instance: Instance, lake: Lake) -> set[str]:
    return _ids(r"ENSG\d{11}", instance.prompt) | _gold_genes(instance)


def _gold_genes(instance: Instance) -> set[str]:
    """Genes of a patient: the gold, or what the simulation or the published case says."""
    gold = gene_ids(genes_answer(instance.gold)) if instance.task == "patient_gene_detection" else set()
    return {gene for gene in gold if gene.startswith("ENSG")} | set(filter(None, [instance.meta.get("gene")]))


def _gold_diseases(instance: Instance) -> set[str]:
    gold = disease_ids(instance.gold) if instance.task == "rare_disease_diagnosis" else set()
    return gold | set(filter(None, [instance.meta.get("disease")]))


def _diseases_named(instance: Instance, lake: Lake) -> set[str]:
    """The disease, and every disease of every gene named."""
    return _gold_diseases(instance) | _linked(_genes_named(instance, lake), lake.gene_row, lake.diseases_of, lake.omim)


def _diseases_asked(instance: Instance, lake: Lake) -> set[str]:
    found = _gold_diseases(instance)
    return found or _linked(_gold_genes(instance), lake.gene_row, lake.diseases_of, lake.omim)


def _genes_asked(instance: Instance, lake: Lake) -> set[str]:
    found = _gold_genes(instance)
    return found or _linked(_gold_diseases(instance), lake.disease_row, lake.genes_of, lake.ensembl_id)


def _linked(ids: set[str], row_of: Callable[[str], int], links: Groups, name: Callable[[int], str]) -> set[str]:
    """What the lake links to some ids; ids that it does not know have no links."""
    found: set[str] = set()
    for id in ids:
        try:
            found.update(name(row) for row in links[row_of(id)])
        except ValueError:
            continue
    return found


def _asked(instance: Instance) -> str:
    """The question and its right option, where the options are lettered."""
    options = dict(re.findall(r"^\W?([A-Za-z])[.:)] (.+)$", instance.prompt, re.MULTILINE))
    right = {letter.lower(): option for letter, option in options.items()}.get(instance.gold.strip().lower(), "")
    question = re.split(
        r"^(?:Options|Answers?|Choices):|^\W?[Aa][.:)] ", instance.prompt, maxsplit=1, flags=re.MULTILINE
    )
    return f"{question[0]}\n{right}"


def _entities(pattern: str) -> Reader:
    return lambda instance, lake: _ids(pattern, instance.prompt)


def _db_genes_asked(instance: Instance, lake: Lake) -> set[str]:
    text = _asked(instance)
    symbols = _symbols(lake)
    return _ids(r"ENSG\d{11}", text) | {symbols[word] for word in re.findall(r"[A-Z][\w-]+", text) if word in symbols}


def _db_diseases_asked(instance: Instance, lake: Lake) -> set[str]:
    text = _asked(instance)
    if is_benchmark(instance):
        return {omim for name, omim in _disease_names(lake).items() if name in text.lower()}
    return _ids(r"OMIM:(\d{6})", text)


def _terms_asked(instance: Instance, lake: Lake) -> set[str]:
    """The term whose parent is asked; other kinds show terms of any split. Of a benchmark every term named."""
    if is_benchmark(instance):
        return _ids(r"HP:\d{7}", instance.prompt)
    return _ids(r"HP:\d{7}", instance.meta["facts"]["Phenotype"]) if instance.meta["kind"] == "term_parent" else set()


@cache
def _symbols(lake: Lake) -> dict[str, str]:
    return {lake.symbols[row]: lake.ensembl_id(row) for row in range(len(lake.ensembl_ids))}


@cache
def _disease_names(lake: Lake) -> dict[str, str]:
    return {lake.disease_names[row].lower(): lake.omim(row) for row in range(len(lake.omims))}


def _causal_gene(instance: Instance, lake: Lake) -> set[str]:
    """Symbol of the gene; of a variant, of the gene that its sentinel is held to act through."""
    if instance.task != "gwas_variant_prioritization":
        return {instance.gold.strip().upper()}
    number = str(instance.meta.get("gene", "")).removeprefix("ENSG")
    return {lake.genome.symbol_of(int(number)).upper() or instance.meta["gene"]} if number else set()


def _meta(key: str) -> Reader:
    def read(instance: Instance, lake: Lake) -> set[str]:
        value = instance.meta.get(key)
        return {str(one) for one in (value if isinstance(value, list | tuple) else [value]) if one}

    return read


def _gold(instance: Instance, lake: Lake) -> set[str]:
    return {instance.gold.strip()}


def _dna_words(instance: Instance, lake: Lake) -> set[str]:
    """Words of every sequence shown, each as the lesser of its two strands."""
    words = set()
    for text in re.findall(rf"[ACGT]{{{DNA_WORD},}}", instance.prompt.upper()):
        other, size = text.translate(str.maketrans("ACGT", "TGCA"))[::-1], len(text)
        words |= {
            min(text[at : at + DNA_WORD], other[size - at - DNA_WORD : size - at]) for at in range(size - DNA_WORD + 1)
        }
    return words


def _situation(instance: Instance, lake: Lake) -> set[str]:
    case = _cases().get(instance.meta.get("case", ""))
    return {f"{case.goal} in {case.cells}"} if case else set()


def _reference(instance: Instance, lake: Lake) -> set[str]:
    case = _cases().get(instance.meta.get("case", ""))
    return {case.reference.identifier} if case and case.reference else set()


@cache
def _cases() -> dict[str, Case]:
    return {case.id: case for case in load_cases()}


_PATIENTS = (
    Sort("disease", _diseases_named, _diseases_asked),
    Sort("disease gene", _genes_named, _genes_asked),
    Sort("published patient", _meta("patient"), None),
    Sort("patient's paper", _meta("paper"), None),
)
_LOCI = (
    Sort("causal gene", _causal_gene, _causal_gene),
    Sort("chromosome", _meta("chromosome"), None),
    Sort("trait", _meta("trait"), None, apart=False),
    Sort("GWAS paper", _meta("papers"), None, apart=False),
)
SORTS: dict[str, tuple[Sort, ...]] = {
    "rare_disease_diagnosis": _PATIENTS,
    "patient_gene_detection": _PATIENTS,
    "gwas_causal_gene_opentargets": _LOCI,
    "gwas_causal_gene_pharmaprojects": _LOCI,
    "gwas_causal_gene_gwas_catalog": _LOCI,
    "gwas_variant_prioritization": (*_LOCI, Sort("variant", _gold, _gold)),
    "screen_gene_retrieval": (Sort("study", _meta("study"), None), Sort("hit", _gold, _gold, apart=False)),
    "lab_bench_dbqa": (
        Sort("disease", _entities(r"OMIM:(\d{6})"), _db_diseases_asked),
        Sort("disease gene", _entities(r"ENSG\d{11}"), _db_genes_asked),
        Sort("term asked about", _terms_asked, _terms_asked),
    ),
    "lab_bench_seqqa": (
        Sort("record", _meta("record"), None),
        Sort(f"word of {DNA_WORD} bases", _dna_words, _dna_words),
    ),
    "crispr_delivery": (
        Sort("situation", _situation, None),
        Sort("case's reference", _reference, None),
    ),
}
"""Task to its sorts of identifier; every task of the benchmark is here."""

_PLACED = ("Candidate genes", "Variants")
TEXT_LINES: dict[str, tuple[str, ...]] = {
    "gwas_causal_gene_opentargets": _PLACED,
    "gwas_causal_gene_pharmaprojects": _PLACED,
    "gwas_causal_gene_gwas_catalog": _PLACED,
    "gwas_variant_prioritization": _PLACED,
    "lab_bench_seqqa": (),
    "crispr_delivery": ("Case",),
}
"""Lines that tell the questions of a task apart, where not all do: traits recur, the six methods stand in each case,
and questions about sequences differ by these, which are compared as words of bases."""
