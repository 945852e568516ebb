"""The benchmark of the learner in tiny sizes: real processes train on one batch, and tell of what they did."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from biomni_lib.agent.ledger import Trajectory, Turn, save_trajectories
from biomni_lib.config import RunConfig
from biomni_lib.errors import RunError
from biomni_lib.sft.model import save_model
from biomni_lib.stages.bench import learner, peer_environment
from biomni_lib.stages.bench.measured import Ratio, Reading
from biomni_lib.stages.loadtest.job import Batch
from biomni_lib.stages.loadtest.learner_steps import groups_of
from biomni_lib.stages.paths import paths
from tests.acting_toy import model, token_ids, tokenizer


def taught(seed: int) -> Trajectory:
    """A prompt, a turn, an observation, a turn, and framing behind it, as a teacher leaves them."""
    made = Trajectory("t", str(seed))
    for length, sampled in ((5, False), (3 + seed, True), (4, False), (6, True), (2, False)):
        if sampled:
            made.turns.append(Turn(len(made.token_ids), len(made.token_ids) + length, "execute", ""))
        made.append(token_ids(seed + length, length), sampled=sampled)
    return made


@pytest.fixture
def ready(make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """What the benchmark needs, small."""
    monkeypatch.setattr(learner, "ROUNDS", 1)
    config = make_config()
    save_model(model(), tokenizer(), paths(config).sft_model)
    save_trajectories(paths(config).accepted, [taught(seed) for seed in range(6)])
    return config


def test_the_learner_gets_the_batch_as_it_was_written(ready: RunConfig, tmp_path: Path) -> None:
    batch = learner.make_batch(ready, [taught(seed) for seed in range(6)])
    batch.save(tmp_path / "batch.json")
    groups = groups_of(Batch.load(tmp_path / "batch.json"))
    assert [len(group.trajectories) for group in groups] == [ready.rl.group_size] * ready.rl.groups_per_step
    assert batch.tokens == sum(len(t.token_ids) for group in groups for t in group.trajectories)
    of_seed = {len(t.token_ids): t for t in map(taught, range(6))}
    for made, one in zip((t for group in groups for t in group.trajectories), batch.trajectories, strict=True):
        made.validate()
        source = of_seed[len(one["ids"]) + 2]  # less the framing behind the last turn
        assert made.token_ids.tolist() == source.token_ids[:-2].tolist()
        assert made.loss_mask.tolist() == source.loss_mask[:-2].tolist()
        assert one["prompt"] == 5 and made.total in learner.REWARDS
    rewards = [t.total for group in groups for t in group.trajectories]
    assert np.std(rewards) > 0


def test_gradients_differ_in_units_of_the_largest(tmp_path: Path) -> None:
    one, two, three = (str(tmp_path / f"{n}.safetensors") for n in range(3))
    save_file({"a": torch.tensor([4.0, -8.0]), "b": torch.tensor([1.0])}, one)
    save_file({"a": torch.tensor([4.0, -8.0]), "b": torch.tensor([2.0])}, two)
    save_file({"a": torch.tensor([4.0, -8.0])}, three)
    assert learner.gradient_difference(one, one) == 0
    assert learner.gradient_difference(one, two) == 1 / 8
    with pytest.raises(RunError, match="other parameters: b"):
        learner.gradient_difference(one, three)


def test_without_the_peer_our_number_stands_alone(ready: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_environment, "REQUIREMENTS", ready.run_dir)
    found = learner.steps_against_trl(ready)
    assert isinstance(found, Reading) and found.side.value > 0
    assert "trl" in str(found) and "not available" in str(found)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(900)
def test_both_learners_take_the_same_gradient(ready: RunConfig) -> None:
    found = learner.steps_against_trl(ready)
    assert isinstance(found, Ratio) and min(found.numerator.value, found.denominator.value) > 0
    assert found.conditions["gradient_difference"] < 1e-4
