"""What is asked and how it is graded. Tasks are found by name (`get_task`); `grade` needs no task object.

The tasks of `public_tier` need data that `make data` fetches, and are found there, not in `task_names`.
The benchmarks' own questions are no tasks: `eval1` and `lab_bench` load them for evaluation alone.
"""

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError
from biomni_lib.lake import Lake
from biomni_lib.tasks.base import Instance, Task, refuse_evaluation_only
from biomni_lib.tasks.grading import grade, ids_given
from biomni_lib.tasks.phenotypes import PatientGeneDetection, RareDiseaseDiagnosis
from biomni_lib.tasks.public_tier import PUBLIC_TASKS, data_lacking

_TASKS = {task.name: task for task in (RareDiseaseDiagnosis, PatientGeneDetection)}

__all__ = [
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
    """Names of all tasks that can be trained on."""
    return list(_TASKS)


def get_task(name: str, lake: Lake, data_config: DataConfig, seed: int) -> Task:
    """A task over a lake.

    Args:
        data_config: how many instances a split has and how the patients are drawn.
        seed: of the training instances; dev and held-out instances do not depend on it.
    Raises: ConfigError for an unknown task.
    """
    if name not in _TASKS:
        raise ConfigError(f"unknown task {name!r}; the tasks are {', '.join(_TASKS)}")
    return _TASKS[name](lake, data_config, seed)
