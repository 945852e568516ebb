import asyncio
import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from biomni_lib import evaluate as evaluation
from biomni_lib.agent.ledger import Trajectory, Turn, load_trajectories
from biomni_lib.config import load_config
from biomni_lib.errors import DataError
from biomni_lib.evaluate import evaluate, evaluate_baselines, load_rows, rows_file, trajectories_file
from biomni_lib.provenance import code_hash
from biomni_lib.tasks import Instance

GENES = [f"ENSG0000000000{i}" for i in range(6)]
INSTANCES = [Instance(f"Which gene? {i}", gene, "patient_gene_detection", str(i)) for i, gene in enumerate(GENES)]
CONFIG = load_config("smoke", evaluate={"samples": 2}, engine={"slots": 3})


def silent(model, done, total):
    pass


class Agent:
    """Answers instance i rightly when i is even, after one call, in one turn of five tokens."""

    def __init__(self, fail_at=None):
        self.calls, self.seeds, self.at_once, self.most_at_once, self.fail_at = 0, [], 0, 0, fail_at

    async def __call__(self, instance, sample, seed):
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.seeds.append((instance.id, sample, seed))
        await asyncio.sleep(0.001 * (seed % 3))
        self.at_once -= 1
        if self.calls == self.fail_at:
            raise ZeroDivisionError("a programming error")
        answer = json.dumps({"causal_gene": [instance.gold if int(instance.id) % 2 == 0 else GENES[-1][:-1] + "9"]})
        text = f"<think>so</think><solution>{answer}</solution>"
        made = Trajectory(instance.task, instance.id, answer=answer, ending="solved")
        made.append([1, 2, 3], sampled=False)
        made.append([4, 5, 6, 7, 8], sampled=True)
        made.turns = [Turn(3, 8, "solution", text, generate_s=0.25)]
        return made


def run(agent, out_dir, *, model="rl", key="weights 1", config=CONFIG, progress=silent):
    return asyncio.run(evaluate(model, agent, INSTANCES, config, out_dir, key=key, progress=progress))


def test_one_row_and_one_trajectory_a_sample(tmp_path):
    rows = run(Agent(), tmp_path)
    assert list(zip(rows["instance_id"], rows["sample"], strict=True)) == [(i.id, s) for i in INSTANCES for s in (0, 1)]
    assert rows["score"].tolist() == rows["correctness"].tolist() == [1, 1, 0, 0] * 3
    assert rows["ids"].tolist() == [1] * 12
    assert set(rows["model"]) == {"rl"} and set(rows["format"]) == {1} and set(rows["tokens"]) == {5}
    assert set(rows["turns"]) == {1} and set(rows["tool_calls"]) == {0} and set(rows["generate_seconds"]) == {0.25}
    kept = load_trajectories(trajectories_file(tmp_path, "rl"))
    assert [(t.instance_id, t.sample, t.total) for t in kept] == list(
        zip(rows["instance_id"], rows["sample"], rows["correctness"] + rows["format"], strict=True)
    )


def test_what_is_done_is_not_done_again(tmp_path):
    first = run(Agent(), tmp_path)
    again = Agent()
    pd.testing.assert_frame_equal(run(again, tmp_path), first)
    assert again.calls == 0


@pytest.mark.parametrize("change", [{"key": "weights 2"}, {"config": load_config("smoke", evaluate={"samples": 1})}])
def test_other_weights_or_settings_are_evaluated_anew(tmp_path, change):
    run(Agent(), tmp_path)
    agent = Agent()
    run(agent, tmp_path, **change)
    assert agent.calls >= len(INSTANCES)


def test_a_lost_trajectory_file_is_made_again(tmp_path):
    run(Agent(), tmp_path)
    trajectories_file(tmp_path, "rl").unlink()
    run(agent := Agent(), tmp_path)
    assert agent.calls == 12 and trajectories_file(tmp_path, "rl").is_file()


def test_every_model_gets_the_same_seeds_and_every_rollout_its_own(tmp_path):
    sft, rl = Agent(), Agent()
    run(sft, tmp_path, model="sft")
    run(rl, tmp_path)
    assert sorted(sft.seeds) == sorted(rl.seeds)
    assert len({seed for _, _, seed in rl.seeds}) == 12


def test_no_more_at_once_than_the_engine_takes(tmp_path):
    run(agent := Agent(), tmp_path)
    assert agent.most_at_once == 3


def test_a_programming_error_ends_it_and_leaves_no_rows(tmp_path):
    with pytest.raises(ZeroDivisionError, match="a programming error"):
        run(Agent(fail_at=5), tmp_path)
    assert not rows_file(tmp_path, "rl").exists()


@pytest.mark.parametrize("part", [1, 4])
def test_a_stopped_evaluation_goes_on_with_what_is_missing(tmp_path, monkeypatch, part):
    monkeypatch.setattr(evaluation, "PART_ROLLOUTS", part)
    whole = run(Agent(), tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        run(first := Agent(fail_at=9), tmp_path)
    run(second := Agent(), tmp_path)
    assert first.calls - 1 + second.calls >= 12 > second.calls  # those cut off with the one that failed are asked again
    times = ["seconds"]
    pd.testing.assert_frame_equal(load_rows([tmp_path]).drop(columns=times), whole.drop(columns=times))
    kept = [
        [t.token_ids.tolist() for t in load_trajectories(trajectories_file(d, "rl"))]
        for d in (tmp_path, tmp_path / "whole")
    ]
    assert kept[0] == kept[1] and not (tmp_path / "rl.unfinished").exists()


async def test_a_cancelled_evaluation_keeps_what_is_finished(tmp_path):
    agent = Agent()
    task = asyncio.create_task(evaluate("rl", agent, INSTANCES, CONFIG, tmp_path, key="weights 1", progress=silent))
    while agent.calls < 8:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = Agent()
    await evaluate("rl", again, INSTANCES, CONFIG, tmp_path, key="weights 1", progress=silent)
    assert 0 < again.calls < 12


def test_what_was_finished_with_other_weights_is_not_taken_up(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(Agent(fail_at=9), tmp_path)
    run(agent := Agent(), tmp_path, key="weights 2")
    assert agent.calls == 12


def test_rows_say_which_code_evaluated_them(tmp_path):
    run(Agent(), tmp_path)
    assert evaluation.code_of(rows_file(tmp_path, "rl")) == code_hash()


def test_progress_counts_to_the_end(tmp_path):
    told = []
    run(Agent(), tmp_path, progress=lambda *values: told.append(values))
    assert told == [("rl", done, 12) for done in range(1, 13)]


class OneTask:
    name = "patient_gene_detection"

    def baselines(self):
        return {
            "first": lambda instance: json.dumps({"causal_gene": GENES[0]}),
            "both": lambda instance: json.dumps({"causal_gene": [instance.gold, GENES[0]]}),
        }


def test_baselines_have_scores_and_no_format(tmp_path):
    rows = evaluate_baselines({OneTask.name: OneTask()}, INSTANCES, CONFIG, tmp_path)
    assert rows["format"].isna().all() and (rows["tokens"] == 0).all()
    means = rows.groupby("model")[["score", "correctness"]].mean()
    assert means.loc["first"].tolist() == pytest.approx([1 / 6, 1 / 6])
    assert means.loc["both"].tolist() == pytest.approx([1, 1 / 6])  # two ids for one: right, and hedging
    ids = rows.groupby("model")["ids"].apply(list)
    assert ids["first"] == [1] * 6 and ids["both"] == [1] + [2] * 5  # of the first instance both are the same gene


def test_rows_of_a_folder_come_together(tmp_path):
    run(Agent(), tmp_path)
    evaluate_baselines({OneTask.name: OneTask()}, INSTANCES, CONFIG, tmp_path)
    rows = load_rows([tmp_path, tmp_path])
    assert set(rows["model"]) == {"rl", "first", "both"} and len(rows) == 2 * (12 + 12)


def test_rows_from_before_ids_were_counted_are_read(tmp_path):
    run(Agent(), tmp_path)
    file = rows_file(tmp_path, "rl")
    pq.write_table(pq.read_table(file).drop_columns(["ids"]), file)
    evaluate_baselines({OneTask.name: OneTask()}, INSTANCES, CONFIG, tmp_path)
    rows = load_rows([tmp_path])
    assert rows["ids"].isna().sum() == 12 and rows["ids"].notna().sum() == 12
    assert len(run(Agent(fail_at=1), tmp_path)) == 12  # under the same key it is not asked again


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DataError, match="no instances"):
        asyncio.run(evaluate("rl", Agent(), [], CONFIG, tmp_path, key=""))
    with pytest.raises(DataError, match="missing patient_gene_detection"):
        evaluate_baselines({}, INSTANCES, CONFIG, tmp_path)
    with pytest.raises(DataError, match="no evaluated rows"):
        load_rows([tmp_path])
    rows_file(tmp_path, "rl").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"rl\.rows\.parquet: rows cannot be read"):
        load_rows([tmp_path])
    run(Agent(), tmp_path)
    assert len(load_rows([tmp_path])) == 12
