"""The last two stages on a small run folder: real lake, sandbox, engine and teacher; models that learned nothing."""

import asyncio
import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import load_trajectories, save_trajectories
from biomni_lib.agent.rollout import ANSWER_NOW
from biomni_lib.errors import BiomniError, DataError, RunError
from biomni_lib.evaluate import rows_file, trajectories_file
from biomni_lib.provenance import read_manifest, stage_done
from biomni_lib.rl.report import rollout_metrics, trajectory_rows, write_rows
from biomni_lib.rl.scheduler import Group
from biomni_lib.sandbox import Sandbox
from biomni_lib.sft.model import build_model, save_model
from biomni_lib.sft.rejection import sample_teacher
from biomni_lib.sft.tokenizer import train_tokenizer
from biomni_lib.stages import any_model, audit, budgets, build_data, evaluate, length_vs_score, results, verify
from biomni_lib.stages.__main__ import app
from biomni_lib.stages.length_findings import FAILS, HOLDS, OPEN, findings
from biomni_lib.stages.paths import paths
from biomni_lib.stages.sft import rollout_settings
from biomni_lib.stages.stage import StageRun
from biomni_lib.tasks.eval1 import COUNTS
from biomni_lib.tasks.leaks.at_hand import EVAL1
from biomni_lib.tasks.phenotypes import PATIENT_TASKS
from biomni_lib.tracking import Tracker
from tests.chat_endpoints import serving
from tests.toy_benchmarks import eval1_rows, write
from tests.toy_patients import ToyPatients

SIZES = {
    "data": {"tasks": PATIENT_TASKS, "train_instances": 12, "dev_instances": 2, "heldout_instances": 6},
    "teacher": {"instances": 12},
    "evaluate": {"instances": 5, "bootstrap": 50},
    "length": {"instances": 3, "turns": (1, 2), "tokens": (24,)},
    "agent": {"max_turn_tokens": 300, "max_tokens": 1000},
    "model": {"vocab": 2048},
}
HEURISTICS = {"random", "one_term", "overlap", "overlap_excluded"}
MODELS = {"base", "sft", "rl", "teacher", "teacher_best"}
N = 10


async def make_run(config, lake_dir):
    """The files that the first three stages leave: instances, models, the teacher's samples, the record of RL."""
    here = paths(config)
    shutil.copytree(lake_dir, config.lake_dir)
    build_data.save_instances(config, build_data.open_tasks(config, build_data.open_lake(config)))
    train = build_data.load_instances(config, "train")
    tokenizer = train_tokenizer([i.prompt for i in train], config.model.vocab)
    for seed, folder in enumerate((here.base, here.sft_model, here.rl_model)):
        save_model(build_model(config.model, tokenizer, seed), tokenizer, folder)
    renderer, settings = ChatRenderer(tokenizer), rollout_settings(config)
    async with await Sandbox.start(config.sandbox, config.lake_dir) as sandbox:
        taught = await sample_teacher(train, sandbox, renderer, settings, samples=4, seed=0, concurrency=8)
    save_trajectories(here.teacher, taught)
    with Tracker(here.rl, "rl", config) as tracker:
        for step in range(2):
            rows = trajectory_rows([Group(step, taught[4 * step : 4 * step + 4])], step)
            write_rows(here.rl / "trajectories" / f"step-{step:05d}.parquet", rows)
            tracker.log(step, rollout_metrics(rows))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, lake_dir):
    """A run folder in which both stages have finished, and the rows of the first. Tests that change it copy it."""
    from biomni_lib.config import load_config

    config = load_config("smoke", runs_root=tmp_path_factory.mktemp("evaluated") / "runs", **SIZES)
    asyncio.run(make_run(config, lake_dir))
    rows = evaluate.run(config)
    length_vs_score.run(config)
    return config, rows


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """The same folder, to change; no published results beside it."""
    monkeypatch.setattr(results, "results_dir", lambda: tmp_path / "results")
    config = finished[0].model_copy(update={"runs_root": tmp_path / "runs"})
    shutil.copytree(finished[0].runs_root, config.runs_root)
    return config


def test_everyone_answers_the_same_patients(finished):
    config, rows = finished
    assert set(rows["model"]) == HEURISTICS | MODELS
    asked = rows.groupby("model")[["task", "instance_id"]].apply(lambda part: set(map(tuple, part.to_numpy())))
    heldout = {(i.task, i.id) for i in build_data.load_instances(config, "heldout")}
    assert all(part == asked["rl"] and len(part) == N and part < heldout for part in asked)
    assert set(rows.loc[rows["format"].isna(), "model"]) == HEURISTICS


def test_the_teacher_follows_its_strategies_and_the_rows_are_its_trajectories(finished):
    config, rows = finished
    best = rows[rows["model"] == "teacher_best"]
    assert set(best["strategy"]) == {"verified"} and best["tool_calls"].ge(1).all()
    kept = load_trajectories(trajectories_file(paths(config).evaluate, "teacher_best"))
    assert [t.response_tokens for t in kept] == best["tokens"].tolist()
    assert [t.correctness for t in kept] == best["correctness"].tolist()


def test_both_stages_are_recorded_and_their_figures_drawn(finished):
    config, _ = finished
    assert stage_done(config, "evaluate") and stage_done(config, "length_vs_score")
    assert set(read_manifest(config, "evaluate").results["tasks"]["all"]) == HEURISTICS | MODELS
    drawn = {"headline", "score-by-task", "seeds", "endings"}
    drawn |= {"length-vs-score", "response-length", "length-odds", "dose-response"}
    kinds = ("pdf", "svg", "png", "csv", "txt")
    assert {f"{name}.{kind}" for name in drawn for kind in kinds} == {p.name for p in paths(config).figures.iterdir()}


def test_scores_are_metrics_by_the_names_of_dashboards(finished):
    config, rows = finished
    table = pq.read_table(paths(config).run_dir / "metrics" / "evaluate.parquet").to_pandas()
    names = [f"eval/{task}/{name}" for task in ("all", *config.data.tasks) for name in ("score", "ci_low", "ci_high")]
    assert set(names) <= set(table.columns) and len(table) == 3
    means = [rows.loc[rows["model"] == model, "score"].mean() for model in ("base", "sft", "rl")]
    assert table["eval/all/score"].tolist() == pytest.approx(means, abs=1e-4)


def test_every_reading_of_length_is_saved(finished):
    config, _ = finished
    saved = {p.stem: pd.read_csv(p) for p in paths(config).length.glob("*.csv")}
    assert set(saved) == set(length_vs_score.READINGS)
    assert set(saved["within-task"]["model"]) == MODELS
    assert saved["rl-minus-sft"].groupby("column")["task"].nunique().to_dict() == {
        "correctness": 3,
        "tokens": 3,
        "turns": 3,
    }


def test_the_teachers_lengths_are_those_of_its_ledgers(finished):
    rows = length_vs_score.teacher_rows(finished[0])
    kept = load_trajectories(paths(finished[0]).teacher)
    assert rows["tokens"].tolist() == [t.response_tokens for t in kept]
    assert rows["turns"].tolist() == [len(t.turns) for t in kept]


def test_the_same_questions_are_answered_under_every_budget(finished):
    config, _ = finished
    rows = budgets.budget_rows(config)
    asked = {(i.task, i.id) for i in budgets.asked(config)}
    assert len(asked) == 6
    for _, part in rows.groupby(["model", "unit", "budget"], dropna=False):
        assert set(zip(part["task"], part["instance_id"], strict=True)) == asked and len(part) == 6
    assert set(rows["model"]) == {"sft", "rl"}
    assert not rows.loc[rows["unit"] == "none", "told"].any()
    assert rows.loc[rows["unit"] == "tokens", "told"].any()
    assert budgets.same_until_told(rows)
    assert not budgets.same_until_told(rows.assign(told=False))  # the check sees a difference where there is one


def test_the_notice_carries_no_gradient_and_comes_once(finished):
    folder = paths(finished[0]).length / "tokens-24"
    for made in load_trajectories(trajectories_file(folder, "rl")):
        told = [turn for turn in made.turns if turn.observation.startswith(ANSWER_NOW)]
        assert len(told) <= 1 and made.turns[0].end - made.turns[0].start <= 24
        for turn in told:
            assert turn is made.turns[-2] and not made.loss_mask[turn.end : made.turns[-1].start].any()


def test_answers_under_budgets_are_taken_up_again_or_said_to_be_missing(copied):
    folder = paths(copied).length
    parts = sorted(folder.glob("*/*.rows.parquet"))
    before = {part: part.stat().st_mtime_ns for part in parts}
    parts[0].unlink()
    budgets.answer(StageRun(copied, "length_vs_score"))
    assert [part for part in parts if part.stat().st_mtime_ns != before[part]] == [parts[0]]
    other = copied.model_copy(update={"length": copied.length.model_copy(update={"turns": (1, 4)})})
    with pytest.raises(DataError, match="answers under other budgets than length.turns"):
        budgets.budget_rows(other)
    budgets.budgets_file(copied).unlink()
    with pytest.raises(DataError, match="budgets.parquet cannot be read .*; run notebook 05_length_vs_score"):
        budgets.budget_rows(copied)
    (folder / "dose-response.csv").unlink()
    with pytest.raises(DataError, match="dose-response.csv: no such reading was saved; run notebook 05"):
        length_vs_score.draw(copied)


def test_weights_newer_than_their_evaluation_are_said_by_name(copied):
    shutil.copytree(paths(copied).sft_model, paths(copied).rl_model, dirs_exist_ok=True)
    with pytest.raises(DataError, match="rl was not evaluated as it is now; run notebook 04_evaluate again"):
        budgets.answer(StageRun(copied, "length_vs_score"))


def test_what_the_readings_say_is_decided_by_their_intervals(finished):
    config, _ = finished
    found = {name: length_vs_score.read(config, name) for name in length_vs_score.READINGS}
    table = findings(found)
    assert (
        set(table["verdict"]) <= {HOLDS, FAILS, OPEN, "not seen"} and table["seeds"].le(1).all()
    )  # none where no answer counts
    cut = pd.DataFrame({"model": ["rl"] * 3, "unit": "turns", "budget": [1.0, 2.0, 3.0], "task": "all", "n": 60})
    cut = cut.assign(difference=[-0.3, 0.0, 0.2], ci_low=[-0.4, -0.1, 0.1], ci_high=[-0.2, 0.1, 0.3], seeds=1)
    told = findings({**found, "budget-effects": cut}).tail(3)
    assert told["verdict"].tolist() == [HOLDS, OPEN, FAILS]
    assert told[["estimate", "ci_low", "ci_high"]].iloc[0].tolist() == [0.3, 0.2, 0.4]


def test_a_second_run_reads_what_is_there_and_new_weights_are_asked_anew(copied):
    folder = paths(copied).evaluate
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.rows.parquet")}
    sft = pq.read_table(rows_file(folder, "sft")).to_pandas()
    shutil.copytree(paths(copied).sft_model, paths(copied).rl_model, dirs_exist_ok=True)
    evaluate.run(copied)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.rows.parquet")}
    assert {name for name in before if after[name] != before[name]} == {"rl.rows.parquet"}
    rl = pq.read_table(rows_file(folder, "rl")).to_pandas()
    assert rl["tokens"].tolist() == sft["tokens"].tolist()  # the same weights under the same seeds


def test_verification_meets_a_run_and_finds_what_was_changed(copied, capsys):
    stages = ("evaluate", "length_vs_score")
    checks = {check.what: check.met for check in verify.check_run(copied)}
    assert [checks[f"stage {stage}"] for stage in stages] == [True, True] and checks["results computed from the rows"]
    path = rows_file(paths(copied).evaluate, "rl")
    table = pq.read_table(path)
    better = table.set_column(table.schema.get_field_index("score"), "score", [[1.0] * len(table)])
    pq.write_table(better, path)
    assert not verify.run(copied)
    said = capsys.readouterr().out
    assert "rl.rows.parquet changed" in said and "MISS  results computed from the rows" in said


TIMES = ["seconds", "generate_seconds", "tool_seconds"]


def sampled(config, samples=2, instances=3):
    """The settings with more samples an instance."""
    changed = config.evaluate.model_copy(update={"samples": samples, "instances": instances})
    return config.model_copy(update={"evaluate": changed})


def no_engine(self):
    raise AssertionError("an engine was opened for rows that are there")


def test_any_model_is_asked_the_same_and_compared(copied, tmp_path, monkeypatch):
    config = sampled(copied)
    shutil.copytree(paths(copied).sft_model, tmp_path / "from-elsewhere")
    models = ("rl", "sft", str(tmp_path / "from-elsewhere"))
    found = any_model.run(config, models, split="dev", tasks=["rare_disease_diagnosis"])
    rows = found.rows
    assert found.folder.name == "dev-rare_disease_diagnosis-3x2"
    assert rows.groupby("model", sort=False).size().to_dict() == {"rl": 4, "sft": 4, "from-elsewhere": 4}  # 2 patients
    assert set(rows["task"]) == {"rare_disease_diagnosis"} and set(rows["usd"]) == {0.0}
    same = [rows[rows["model"] == m].drop(columns=["model", *TIMES]).reset_index(drop=True) for m in models[1:2]]
    same += [rows[rows["model"] == "from-elsewhere"].drop(columns=["model", *TIMES]).reset_index(drop=True)]
    pd.testing.assert_frame_equal(*same)  # the same weights
    assert list(zip(found.differences["model"], found.differences["reference"], strict=True))[::2] == [
        ("rl", "sft"),
        ("rl", "from-elsewhere"),
        ("sft", "from-elsewhere"),
    ]
    assert (found.differences["p_holm"] >= found.differences["p"]).all()
    assert (found.scores["k"] == 2).all() and "published: Biomni-R0-32B" in found.against_article
    assert len(load_trajectories(trajectories_file(found.folder, "rl"))) == 4
    assert {f.name for f in found.folder.glob("*.csv")} == {
        "scores.csv",
        "differences.csv",
        "tasks-against-models.csv",
    }
    with monkeypatch.context() as patched:
        patched.setattr(evaluate.OpenModel, "_open", no_engine)
        again = any_model.run(config, models, split="dev", tasks=["rare_disease_diagnosis"])
    pd.testing.assert_frame_equal(again.rows, rows)
    shutil.rmtree(found.folder)
    anew = any_model.run(config, ["rl"], split="dev", tasks=["rare_disease_diagnosis"])
    first = rows[rows["model"] == "rl"].reset_index(drop=True)
    pd.testing.assert_frame_equal(anew.rows.drop(columns=TIMES), first.drop(columns=TIMES))
    assert anew.differences is None


def test_a_checkpoint_of_rl_that_is_kept_is_asked_by_its_step(copied):
    here, config = paths(copied), sampled(copied, 1, 2)
    (here.rl / "checkpoints" / "step-00020").mkdir(parents=True)
    shutil.copyfile(here.rl_model / "model.safetensors", here.rl / "checkpoints" / "step-00020" / "model.safetensors")
    rows = any_model.run(config, ["rl@20", "rl"]).rows
    parts = [rows[rows["model"] == m].drop(columns=["model", *TIMES]).reset_index(drop=True) for m in ("rl@20", "rl")]
    pd.testing.assert_frame_equal(*parts)  # the same weights
    with pytest.raises(DataError, match=r"rl@25: .*rl.checkpoints has no such checkpoint \(there: rl@20\)"):
        any_model.run(config, ["rl@25"])


def test_a_task_that_the_run_does_not_train_on_is_asked_too(copied):
    found = any_model.run(sampled(copied, 1, 2), ["named=rl"], tasks=["crispr_delivery"])
    assert found.rows[["task", "model"]].drop_duplicates().to_numpy().tolist() == [["crispr_delivery", "named"]]
    assert len(found.rows) == 2


def test_published_patients_are_asked_by_arm(copied, tmp_path):
    with pytest.raises(DataError, match="published patients cannot be asked: .+make data"):
        any_model.run(copied, ["rl"], split="patients-leaky")
    ToyPatients(build_data.open_lake(copied)).build(copied.lake_dir, tmp_path / "files")
    rows = any_model.run(sampled(copied, 1, 2), ["rl"], split="patients-leak-free").rows
    assert rows.groupby("task").size().to_dict() == dict.fromkeys(PATIENT_TASKS, 2)
    assert rows["instance_id"].str.contains("-leak-free-heldout-").all()


def test_a_benchmark_is_asked_for_evaluation_alone(copied, tmp_path, monkeypatch):
    monkeypatch.setenv(EVAL1, str(write(tmp_path / "eval1.parquet", eval1_rows())))
    with pytest.raises(RunError, match="no eval1 score is reported for smoke: its training data were not audited"):
        any_model.run(copied, ["rl"], split="eval1")
    monkeypatch.setattr(audit, "ONE_CALL_INSTANCES", 1)
    audit.run(copied)
    shutil.copytree(paths(copied).sft_model, tmp_path / "stranger")
    found = any_model.run(sampled(copied, 1, 1), ["rl", str(tmp_path / "stranger")], split="eval1")
    assert set(found.rows["task"]) == set(COUNTS) and found.rows["instance_id"].str.startswith("eval1/").all()
    assert found.notes[-1] == "What stranger was trained on is not known: leaks cannot be excluded."
    assert "crispr_delivery 1" in found.notes[-2]


def test_a_wrong_choice_of_models_or_questions_is_named(copied, tmp_path):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "config.json").write_text("{}")
    wrong = {
        r"no model to evaluate": ([], {}),
        r"model 'qwen': is no model of a run .+ no model's folder .+openai:MODEL": (["qwen"], {}),
        r"sft/pretrained: no model pretrained; run `make reproduce PRESET=smoke`": (["pretrained"], {}),
        r"hollow: a model's folder without weights .+ and a tokenizer": ([str(tmp_path / "hollow")], {}),
        r"two models are called rl; rename one: OTHER=sft$": (["base", "rl", "rl=sft"], {}),
        r"split = 'test': unknown split; allowed: train, dev, heldout, patients-leak-free, .*eval1": (
            ["rl"],
            {"split": "test"},
        ),
        r"task = 'surgery': unknown task; allowed: rare_disease": (["rl"], {"tasks": ["surgery"]}),
        r"lab-bench is not at hand; download": (["rl"], {"split": "lab-bench"}),
        r"run `?make data": (["rl"], {"tasks": ["gwas_variant_prioritization"]}),
    }
    for message, (models, choice) in wrong.items():
        with pytest.raises(BiomniError, match=message):
            any_model.run(copied, models, **choice)
    record = read_manifest(copied, "evaluate").model_copy(update={"stage": "rl", "preset": "gpu-8b"})
    (paths(copied).manifests / "rl.json").write_text(record.model_dump_json())
    with pytest.raises(RunError, match="stage rl was run by preset gpu-8b"):
        any_model.run(copied, ["rl"])
    assert not paths(copied).models.exists()


async def test_a_model_behind_an_endpoint_is_compared_with_the_runs_own(copied, tmp_path):
    async def guesses(messages, max_tokens):
        return "<think>\nx\n</think>\n<solution>\nnothing\n</solution>"

    prices = tmp_path / "prices.toml"
    prices.write_text('["org/m"]\ninput = 0.0\noutput = 1000000.0\n')  # one USD a written token
    async with serving(guesses) as endpoint:
        api = copied.api.model_copy(update={"url": endpoint.url, "prices": prices, "spend_max_usd": 1000.0})
        config = sampled(copied, 1, 2).model_copy(update={"api": api})
        found = await asyncio.to_thread(any_model.run, config, ["openai:org/m", "rl"])
    rows = found.rows.set_index("model")
    assert list(found.scores["model"].unique()) == ["openai-org-m", "rl"] and len(endpoint.asked) == 4
    assert (rows.loc["openai-org-m", "usd"] >= 5).all() and (rows.loc["rl", "usd"] == 0).all()
    assert (rows.loc["openai-org-m", "format"] == 1).all() and (rows.loc["openai-org-m", "score"] == 0).all()
    assert found.differences["p_holm"].notna().all()


def test_rows_of_another_version_of_the_code_are_said(copied, monkeypatch):
    any_model.run(sampled(copied, 1, 1), ["rl"])
    monkeypatch.setattr(any_model, "code_hash", lambda: "f" * 64)
    (note,) = [n for n in any_model.run(sampled(copied, 1, 1), ["rl"]).notes if "another version" in n]
    assert "than ffffffffffff: rl by" in note


def test_the_command_line_evaluates_and_prints(copied):
    sizes = [f"--set={s}={v}" for s, v in {"agent.max_turn_tokens": 300, "evaluate.bootstrap": 50}.items()]
    sizes += [f"--set=data.{name}={json.dumps(n)}" for name, n in SIZES["data"].items()]
    sizes += ["--set=teacher.instances=12", "--set=evaluate.instances=2", "--set=model.vocab=2048"]
    arguments = ["evaluate", "rl", "sft", "--preset", "smoke", "--runs-root", str(copied.runs_root), *sizes]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "pass_at_k" in done.output and "p_holm" in done.output and "published: Biomni-R0-8B" in done.output
    assert "NaN" not in done.output


def test_missing_parts_are_named(copied):
    shutil.rmtree(paths(copied).rl_model)
    with pytest.raises(DataError, match="no model rl; run the notebooks before this one"):
        evaluate.run(copied)
    paths(copied).instances("heldout").unlink()
    with pytest.raises(DataError, match="run notebook 01_build_data"):
        evaluate.open_heldout(copied)


def test_a_task_with_fewer_heldout_instances_is_asked_all_of_them(copied):
    more = copied.model_copy(update={"evaluate": copied.evaluate.model_copy(update={"instances": 7})})
    asked, there = evaluate.open_heldout(more), build_data.load_instances(copied, "heldout")
    assert asked == there and len(there) < 7 * len(copied.data.tasks)
