import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomni_lib.errors import DataError, RunError
from biomni_lib.evaluate import ROWS, rows_file
from biomni_lib.provenance import manifest_path, write_manifest
from biomni_lib.stages import results, seeds, summary
from biomni_lib.stages.paths import paths

TASKS = ("rare_disease_diagnosis", "patient_gene_detection")
MODELS = {"base": 0, "sft": 2, "rl": 3, "teacher": 1, "overlap": 4}
N = 5


@pytest.fixture(autouse=True)
def published(tmp_path, monkeypatch):
    """The published results lie in the test's own folder."""
    folder = tmp_path / "results"
    monkeypatch.setattr(results, "results_dir", lambda: folder)
    return folder


def save_rows(config):
    """Of five instances a task, the first `MODELS[model]` are right."""
    for model, right in MODELS.items():
        rows = pd.DataFrame(
            {
                "task": task,
                "instance_id": str(i),
                "sample": 0,
                "seed": config.seed,
                "model": model,
                "score": float(i < right),
                "ids": 1,
                "correctness": float(i < right),
                "format": None if model == "overlap" else 1.0,
                "tokens": 0 if model == "overlap" else 100 + i,
                "turns": 2,
                "tool_calls": 1,
                "ending": "solved",
                "strategy": "",
                "answer": "",
                "seconds": 0.1 * config.seed,
                "generate_seconds": 0.0,
                "tool_seconds": 0.0,
                "usd": 0.0,
            }
            for task in TASKS
            for i in range(N)
        )
        path = rows_file(paths(config).evaluate, model)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pandas(rows, schema=ROWS, preserve_index=False), path)


def finish(config):
    save_rows(config)
    write_manifest(config, "evaluate", outputs=[paths(config).evaluate], seconds=3.5)


def test_one_json_object_in_the_promised_shape(config, capsys):
    finish(config)
    summary.run(config)
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"preset", "code", "tasks", "seconds"}
    assert found["preset"] == "smoke" and found["seconds"] == {"evaluate": 3.5}
    assert set(found["tasks"]) == {"all", *TASKS}
    keys = {"score", "ci_low", "ci_high", "format", "n", "seeds", "mean_tokens", "mean_turns"}
    for task, models in found["tasks"].items():
        assert set(models) == set(MODELS)
        for model, numbers in models.items():
            assert set(numbers) == keys
            assert numbers["score"] == pytest.approx(MODELS[model] / N)
            assert numbers["ci_low"] <= numbers["score"] <= numbers["ci_high"]
            assert (numbers["n"], numbers["seeds"]) == (2 * N if task == "all" else N, 1)
            assert numbers["format"] == (None if model == "overlap" else 1)
            assert numbers["mean_tokens"] == (0 if model == "overlap" else 102)


def test_a_run_without_results_is_named_with_the_remedy(config, make_config):
    with pytest.raises(RunError, match=r"stage evaluate has not finished; run `make reproduce PRESET=smoke`"):
        summary.run(config)
    finish(config)
    with pytest.raises(RunError, match="was made with other settings"):
        summary.run(make_config(evaluate={"temperature": 0.1}))


def test_published_seeds_hold_every_row_and_the_same_bytes_again(config):
    for seed in (0, 1):
        save_rows(results.with_seed(config, seed))
    rows = results.publish_seeds(config, (0, 1))
    assert len(rows) == 2 * len(MODELS) * len(TASKS) * N and not set(results.LEFT_OUT) & set(rows)
    first = results.seeds_file(config).read_bytes()
    results.publish_seeds(config, (0, 1))
    assert results.seeds_file(config).read_bytes() == first
    pd.testing.assert_frame_equal(results.pooled_rows(config), rows)


def test_other_rows_of_the_seeds_bring_notebook_04_up_to_date_and_the_same_do_not(config, monkeypatch):
    evaluated, again = manifest_path(config, "evaluate"), []
    monkeypatch.setattr(seeds, "run_notebooks", lambda *_, last=None: again.append(evaluated.exists()))
    for seed in seeds.SEEDS:
        finish(results.with_seed(config, seed))
    for has_to_run in (True, False, True):
        seeds.run(config)
        assert again[-1] != has_to_run
        finish(config)
        if not has_to_run:
            monkeypatch.setitem(MODELS, "rl", 4)
            finish(results.with_seed(config, 0))


def test_published_rows_from_before_ids_were_counted_are_read(config):
    save_rows(config)
    results.publish_seeds(config, (0,))
    file = results.seeds_file(config)
    pq.write_table(pq.read_table(file).drop_columns(["ids"]), file)
    rows = results.pooled_rows(config)
    assert list(rows) == results.SEED_ROWS.names and rows["ids"].isna().all() and rows["score"].notna().all()


def test_a_setting_that_came_later_takes_the_published_seeds_away_unless_it_is_at_its_default(
    config, make_config, monkeypatch
):
    for seed in (0, 1):
        save_rows(results.with_seed(config, seed))
    now = results._settings
    older = {name: value for name, value in now(config).items() if name != "rl.warmup_steps"} | {"rl.gone": 1}
    with monkeypatch.context() as before:
        before.setattr(results, "_settings", lambda _: older)
        results.publish_seeds(config, (0, 1))
    assert results.published_seeds(config) is not None
    assert results.published_seeds(make_config(rl={"warmup_steps": 3})) is None


def test_seeds_that_ran_elsewhere_are_pooled(config, make_config):
    for seed in (0, 1):
        save_rows(results.with_seed(config, seed))
    results.publish_seeds(config, (0, 1))
    assert results.published_seeds(make_config(environment={"url": "ray:local"})) is not None


def test_seeds_of_other_settings_are_not_pooled(config, make_config):
    for seed in (0, 1):
        save_rows(results.with_seed(config, seed))
    results.publish_seeds(config, (0, 1))
    other = make_config(rl={"steps": 3})
    assert results.published_seeds(other) is None
    assert set(results.pooled_rows(other)["seed"]) == {0}
    assert set(results.pooled_rows(results.with_seed(config, 1))["seed"]) == {0, 1}


def test_a_seed_without_rows_is_named(config):
    save_rows(config)
    with pytest.raises(DataError, match=r"smoke-seed1/evaluate: no evaluated rows"):
        results.publish_seeds(config, (0, 1))
    assert not results.seeds_file(config).exists()


def test_the_readme_keeps_its_text_around_the_results():
    row = {"score": 0.5, "ci_low": 0.4, "ci_high": 0.6, "format": None, "n": 10, "seeds": 1, "mean_tokens": None}
    found = {"preset": "cpu", "tasks": {"all": {"overlap": row}}}
    readme = f"before\n{summary.BLOCK_START}\nold\n{summary.BLOCK_END}\nafter\n"
    written = summary.with_results(readme, found)
    assert written.startswith("before\n") and written.endswith("\nafter\n") and "old" not in written
    assert "| overlap | 0.500 | 0.400 to 0.600 | – | – | 10 | 1 |" in written
    assert summary.with_results(written, found) == written


def test_a_readme_without_the_block_is_refused():
    with pytest.raises(DataError, match="README.md has no block"):
        summary.with_results("nothing here", {"preset": "cpu", "tasks": {"all": {}}})
