"""All tasks side by side, for notebook 01: where their data come from, an example, sizes, what no two splits share.

A task whose data are not built is named with the remedy; nothing is left out silently.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from biomni_lib.config import RunConfig
from biomni_lib.lake import Lake, sources
from biomni_lib.lake.datasets import DATA_SETS
from biomni_lib.stages.audit import best_calls
from biomni_lib.stages.build_data import baseline_scores
from biomni_lib.tasks import PUBLIC_TASKS, Instance, Task, data_lacking, get_task, task_names
from biomni_lib.tasks.one_call import EASY_ABOVE, LOOKUPS
from biomni_lib.tasks.real_patients import patients_lacking, real_patient_tasks
from biomni_lib.tasks.splits import SPLITS
from biomni_lib.tools import domains_for

_PATIENTS = ("disease, candidate gene", ("disease", "candidates"))
_LOCI = ("gene, chromosome", ("gene", "chromosome"))
UNITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rare_disease_diagnosis": _PATIENTS,
    "patient_gene_detection": _PATIENTS,
    "lab_bench_dbqa": ("gene, disease", ("Gene", "Disease")),
    "lab_bench_seqqa": ("sequence", ("record",)),
    "crispr_delivery": ("case", ("case",)),
    "gwas_causal_gene_opentargets": _LOCI,
    "gwas_causal_gene_pharmaprojects": _LOCI,
    "gwas_causal_gene_gwas_catalog": _LOCI,
    "gwas_variant_prioritization": _LOCI,
    "screen_gene_retrieval": ("study", ("study",)),
}
"""What no two splits of a task may share, in words and as keys of `Instance.meta` or of the facts in it."""
_OWN = "CC0-1.0, written for this project"
_BUNDLED = {
    "lab_bench_seqqa": sources.SEQUENCES.licence,
    "crispr_delivery": _OWN,
}
"""Licences of what is not of the lake; all other bundled tasks are of the HPO and the gene table."""
_HPO = f"{sources.ANNOTATIONS.licence}; genes {sources.GENES.licence}"
LINE = 150
"""Characters of a prompt's line that an example shows."""


def open_every_task(config: RunConfig, lake: Lake) -> dict[str, Task]:
    """Every task whose data are here, by name, whether the run trains on it or not."""
    lacking = data_lacking(config.lake_dir)
    return {name: get_task(name, lake, config.data, config.seed) for name in task_names() if not lacking.get(name)}


def task_table(config: RunConfig) -> pd.DataFrame:
    """One row a task: whether the run trains on it, its data, their licence, the tools in its prompt, what it lacks.

    Returns: columns trained, data, licence, tools, lacking (empty when its data are here, else why and the remedy).
    """
    lacking = data_lacking(config.lake_dir)
    rows = [
        {
            "task": name,
            "trained": name in config.data.tasks,
            "data": ", ".join(PUBLIC_TASKS[name].data_sets) if name in PUBLIC_TASKS else "bundled",
            "licence": _licence(name),
            "tools": ", ".join(domains_for(name)),
            "lacking": lacking.get(name, ""),
        }
        for name in task_names()
    ]
    return pd.DataFrame(rows).set_index("task")


def example(task: Task) -> str:
    """The first training question with its right answer, long lines cut."""
    first = task.instances("train")[0]
    lines = [*task.prompt(first).splitlines(), "", f"gold: {first.gold}"]
    return "\n".join(line if len(line) <= LINE else f"{line[:LINE]} ... ({len(line)} characters)" for line in lines)


def examples(tasks: Mapping[str, Task], names: Iterable[str], config: RunConfig) -> str:
    """An example of each named task, or what it lacks."""
    lacking = data_lacking(config.lake_dir)
    shown = (f"[{name}]\n{example(tasks[name]) if name in tasks else lacking[name]}" for name in names)
    return "\n\n".join(shown)


def size_table(tasks: Mapping[str, Task]) -> pd.DataFrame:
    """One row a task: instances of each split, what splits must not share, how many of these there are, and how many of
    them two splits share (0)."""
    rows = []
    for name, task in tasks.items():
        made = {split: task.instances(split) for split in SPLITS}
        what, keys = UNITS[task.name]
        splits_of = Counter(unit for instances in made.values() for unit in _units(instances, keys))
        counts = {"different": len(splits_of), "shared": sum(count > 1 for count in splits_of.values())}
        sizes = {split: len(instances) for split, instances in made.items()}
        rows.append({"task": name, **sizes, "disjoint in": what, **counts})
    return pd.DataFrame(rows).set_index("task")


def one_call_table(tasks: Mapping[str, Task], lake: Lake, most: int) -> pd.DataFrame:
    """How far the best single tool call goes in each task, beside the rate above which the task is made harder.

    Args:
        most: held-out instances tried of each task; `make audit` tries more.
    Returns: one row a task: tool, source, part, rate, offered, n (see `tasks.one_call`) and `stated rate`, which the
        twins of lookups are exempt from.
    """
    table = pd.DataFrame(best_calls(tasks, lake, most)).set_index("task").drop(columns="easy")
    table["stated rate"] = ["exempt" if name in LOOKUPS else EASY_ABOVE for name in table.index]
    return table


def real_patient_table(config: RunConfig, lake: Lake) -> pd.DataFrame:
    """Both tasks about patients on published ones, an arm a row: sizes of the splits, heuristics on dev.

    Returns: the columns of `size_table` and of `baseline_scores`; one row that says what is lacking when it is.
    """
    if why := patients_lacking(config.lake_dir):
        return pd.DataFrame({"task": ["published patients"], "lacking": [why]}).set_index("task")
    tasks = real_patient_tasks(lake, config.data, config.seed)
    return size_table(tasks).join(baseline_scores(tasks, "dev").set_index("task"))


def _units(instances: Iterable[Instance], keys: Iterable[str]) -> set[tuple[str, str]]:
    """Everything that instances name under some keys, each with its key."""
    told = [instance.meta.get("facts", {}) | instance.meta for instance in instances]
    return {(key, one) for meta in told for key in keys for one in _listed(meta.get(key, []))}


def _listed(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _licence(name: str) -> str:
    if name not in PUBLIC_TASKS:
        return _BUNDLED.get(name, _HPO)
    used = [one for data_set in DATA_SETS if data_set.name in PUBLIC_TASKS[name].data_sets for one in data_set.sources]
    return ", ".join(dict.fromkeys(source.licence for source in used))
