"""The ablations' settings, tables and figures; the runs themselves are tested with the loop."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from biomni_lib.config import RunConfig, load_config
from biomni_lib.evaluate import ROWS
from biomni_lib.stages import ablations, results
from biomni_lib.stages.ablations import ABLATIONS, SPEED, ablated, summary_table

STEPS = 12


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(results, "results_dir", lambda: tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def rows(right: dict[str, int]) -> pd.DataFrame:
    """Answers of each ablation to ten instances of two tasks, so many of each ten right."""
    made = [
        {"task": task, "instance_id": str(n), "model": name, "seed": 0, "score": float(n < count), "format": 1.0}
        | {"tokens": 100, "turns": 2}
        for name, count in right.items()
        for task in ("a", "b")
        for n in range(10)
    ]
    return pd.DataFrame(made)


def curves() -> pd.DataFrame:
    made = [
        {"ablation": name, "step": step, "reward/correctness": step / STEPS, "reward/format": 1.0}
        | {"response/tokens": 100.0}
        | {metric: 1000.0 if step == 0 else float(number) for metric in SPEED.values()}
        for number, name in enumerate(ABLATIONS)
        for step in range(STEPS)
    ]
    return pd.DataFrame(made)


@pytest.mark.parametrize("preset", ["cpu", "smoke"])
@pytest.mark.parametrize("name", ABLATIONS)
def test_a_run_changes_what_it_says_and_its_sizes_alone(preset: str, name: str) -> None:
    config = load_config(preset)
    changed = ablated(config, ABLATIONS[name])
    differing = {
        f"{section}.{field}"
        for section, fields in changed.model_dump().items()
        if isinstance(fields, dict)
        for field, value in fields.items()
        if value != config.model_dump()[section][field]
    }
    sizes = {"rl.steps", "rl.groups_per_step", "rl.agents", "sandbox.sessions_max"}
    assert differing - sizes == {f"rl.{field}" for field in ABLATIONS[name].rl}
    batch = changed.rl.groups_per_step * changed.rl.group_size
    assert changed.agents == (changed.rl.max_staleness + 1) * batch


def test_the_table_leaves_the_first_step_out_of_the_speeds() -> None:
    right = {name: number + 1 for number, name in enumerate(ABLATIONS)}
    table = summary_table(rows(right), curves(), draws=50, seed=0).set_index("ablation")
    assert list(table.index) == list(ABLATIONS)
    for number, name in enumerate(ABLATIONS):
        row = table.loc[name]
        assert row["score"] == pytest.approx((number + 1) / 10) and row["n"] == 20
        assert row["ci_low"] <= row["score"] <= row["ci_high"]
        assert {row[column] for column in SPEED} == {float(number)}
        assert row["correctness_first"] == pytest.approx(np.mean([0, 1, 2, 3, 4]) / STEPS)
        assert row["correctness_last"] == pytest.approx(np.mean([7, 8, 9, 10, 11]) / STEPS)


def test_published_tables_are_shown_and_drawn_for_their_own_settings_alone(published: Path, config: RunConfig) -> None:
    assert ablations.shown(config) is None and ablations.draw(config) == {}
    table = summary_table(rows(dict.fromkeys(ABLATIONS, 5)), curves(), draws=50, seed=0)
    results.publish_ablations(config, table, curves())
    shown = ablations.shown(config)
    assert shown is not None and list(shown.index) == [ablation.changed for ablation in ABLATIONS.values()]
    drawn = ablations.draw(config)
    assert list(drawn) == ["ablation-scores", "ablation-curves"]
    assert "n = 20 instances a point" in drawn["ablation-scores"].caption
    other = config.model_copy(update={"rl": config.rl.model_copy(update={"learning_rate": 1.0})})
    assert ablations.shown(other) is None and ablations.draw(other) == {}
    assert sorted(file.name for file in published.iterdir()) == [
        "ablation-curves-smoke.parquet",
        "ablations-smoke.parquet",
    ]


def test_the_evaluated_rows_have_what_the_table_reads() -> None:
    assert {"task", "instance_id", "model", "seed", "score", "format", "tokens", "turns"} <= set(ROWS.names)
