"""The parity gate on a real engine and a real learner, both tiny."""

import asyncio
import copy
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig, load_config
from biomni_lib.errors import TrainingError
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.parity import REPLIES, check_probe, is_due, require_parity, take_probe
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.samples import to_sample
from tests.rl_toy import PROBE, save_toy_model, toy_engine

BOUND = 1e-2
PRESET_BOUND = load_config("gpu-8b").engine.parity_max


@pytest.fixture
def learner(config: RunConfig, tmp_path: Path) -> Learner:
    folder = save_toy_model(tmp_path / "model")
    return Learner(Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32), load_recipe("default"), config)


@pytest.fixture
def probe(learner: Learner, tmp_path: Path) -> list[Trajectory]:
    async def take() -> list[Trajectory]:
        engine = toy_engine(tmp_path / "model", slots=2)
        try:
            return await take_probe(engine, PROBE, temperature=1.0)
        finally:
            await engine.close()

    return asyncio.run(take())


def test_equal_weights_pass_and_nothing_of_the_learner_changes(learner: Learner, probe: list[Trajectory]) -> None:
    before, generator = {n: t.clone() for n, t in learner.model.state_dict().items()}, torch.get_rng_state()
    assert len(probe) == REPLIES
    assert 0 <= check_probe(learner, probe, version=0, bound=BOUND) < 1e-4
    assert all(torch.equal(t, before[n]) for n, t in learner.model.state_dict().items())
    assert all(p.grad is None for p in learner.parameters)
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_weight_that_one_side_has_not_got_is_named_with_the_setting(
    learner: Learner, probe: list[Trajectory]
) -> None:
    with torch.no_grad():
        learner.model.model.layers[0].mlp.down_proj.weight.mul_(-1)
    told = r"after the sync of version 0 by \d.*engine\.parity_max = 0\.01"
    with pytest.raises(TrainingError, match=told):
        check_probe(learner, probe, version=0, bound=BOUND)


@pytest.fixture
def rounded(config: RunConfig, learner: Learner) -> Learner:
    """A learner of the same weights whose passes are in bfloat16."""
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    return Learner(copy.deepcopy(learner.model).to(torch.bfloat16), load_recipe("default"), config)


def test_in_bfloat16_rounding_passes_by_its_mean_and_a_stale_weight_does_not(
    rounded: Learner, probe: list[Trajectory]
) -> None:
    samples = [to_sample(trajectory, 0.0) for trajectory in probe]
    with torch.no_grad():
        read = rounded.logprobs(samples)[0]
    apart = torch.cat([one - sample.rollout for one, sample in zip(read, samples, strict=True)]).abs()
    mean = check_probe(rounded, probe, version=0, bound=PRESET_BOUND)
    assert mean == pytest.approx(float(apart.mean())) and 1e-4 < mean < float(apart.max())
    with torch.no_grad():
        rounded.model.model.layers[0].mlp.down_proj.weight.mul_(-1)
    with pytest.raises(TrainingError, match=r"engine\.parity_max = 0\.1"):
        check_probe(rounded, probe, version=0, bound=PRESET_BOUND)


def test_one_stale_engine_of_several_is_not_averaged_away(rounded: Learner, probe: list[Trajectory]) -> None:
    fresh = check_probe(rounded, probe, version=0, bound=PRESET_BOUND)
    stale = copy.deepcopy(probe)
    for trajectory in stale:
        trajectory.logprobs[trajectory.loss_mask] -= 0.15
    assert check_probe(rounded, [*probe, *stale], version=0, bound=1.0) == check_probe(rounded, stale, 0, 1.0)
    with pytest.raises(TrainingError, match="disagree"):
        check_probe(rounded, [*probe, *probe, *probe, *stale], version=0, bound=max(PRESET_BOUND, 2 * fresh))


def test_a_probe_of_another_version_is_refused(learner: Learner, probe: list[Trajectory]) -> None:
    with pytest.raises(TrainingError, match=r"version \[0\] when it had been given 3"):
        check_probe(learner, probe, version=3, bound=BOUND)


def test_a_difference_that_is_no_number_is_refused() -> None:
    with pytest.raises(TrainingError, match="by nan"):
        require_parity(float("nan"), "on a probe", BOUND)


def test_the_gate_is_passed_after_ever_more_pushes() -> None:
    assert [pushes for pushes in range(20) if is_due(pushes)] == [1, 2, 4, 8, 16]
