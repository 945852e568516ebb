"""Ablations for real, in the smallest sizes: trained, examined, published, shown."""

from pathlib import Path

import pytest

from biomni_lib.config import RunConfig
from biomni_lib.stages import ablations, results
from biomni_lib.stages.paths import paths

CHOSEN = ("default", "no_sft", "correctness_only", "coupled")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_run_is_trained_examined_and_published_once(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(results, "results_dir", lambda: tmp_path / "results")
    monkeypatch.setattr(ablations, "ABLATIONS", {name: ablations.ABLATIONS[name] for name in CHOSEN})
    table = ablations.run(config).set_index("ablation")
    assert list(table.index) == list(CHOSEN)
    assert (table["n"] == len(config.data.tasks) * config.ablations.instances).all()
    assert table.loc["no_sft", "score"] == 0
    published = results.published_ablations(config)
    assert published is not None
    steps = published[1].groupby("ablation", sort=False)["step"].apply(list)
    assert {name: steps[name] for name in CHOSEN} == dict.fromkeys(CHOSEN, list(range(config.ablations.steps)))
    ledgers = {path: path.stat().st_mtime_ns for path in paths(config).ablations.rglob("ledgers/*.parquet")}
    assert len(ledgers) == len(CHOSEN) * config.ablations.steps
    again = ablations.run(config).set_index("ablation")  # goes on behind the last step: nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in ledgers} == ledgers
    assert again["score"].equals(table["score"])
