"""A learner of two ranks is the learner of one: gradients, metrics, weights, checkpoints; nothing outlives a death.

So it is when they read each row together, and when four do so in pairs.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.torch import load_file, save_file

from biomni_lib.config import RunConfig, load_config
from biomni_lib.errors import ConfigError, RunError, TrainingError
from biomni_lib.planner import memory
from biomni_lib.planner.shapes import read_shape
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.learner_ranks import LearnerSpec, RankedLearner, open_learner
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.train import train_rl
from tests import ranked_toy
from tests.ranked_toy import Arrays, Variant, uneven_groups
from tests.rl_toy import VOCABULARY, ToyTask, save_toy_model, toy_world

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(400)  # processes start here, each with its imports
TWO = {"learner_ranks": 2}
KL = {"kl_coefficient": 0.1, "optimizer_steps": 2}
VARIANTS = {
    "default": Variant(),
    "a row each": Variant(rl={"micro_batch_tokens": 32}),
    "sequence mean, KL, two updates": Variant({"aggregation": "sequence_mean", **KL}),
    "gspo": Variant({"loss": "gspo", "aggregation": "sequence_mean"}),
    "entropy": Variant({"entropy_coefficient": 0.01}),
    "lora": Variant(rl={"lora_rank": 4}),
    "lora, KL, two updates": Variant(KL, {"lora_rank": 4}),
    "muon": Variant(rl={"optimizer": "muon", "lr_muon": 0.03}),
    "checkpointing": Variant(rl={"gradient_checkpointing": True}),
    "lora, checkpointing": Variant(rl={"lora_rank": 4, "gradient_checkpointing": True}),
    "offload": Variant(offload=True),
    "lora, offload": Variant(rl={"lora_rank": 4}, offload=True),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_model(tmp_path_factory.mktemp("ranks") / "model")


@pytest.fixture(scope="module")
def one(model_dir: Path) -> Learner:
    return LearnerSpec(load_config("smoke"), load_recipe("default"), model_dir).load()


@contextmanager
def ranked(model_dir: Path, count: int) -> Iterator[RankedLearner]:
    spec = LearnerSpec(load_config("smoke", placement={"learner_ranks": count}), load_recipe("default"), model_dir)
    with open_learner(spec, model_dir.parent) as learner:
        assert isinstance(learner, RankedLearner)
        yield learner


@pytest.fixture(scope="module")
def two(model_dir: Path) -> Iterator[RankedLearner]:
    with ranked(model_dir, 2) as learner:
        yield learner


@pytest.fixture(scope="module")
def four(model_dir: Path) -> Iterator[RankedLearner]:
    with ranked(model_dir, 4) as learner:
        yield learner


def assert_close(one: Arrays, two: Arrays, atol: float = 1e-6) -> None:
    """Weights after AdamW's steps need a looser bound: it divides by the gradient, whose rounding then shows."""
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=atol, rtol=1e-4, err_msg=name)


def assert_same_metrics(one: list[dict[str, float]], two: list[dict[str, float]]) -> None:
    for a, b in zip(one, two, strict=True):
        assert a == {name: pytest.approx(b[name], rel=1e-4, abs=1e-6) for name in a} and a.keys() == b.keys()


def assert_same_gradients(variant: Variant, one: Learner, many: RankedLearner, model_dir: Path) -> None:
    groups = uneven_groups(0)
    alone = one.run(ranked_toy.gradients, model_dir, variant, groups)
    assert max(np.abs(array).max() for array in alone.values()) > 1e-3
    assert_close(alone, many.run(ranked_toy.gradients, model_dir, variant, groups))


def assert_same_learner(variant: Variant, one: Learner, many: RankedLearner, model_dir: Path) -> None:
    assert_same_gradients(variant, one, many, model_dir)
    batches = [uneven_groups(seed) for seed in range(3)]
    metrics, weights = one.run(ranked_toy.steps, model_dir, variant, batches)
    metrics_of_many, weights_of_many = many.run(ranked_toy.steps, model_dir, variant, batches)
    assert_same_metrics(metrics, metrics_of_many)
    assert_close(weights, weights_of_many, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_metrics_and_weights_are_those_of_one_rank(
    name: str, one: Learner, two: RankedLearner, model_dir: Path
) -> None:
    assert_same_learner(VARIANTS[name], one, two, model_dir)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_that_read_each_row_together_are_one(
    name: str, one: Learner, two: RankedLearner, model_dir: Path
) -> None:
    """Rows of several trajectories, of which some are longer than a slice, with an odd number of tokens or an even."""
    assert_same_learner(replace(VARIANTS[name], context=2), one, two, model_dir)


@pytest.mark.parametrize("name", ["default", "a row each", "gspo", "sequence mean, KL, two updates"])
def test_two_pairs_share_out_the_rows_and_read_each_together(
    name: str, one: Learner, four: RankedLearner, model_dir: Path
) -> None:
    assert_same_learner(replace(VARIANTS[name], context=2), one, four, model_dir)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (8, 2)])
@pytest.mark.parametrize("context", [2, 4])
def test_heads_are_shared_whatever_the_groups_of_keys(
    context: int, heads: int, kv_heads: int, one: Learner, four: RankedLearner, tmp_path: Path
) -> None:
    """Each rank has several of keys, one, or one that other ranks have too."""
    model_dir = save_toy_model(tmp_path / "model", heads=heads, kv_heads=kv_heads)
    assert_same_gradients(Variant(context=context), one, four, model_dir)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_rank_keeps_of_a_shared_row_what_the_plan_says(
    checkpointing: bool, one: Learner, two: RankedLearner, tmp_path: Path
) -> None:
    """Half of what one rank keeps and of the most that it ever holds, and the plan's bytes of half of the row."""
    model_dir, tokens = save_toy_model(tmp_path / "model", heads=4, kv_heads=2), 3000
    variant = Variant(rl={"gradient_checkpointing": checkpointing}, context=2)
    (kept, most), (half, half_most) = (
        ranks.run(ranked_toy.kept_of_a_row, model_dir, variant, tokens) for ranks in (one, two)
    )
    shape = read_shape(model_dir / "config.json")
    planned = memory.activation_bytes(shape, tokens // 2, 4, None, checkpointing=checkpointing)
    assert (half, half_most) == (pytest.approx(kept / 2, rel=0.02), pytest.approx(most / 2, rel=0.01))
    assert checkpointing or half == pytest.approx(planned, rel=0.02)
    most_planned = planned + memory.working_bytes(shape, tokens // 2, 4)
    assert 0.85 * most_planned <= half_most <= 1.02 * most_planned


def test_each_rank_holds_half_of_the_weights(two: RankedLearner) -> None:
    everything, here = two.run(ranked_toy.kept)
    assert here == pytest.approx(everything / 2, rel=0.01)


@pytest.mark.parametrize("name", ["default", "lora", "muon"])
@pytest.mark.parametrize("way", ["1 to 2", "2 to 1", "2 to 2"])
def test_a_checkpoint_is_gone_on_with_by_another_number_of_ranks(
    name: str, way: str, one: Learner, two: RankedLearner, model_dir: Path, tmp_path: Path
) -> None:
    first, second = (one if count == "1" else two for count in way.split(" to "))
    batches, variant = [uneven_groups(seed) for seed in range(4)], VARIANTS[name]
    metrics, weights = one.run(ranked_toy.steps, model_dir, variant, batches)
    first.run(ranked_toy.steps, model_dir, variant, batches[:2], tmp_path)
    metrics_of_resumed, weights_of_resumed = second.run(
        ranked_toy.resumed, model_dir, variant, tmp_path, 2, batches[2:]
    )
    assert_same_metrics(metrics[2:], metrics_of_resumed)
    assert_close(weights, weights_of_resumed, atol=1e-4)
    if first is two:
        assert len(list((tmp_path / "learner").glob("*.distcp"))) == 2  # each rank wrote its share


@pytest.mark.parametrize("context", [1, 2])
def test_what_is_not_finite_on_one_rank_is_named_by_all(context: int, two: RankedLearner, tmp_path: Path) -> None:
    """Every rank reads every trajectory alone to find out, whoever had it in its share."""
    spoilt, folder = load_file(save_toy_model(tmp_path / "m", tied=False) / "model.safetensors"), tmp_path / "m"
    spoilt["model.embed_tokens.weight"][VOCABULARY - 1] = float("nan")
    save_file(spoilt, folder / "model.safetensors", {"format": "pt"})
    told = two.run(ranked_toy.not_finite, folder, Variant({"kl_coefficient": 0.1}, context=context), uneven_groups(0))
    assert told.startswith("3 updates in a row") and told.endswith("; the last on i1/2")


def test_a_reward_that_a_rank_refuses_is_told_as_by_one_rank(model_dir: Path, tmp_path: Path) -> None:
    groups = uneven_groups(0)
    groups[0].trajectories[1].total = 2.5
    spec = LearnerSpec(load_config("smoke", placement=TWO), load_recipe("default"), model_dir)
    with open_learner(spec, tmp_path) as learner, pytest.raises(TrainingError, match=r"i0/1: reward .* outside"):
        learner.run(Learner.step, groups)
    assert all(rank.process.returncode is not None for rank in learner.ranks)


def test_a_rank_that_dies_in_the_middle_of_a_step_is_named(model_dir: Path, tmp_path: Path) -> None:
    """The other one waits for its share of the weights."""
    spec = LearnerSpec(load_config("smoke", placement=TWO), load_recipe("default"), model_dir)
    told = r"^rank 1 of the learner ended with code -9; run the same command again to resume .*learner-1\.log ends: "
    with open_learner(spec, tmp_path) as learner:
        assert isinstance(learner, RankedLearner)
        with pytest.raises(RunError, match=told):
            learner.run(ranked_toy.step_and_die, uneven_groups(0), 1)
    assert [rank.process.returncode is not None for rank in learner.ranks] == [True, True]


def test_ranks_that_cannot_share_the_heads_are_refused(model_dir: Path) -> None:
    config = load_config("smoke", placement={"learner_ranks": 4, "context_parallel": 4})
    told = r"^placement\.context_parallel = 4: the model's 2 attention heads, 1 .*; set one of \[1, 2\]$"
    with pytest.raises(ConfigError, match=told):
        LearnerSpec(config, load_recipe("default"), model_dir).load()


def test_all_weights_in_bfloat16_by_one_rank_are_refused(model_dir: Path, tmp_path: Path) -> None:
    config = load_config("smoke", model={"dtype": "bfloat16"})
    told = r"model\.dtype = 'bfloat16': .* needs placement\.learner_ranks above 1"
    opened = open_learner(LearnerSpec(config, load_recipe("default"), model_dir), tmp_path)
    with pytest.raises(ConfigError, match=told), opened:
        pass


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("rl", [{}, {"lora_rank": 4}], ids=["all weights", "lora"])
def test_bfloat16_is_for_the_passes_and_what_is_trained_stays_in_float32(
    rl: dict[str, Any], context: int, one: Learner, two: RankedLearner, model_dir: Path
) -> None:
    """The gradient points where that of float32 points."""
    groups = uneven_groups(0)
    plain = one.run(ranked_toy.gradients, model_dir, Variant(rl=rl), groups)
    halved = Variant(rl=rl, dtype="bfloat16", context=context)
    dtypes, rounded = two.run(ranked_toy.dtypes_and_gradients, model_dir, halved, groups)
    assert dtypes == {"float32"}
    a, b = (np.concatenate([array.ravel() for array in made.values()]) for made in (plain, rounded))
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert 0.99 < cosine < 1 - 1e-7


@pytest.fixture
def toy_config(make_config: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def make(ranks: int, context: int = 1, **rl: Any) -> RunConfig:
        values = {"groups_per_step": 4, "group_size": 8, "learning_rate": 4e-3, "checkpoint_every": 1}
        rl = {**values, "max_staleness": 0, **rl}
        placement = {"learner_ranks": ranks, "context_parallel": context}
        return make_config(engine={"slots": 32}, placement=placement, rl=rl)

    return make


@pytest.mark.parametrize(
    ("trained", "context"),
    [({}, 1), pytest.param({"lora_rank": 4}, 1, marks=pytest.mark.slow), ({}, 2)],
    ids=["all weights", "lora", "rows read together"],
)
def test_a_run_of_two_ranks_then_one_is_the_run_of_one(
    toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path, trained: dict[str, Any], context: int
) -> None:
    """Two steps over two ranks, the third by one: engine and learner agree throughout, or the run would stop."""
    instances = ToyTask().instances("train")
    whole = train_rl(toy_config(1, steps=3, **trained), instances, model_dir, tmp_path / "whole", world=toy_world)
    for ranks, together, steps in ((2, context, 2), (1, 1, 3)):
        config = toy_config(ranks, together, steps=steps, **trained)
        cut = train_rl(config, instances, model_dir, tmp_path / "cut", world=toy_world)
    for a, b in zip(whole.metrics, cut.metrics, strict=True):
        for name in ("reward/total", "loss/policy", "policy/entropy", "optim/grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6)
        assert b["policy/fresh_abs_diff_max"] < 1e-4
    one, two = ({n: t.numpy() for n, t in load_file(r.model_dir / "model.safetensors").items()} for r in (whole, cut))
    assert_close(one, two, atol=1e-5)
    assert {p.name for p in cut.model_dir.iterdir()} == {p.name for p in whole.model_dir.iterdir()}
    assert (tmp_path / "cut" / "learner-1.log").is_file()


DRIVER = """
from pathlib import Path
import sys
from biomni_lib.config import load_config
from biomni_lib.rl.train import train_rl
from tests.rl_toy import ToyTask, toy_world
out = Path(sys.argv[1])
rl = {"groups_per_step": 4, "group_size": 4, "checkpoint_every": 1, "steps": 100_000}
config = load_config("smoke", runs_root=out, engine={"slots": 16}, placement={"learner_ranks": 2}, rl=rl)
train_rl(config, ToyTask().instances("train"), Path(sys.argv[2]), out / "run", world=toy_world)
"""


@pytest.mark.parametrize("victim", ["driver", "rank"])
def test_no_process_outlives_a_death(victim: str, model_dir: Path, tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), str(model_dir)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_for(lambda: bool(list((tmp_path / "run" / "checkpoints").glob("step-*"))))
        children = psutil.Process(driver.pid).children(recursive=True)
        ranks = [child for child in children if "learner_rank" in " ".join(child.cmdline())]
        assert len(ranks) == 2 and len(children) > 2
        (ranks[1] if victim == "rank" else driver).send_signal(signal.SIGKILL)
        _, errors = driver.communicate(timeout=60)
        wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    finally:
        driver.kill()
    if victim == "rank":
        assert b"RunError: rank 1 of the learner ended with code -9; run the same command again to resume" in errors


def wait_for(condition: Callable[[], bool], timeout_s: float = 300) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
