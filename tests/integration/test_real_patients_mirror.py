"""The published patients as they are: how many each arm has, and what tells them apart from the simulated ones.

Needs the folder that BIOMNI_DATA_MIRROR names.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.lake.datasets import DATA_SETS
from biomni_lib.lake.public import MIRROR, obtain
from biomni_lib.lake.writing import replacing, write_tables
from biomni_lib.tasks import Instance, Task
from biomni_lib.tasks.real_patients import PER_GENE, real_patient_tasks
from biomni_lib.tools.scoring import shown_terms

pytestmark = [
    pytest.mark.skipif(not os.environ.get(MIRROR), reason=f"{MIRROR} names no folder of public files"),
    pytest.mark.timeout(600),
]

ALL = DataConfig(dev_instances=9999, heldout_instances=9999)


@pytest.fixture(scope="module")
def real(lake_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The bundled lake with the genome and the patients beside it."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "lake").symlink_to(lake_dir)
    for data_set in DATA_SETS:
        if data_set.name in ("genome", "patients"):
            files = {source: obtain(source, folder / "none", download=False) for source in data_set.sources}
            tables, arrays = data_set.build(files)
            with replacing(data_set.folder(folder / "lake")) as staging:
                write_tables(tables, staging, data_set.sources, arrays)
    return Lake.open(folder / "lake")


@pytest.fixture(scope="module")
def tasks(real: Lake) -> dict[str, Task]:
    return real_patient_tasks(real, ALL, 0)


@pytest.fixture(scope="module")
def examined(tasks: dict[str, Task]) -> dict[str, list[Instance]]:
    """Dev and held-out together, by task and arm."""
    return {name: task.instances("dev") + task.instances("heldout") for name, task in tasks.items()}


def test_each_arm_has_patients_enough_to_tell_something(tasks: dict[str, Task]) -> None:
    for name, task in tasks.items():
        counts = Counter(one.meta["gene"] for one in task.instances("heldout"))
        assert max(counts.values()) == PER_GENE
        assert (len(counts), sum(counts.values())) == ((40, 191) if name.endswith("leak-free") else (53, 307))


def test_the_leak_is_worth_something(tasks: dict[str, Task]) -> None:
    """The same heuristic finds patients whose papers the annotations cite more often, by 0.1 and more."""
    for task in ("rare_disease_diagnosis", "patient_gene_detection"):
        free, leaky = (_rate(tasks[f"{task}, {arm}"]) for arm in ("leak-free", "leaky"))
        assert 0.5 < free < free + 0.1 < leaky < 1


LEAKY = pytest.param(
    "leaky",
    marks=pytest.mark.xfail(
        strict=True,
        reason="annotations taken from the patients' own papers tell: the best described gene is right in 25%",
    ),
)


@pytest.mark.parametrize("arm", ["leak-free", LEAKY])
def test_candidates_alone_do_not_tell(real: Lake, examined: dict[str, list[Instance]], arm: str) -> None:
    """Choosing by how much is known of a gene, or how much of it with a frequency, is little better than chance."""

    def terms(gene: str) -> float:
        return len(shown_terms(real.gene_closure, real.gene_row(gene)))

    def counted(gene: str) -> float:
        return float(np.mean(~np.isnan(real.gene_profiles.frequencies[real.gene_row(gene)])))

    for instances in (some for name, some in examined.items() if name.endswith(f", {arm}")):
        for known in (terms, counted):
            for sign in (1, -1):
                right = np.mean([_share(one, lambda gene, of=known, by=sign: by * of(gene)) for one in instances])
                assert abs(right - 1 / ALL.candidates) < 0.08


def _rate(task: Task) -> float:
    instances, answer = task.instances("heldout"), task.baselines()["overlap"]
    return float(np.mean([task.grade(one, answer(one)) for one in instances]))


def _share(instance: Instance, known: Callable[[str], float]) -> float:
    """Chance that a random one of the candidates of which most is known is the right one."""
    values = {gene: known(gene) for gene in instance.meta["candidates"]}
    best = [gene for gene, value in values.items() if value == max(values.values())]
    return (instance.meta["gene"] in best) / len(best)
