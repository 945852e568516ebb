"""All tasks side by side, with and without the public tier."""

import shutil
from pathlib import Path

import pytest

from biomni_lib.config import RunConfig
from biomni_lib.lake import Lake
from biomni_lib.stages import task_survey
from biomni_lib.tasks import BUNDLED_TASKS, PUBLIC_TASKS, task_names
from biomni_lib.tasks.one_call import EASY_ABOVE, LOOKUPS
from tests.toy_gwas import build_toy
from tests.toy_patients import GENES, ToyPatients


@pytest.fixture
def bundled(config: RunConfig, lake_dir: Path) -> Lake:
    """A copy of the bundled lake in the run's folder."""
    shutil.copytree(lake_dir, config.lake_dir)
    return Lake.open(config.lake_dir)


@pytest.fixture
def with_genes(bundled: Lake, config: RunConfig, tmp_path: Path) -> Lake:
    """With made-up associations, targets and screens beside it."""
    build_toy(config.lake_dir, tmp_path / "files")
    return Lake.open(config.lake_dir)


def test_every_task_has_a_row_and_says_what_it_lacks(config: RunConfig, bundled: Lake) -> None:
    table = task_survey.task_table(config)
    assert list(table.index) == task_names() and len(table) == 10
    assert set(table.index[table["trained"]]) == set(config.data.tasks)
    assert table["licence"].ne("").all() and table["tools"].ne("").all()
    for name, lacking in table["lacking"].items():
        assert ("make data" in lacking) == (name in PUBLIC_TASKS)
    assert list(task_survey.open_every_task(config, bundled)) == list(BUNDLED_TASKS)
    assert task_survey.examples({}, PUBLIC_TASKS, config).count("BIOMNI_DATA_MIRROR") == len(PUBLIC_TASKS)


def test_with_the_public_tier_nothing_is_lacking(config: RunConfig, with_genes: Lake) -> None:
    assert task_survey.task_table(config)["lacking"].eq("").all()
    every = task_survey.open_every_task(config, with_genes)
    assert list(every) == task_names()
    shown = task_survey.examples(every, every, config)
    assert shown.count("Task: ") == shown.count("\ngold: ") == 10
    assert max(map(len, shown.splitlines())) < task_survey.LINE + 30


def test_no_two_splits_of_a_task_share_what_they_must_not(config: RunConfig, with_genes: Lake) -> None:
    every = task_survey.open_every_task(config, with_genes)
    sizes = task_survey.size_table(every)
    assert (sizes["shared"] == 0).all() and (sizes["different"] > 2).all()
    for name, task in every.items():
        assert sizes.loc[name, "train"] == len(task.instances("train"))


def test_the_best_single_call_stands_beside_the_stated_rate(config: RunConfig, bundled: Lake) -> None:
    every = task_survey.open_every_task(config, bundled)
    table = task_survey.one_call_table(every, bundled, 2)
    assert list(table.index) == list(every) and (table["n"] == 2).all()
    assert table["rate"].between(0, 1).all() and (table["rate"] <= table["offered"]).all()
    told = table["stated rate"].to_dict()
    assert {name for name, rate in told.items() if rate == "exempt"} == set(LOOKUPS)
    assert {rate for rate in told.values() if rate != "exempt"} == {EASY_ABOVE}


def test_what_is_shared_is_counted(config: RunConfig, bundled: Lake) -> None:
    """A task whose splits are all the same shares everything."""
    task = task_survey.open_every_task(config, bundled)["crispr_delivery"]
    again = task.instances("dev")
    task.instances = lambda split: again  # type: ignore[method-assign]
    row = task_survey.size_table({"crispr_delivery": task}).loc["crispr_delivery"]
    assert row["shared"] == row["different"] == len(again)


def test_published_patients_are_told_by_arm_or_named_as_lacking(
    config: RunConfig, bundled: Lake, tmp_path: Path
) -> None:
    assert "make data" in task_survey.real_patient_table(config, bundled).loc["published patients", "lacking"]
    ToyPatients(bundled).build(config.lake_dir, tmp_path / "files")
    table = task_survey.real_patient_table(config, Lake.open(config.lake_dir))
    assert len(table) == 4 and (table["shared"] == 0).all() and (table["overlap"] >= table["random"]).all()
    assert table.loc["patient_gene_detection, leaky", "train"] == 3 * GENES
