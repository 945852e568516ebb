"""The tasks that need the public tier, and which of them have their data here.

They stand apart from `task_names()`, whose tasks need bundled data alone.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from biomni_lib.lake.datasets import public_manifests
from biomni_lib.lake.public import REMEDY
from biomni_lib.tasks.curated import CuratedTask
from biomni_lib.tasks.drug_targets import GwasCausalGenePharmaprojects
from biomni_lib.tasks.gwas import GwasCausalGeneGwasCatalog, GwasCausalGeneOpenTargets
from biomni_lib.tasks.screens import ScreenGeneRetrieval
from biomni_lib.tasks.variants import GwasVariantPrioritization

PUBLIC_TASKS: dict[str, type[CuratedTask[Any]]] = {
    task.name: task
    for task in (
        GwasCausalGeneOpenTargets,
        GwasCausalGenePharmaprojects,
        GwasCausalGeneGwasCatalog,
        GwasVariantPrioritization,
        ScreenGeneRetrieval,
    )
}


def data_lacking(lake_dir: Path) -> dict[str, str]:
    """What each task of the public tier lacks, and the remedy; empty for a task whose data are there.

    Args:
        lake_dir: folder of the bundled lake; the public tier lies beside it.
    Returns: text by name of every task, in the order of `PUBLIC_TASKS`.
    Raises: DataError for a data set that is there and broken.
    """
    return {name: lacking(lake_dir, task.data_sets) for name, task in PUBLIC_TASKS.items()}


def lacking(lake_dir: Path, data_sets: Iterable[str]) -> str:
    """Which of some data sets of the public tier are not built, and the remedy; empty when all are."""
    built = public_manifests(lake_dir)
    absent = [one for one in data_sets if one not in built]
    return f"the data of {', '.join(absent)} are not built; {REMEDY}" if absent else ""
