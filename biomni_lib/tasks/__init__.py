"""What is asked and how it is graded. Tasks are found by name (`get_task`); `grade` needs no task object.

`BUNDLED_TASKS` need what the environment brings, `PUBLIC_TASKS` need data that `make data` fetches.
The benchmarks' own questions are no tasks: `eval1` and `lab_bench` load them for evaluation alone.
"""

from collections.abc import Callable

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError
from biomni_lib.lake import Lake
from biomni_lib.tasks.base import Instance, Task, refuse_evaluation_only
from biomni_lib.tasks.crispr import CrisprDelivery
from biomni_lib.tasks.dbqa import LabBenchDbQA
from biomni_lib.tasks.grading import grade, ids_given
from biomni_lib.tasks.phenotypes import PatientGeneDetection, RareDiseaseDiagnosis
from biomni_lib.tasks.public_tier import PUBLIC_TASKS, data_lacking
from biomni_lib.tasks.seqqa import LabBenchSeqQA

BUNDLED_TASKS: dict[str, Callable[[Lake, DataConfig, int], Task]] = {
    task.name: task
    for task in (RareDiseaseDiagnosis, PatientGeneDetection, LabBenchDbQA, LabBenchSeqQA, CrisprDelivery)
}
_TASKS: dict[str, Callable[[Lake, DataConfig, int], Task]] = BUNDLED_TASKS | PUBLIC_TASKS

__all__ = [
    "BUNDLED_TASKS",
    "PUBLIC_TASKS",
    "Instance",
    "Task",
    "data_lacking",
    "get_task",
    "grade",
    "ids_given",
    "refuse_evaluation_only",
    "task_names",
]


def task_names() -> list[str]:
    """Names of all tasks that can be trained on: those of bundled data, then those of the public tier."""
    return list(_TASKS)


def get_task(name: str, lake: Lake, data_config: DataConfig, seed: int) -> Task:
    """A task over a lake.

    Args:
        data_config: how many instances a split has and how the patients are drawn.
        seed: of the training instances; dev and held-out instances do not depend on it.
    Raises: ConfigError for an unknown task; DataError when its data are not built, with the remedy.
    """
    if name not in _TASKS:
        raise ConfigError(f"unknown task {name!r}; the tasks are {', '.join(_TASKS)}")
    return _TASKS[name](lake, data_config, seed)
