import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig
from biomni_lib.errors import LedgerError, TrainingError
from biomni_lib.rl.checkpoints import Checkpoint, identity, last_checkpoint, restore_checkpoint, save_checkpoint
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.optimizers import Optimizers
from biomni_lib.rl.recipe import Recipe, load_recipe
from biomni_lib.rl.samples import micro_batches, to_sample
from biomni_lib.rl.scheduler import Group
from biomni_lib.rl.weights import merged_state, save_weights, untied_state
from tests.rl_toy import VOCABULARY, ToyTask, save_toy_model, toy_engine, toy_rollout

SHORT = {"max_tokens": 32, "max_turn_tokens": 16}
AGGREGATIONS = {
    "token_mean": {},
    "sequence_mean": {},
    "constant_length": {},
    "token_mean_micro_batch": {"loss_micro_batch": 2},
}


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return save_toy_model(tmp_path / "model")


@pytest.fixture
def make_learner(make_config: Callable[..., RunConfig], model_dir: Path) -> Callable[..., Learner]:
    def make(*, recipe: dict[str, Any] | None = None, **rl: Any) -> Learner:
        chosen = Recipe(**{**load_recipe("default").model_dump(), **(recipe or {})})
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        return Learner(model, chosen, make_config(agent=SHORT, rl={"learning_rate": 1e-2, "grad_clip": 1e6, **rl}))

    return make


def groups_of(count: int, size: int, seed: int = 0) -> list[Group]:
    """Random ledgers of several turns and lengths, with rollout log-probs that are not the model's."""
    rng = np.random.default_rng(seed)

    def member(index: int, sample: int) -> Trajectory:
        made = Trajectory("toy", f"i{index}", sample, total=float(rng.integers(0, 3)), format=1.0, ending="solved")
        for _ in range(rng.integers(1, 4)):
            made.append(rng.integers(2, VOCABULARY, rng.integers(1, 6)).tolist(), sampled=False)
            n = int(rng.integers(1, 5))
            ids = rng.integers(2, VOCABULARY, n).tolist()
            made.append(ids, sampled=True, logprobs=rng.uniform(-4, -1, n).tolist(), policy_versions=[0] * n)
        made.append([3, 4], sampled=False)
        return made

    return [Group(index, [member(index, sample) for sample in range(size)]) for index in range(count)]


def gradients(learner: Learner, groups: list[Group]) -> dict[str, torch.Tensor]:
    """The gradient of one update, seen through an optimizer that only subtracts it."""
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.optimizers = Optimizers([torch.optim.SGD(learner.parameters, lr=1.0)])
    learner.step(groups)
    return {name: before[name] - p.detach() for name, p in learner.model.named_parameters()}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_micro_batches_change_no_gradient(
    make_learner: Callable[..., Learner], aggregation: str, dual_clip: float | None
) -> None:
    recipe = {"aggregation": aggregation, "dual_clip": dual_clip, "kl_coefficient": 0.1, **AGGREGATIONS[aggregation]}
    groups = groups_of(3, 4)
    whole = gradients(make_learner(recipe=recipe, micro_batch_tokens=8192), groups)
    single = gradients(make_learner(recipe=recipe, micro_batch_tokens=32), groups)
    assert any(g.abs().max() > 1e-4 for g in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, single[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
def test_the_order_of_a_batch_changes_no_gradient(make_learner: Callable[..., Learner], aggregation: str) -> None:
    groups = groups_of(3, 4)
    one = gradients(make_learner(recipe={"aggregation": aggregation}), groups)
    other = gradients(make_learner(recipe={"aggregation": aggregation}), groups[::-1])
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], atol=1e-6, rtol=1e-4)


def test_the_gradient_equals_one_written_plainly(make_learner: Callable[..., Learner], model_dir: Path) -> None:
    """One sequence at a time, full logits, the token-mean TIS policy gradient as in the papers."""
    groups = groups_of(2, 3)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    members = [t for group in groups for t in group.trajectories]
    rewards = np.array([t.total for t in members]).reshape(2, 3)
    advantages = (rewards - rewards.mean(axis=1, keepdims=True)).ravel()
    total, tokens = torch.zeros(()), sum(t.loss_mask.sum() for t in members)
    for t, advantage in zip(members, advantages, strict=True):
        logits = model(torch.tensor(t.token_ids[None].astype(np.int64))).logits[0]
        logprobs = torch.log_softmax(logits, dim=-1)
        for position in np.flatnonzero(t.loss_mask):
            new = logprobs[position - 1, t.token_ids[position]]
            weight = min(float(new.detach().exp() / np.exp(t.logprobs[position])), 2.0)
            total = total - weight * (new - new.detach()).exp() * float(advantage)
    (total / tokens).backward()
    got = gradients(make_learner(), groups)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_only_sampled_tokens_carry_loss(make_learner: Callable[..., Learner]) -> None:
    """The loss is a sum over exactly the masked positions, and what follows the last of them changes nothing."""
    groups = groups_of(2, 3)
    longer = [Group(g.index, [dataclasses.replace(t) for t in g.trajectories]) for g in groups]
    for group in longer:
        for t in group.trajectories:
            t.append([5, 6, 7, 8], sampled=False)
    one, other = gradients(make_learner(), groups), gradients(make_learner(), longer)
    assert all(torch.equal(gradient, other[name]) for name, gradient in one.items())
    for t in longer[0].trajectories:
        assert len(make_learner().logprobs([to_sample(t, 1.0)])[0][0]) == t.loss_mask.sum()


def test_neighbours_in_a_row_change_no_log_prob(make_learner: Callable[..., Learner]) -> None:
    learner = make_learner()
    samples = [to_sample(t, 1.0) for group in groups_of(2, 4) for t in group.trajectories]
    together, _ = learner.logprobs(samples)
    for sample, logprobs in zip(samples, together, strict=True):
        torch.testing.assert_close(learner.logprobs([sample])[0][0], logprobs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trained", [{}, {"lora_rank": 4}])
async def test_log_probs_equal_the_engines_over_turns_and_after_a_swap(
    make_learner: Callable[..., Learner], model_dir: Path, tmp_path: Path, trained: dict[str, Any]
) -> None:
    """With an adapter the engine runs the merged weights."""
    learner, engine = make_learner(**trained), toy_engine(model_dir, slots=4)
    instances = ToyTask().instances("train")
    try:
        for version in range(3):
            trajectories = [await toy_rollout(engine, i, seed=n, sample=0) for n, i in enumerate(instances)]
            for t in trajectories:
                assert t.oldest_version == version
                sample = to_sample(t, 1.0)
                difference = (learner.logprobs([sample])[0][0] - sample.rollout).abs().max()
                assert difference < 1e-4
            metrics = learner.step([Group(i, trajectories[4 * i : 4 * i + 4]) for i in range(4)])
            assert metrics["policy/fresh_abs_diff_max"] < 1e-4
            save_weights(learner.model, tmp_path / "w.safetensors")
            await engine.load_weights(version + 1, tmp_path / "w.safetensors")
    finally:
        await engine.close()


def test_flat_groups_and_empty_responses_train_nothing(make_learner: Callable[..., Learner]) -> None:
    flat = groups_of(2, 3)
    for group in flat:
        for t in group.trajectories:
            t.total = 1.0
    empty = Trajectory("toy", "e", total=0.0)
    empty.append([2, 3], sampled=False)
    for groups in (flat, [Group(0, [empty, dataclasses.replace(empty, total=2.0)])]):
        learner = make_learner()
        assert all(g.abs().max() == 0 for g in gradients(learner, groups).values())
        assert learner.version == 1


def test_overlong_malformed_trajectories_stay_in_the_mean_and_out_of_the_loss(
    make_learner: Callable[..., Learner],
) -> None:
    recipe = {"overlong_malformed_fraction": 0.01}
    groups = groups_of(1, 3)
    groups[0].trajectories[0].format = 0.0
    learner = make_learner(recipe=recipe)
    samples = learner._weigh(learner._samples(groups))
    assert groups[0].trajectories[0] not in [s.trajectory for s in samples]
    assert learner._samples(groups)[1].advantage == pytest.approx(
        groups[0].trajectories[1].total - np.mean([t.total for t in groups[0].trajectories])
    )


def test_more_updates_a_batch_use_the_policy_of_its_start(make_learner: Callable[..., Learner]) -> None:
    groups = groups_of(2, 4)
    single = make_learner(learning_rate=0.05).step(groups)
    assert single["policy/clip_fraction_low"] == single["policy/clip_fraction_high"] == 0
    learner = make_learner(recipe={"optimizer_steps": 4}, learning_rate=0.05)
    metrics = learner.step(groups)
    assert learner.optimizers.members[0].state[learner.parameters[0]]["step"] == 4
    assert metrics["policy/clip_fraction_low"] + metrics["policy/clip_fraction_high"] > 0
    for name in ("policy/is_ratio", "policy/logprob_abs_diff"):  # p_old against p_rollout: before any update
        assert metrics[name] == pytest.approx(single[name], rel=1e-4)


@pytest.mark.parametrize("name", ["as-intended", "as-executed"])
def test_the_originals_recipes_train(make_learner: Callable[..., Learner], name: str) -> None:
    recipe = load_recipe(name)
    learner = make_learner(recipe=recipe.model_dump())
    metrics = learner.step(groups_of(2, 8))
    assert np.isfinite(metrics["loss/policy"])
    assert learner.optimizers.members[0].state[learner.parameters[0]]["step"] == recipe.optimizer_steps


def test_a_loss_that_is_not_finite_is_skipped_counted_and_then_stops(make_learner: Callable[..., Learner]) -> None:
    learner, groups = make_learner(), groups_of(2, 3)
    with torch.no_grad():
        learner.model.lm_head.weight[0, 0] = float("nan")
    state = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    for skipped in (1, 2):
        assert learner.step(groups)["optim/skipped"] == skipped
    for name, p in learner.model.named_parameters():
        torch.testing.assert_close(p.detach(), state[name], equal_nan=True)
    with pytest.raises(TrainingError, match="3 updates in a row .*; the last on i0/0, i0/1, i0/2$"):
        learner.step(groups)


def test_the_trajectories_whose_loss_is_not_finite_are_named(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Of those in one row, the two that read a token whose embedding is no number."""
    model = AutoModelForCausalLM.from_pretrained(save_toy_model(tmp_path / "untied", tied=False), dtype=torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight[VOCABULARY - 1] = float("nan")
    groups = groups_of(2, 3)
    for group in groups:
        for t, total in zip(group.trajectories, (0.0, 1.0, 2.0), strict=True):
            t.total, t.token_ids = total, np.minimum(t.token_ids, VOCABULARY - 2)
    groups[0].trajectories[2].token_ids[0] = groups[1].trajectories[0].token_ids[0] = VOCABULARY - 1
    learner = Learner(model, load_recipe("default"), make_config(agent=SHORT))
    learner.skipped_in_row = 2
    with pytest.raises(TrainingError, match="3 updates in a row .*; the last on i0/2, i1/0$"):
        learner.step(groups)


def test_where_every_loss_is_finite_the_gradients_trajectories_are_named(make_learner: Callable[..., Learner]) -> None:
    learner, groups = make_learner(), groups_of(6, 3)
    learner.parameters[0].register_hook(lambda gradient: gradient * float("inf"))
    learner.skipped_in_row = 2
    with pytest.raises(TrainingError, match=r"the last on i0/0, i0/1, .* and \d more$"):
        learner.step(groups)


def test_a_finite_update_ends_the_row_of_skipped_ones(make_learner: Callable[..., Learner]) -> None:
    learner, groups = make_learner(), groups_of(2, 3)
    learner.skipped, learner.skipped_in_row = 2, 2
    assert learner.step(groups)["optim/skipped"] == 2
    assert learner.skipped_in_row == 0


@pytest.mark.parametrize("reward", [2.5, -0.1, float("nan")])
def test_a_reward_outside_its_range_is_refused(make_learner: Callable[..., Learner], reward: float) -> None:
    groups = groups_of(1, 2)
    groups[0].trajectories[1].total = reward
    with pytest.raises(TrainingError, match=r"i0/1: reward .* outside"):
        make_learner().step(groups)


def test_ledgers_that_rl_cannot_use_are_refused() -> None:
    text_only = Trajectory("toy", "t")
    text_only.append([1], sampled=False)
    text_only.append([2], sampled=True)
    with pytest.raises(LedgerError, match="without log-probability"):
        to_sample(text_only, 1.0)
    headless = Trajectory("toy", "t")
    headless.append([2], sampled=True, logprobs=[-1.0], policy_versions=[0])
    with pytest.raises(LedgerError, match="prompt must come first"):
        to_sample(headless, 1.0)
    torn = dataclasses.replace(headless, logprobs=np.zeros(3, np.float32))
    with pytest.raises(LedgerError, match="lengths disagree"):
        to_sample(torn, 1.0)


def test_micro_batches_keep_every_sample_within_the_budget() -> None:
    samples = [to_sample(t, 1.0) for group in groups_of(6, 4) for t in group.trajectories]
    batches = micro_batches(samples, 64)
    assert sorted(id(s) for batch in batches for s in batch) == sorted(id(s) for s in samples)
    for batch in batches:
        assert len(batch) == 1 or sum(len(s.ids) for s in batch) <= 64


def test_gradient_checkpointing_changes_no_bit_of_a_gradient(make_learner: Callable[..., Learner]) -> None:
    groups, calls = groups_of(2, 4), []
    plain = gradients(make_learner(), groups)
    learner = make_learner(gradient_checkpointing=True)
    learner.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    again = gradients(learner, groups)
    assert len(calls) == 2  # forward, and once more on the way back
    assert all(torch.equal(plain[name], gradient) for name, gradient in again.items())


def test_muon_trains_the_hidden_matrices_and_adamw_the_rest(make_learner: Callable[..., Learner]) -> None:
    learner = make_learner(optimizer="muon", lr_muon=0.03)
    muon, adamw = learner.optimizers.members
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.step(groups_of(2, 4))
    hidden = {id(p) for p in muon.param_groups[0]["params"]}
    assert {muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"]} == {0.03, 1e-2}
    for name, p in learner.model.named_parameters():
        assert (id(p) in hidden) == ("proj" in name)
        step = (p.detach() - before[name]).abs().max()
        assert (
            step == pytest.approx(1e-2, rel=0.1) if "proj" not in name else step > 0
        )  # AdamW's first step is its rate


def test_rates_rise_over_the_warm_up(make_learner: Callable[..., Learner]) -> None:
    learner = make_learner(warmup_steps=4, optimizer="muon", lr_muon=0.4)
    rates = [learner.step(groups_of(1, 3, seed))["optim/lr"] for seed in range(6)]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    learner.version = 1
    learner.step(groups_of(1, 3))
    assert [o.param_groups[0]["lr"] for o in learner.optimizers.members] == pytest.approx([0.2, 0.005])


def start_of(model_dir: Path) -> dict[str, torch.Tensor]:
    return untied_state(AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32))


def test_an_adapter_is_all_that_is_trained_and_nobody_outside_sees_it(
    make_learner: Callable[..., Learner], model_dir: Path, tmp_path: Path
) -> None:
    """What is published has the start's names and shapes, and a plain model of these weights is the learner's."""
    learner, start = make_learner(lora_rank=4), start_of(model_dir)
    first = merged_state(learner.model)
    assert all(torch.equal(first[name], tensor) for name, tensor in start.items()) and first.keys() == start.keys()
    assert sum(p.numel() for p in learner.parameters) == 2 * 4 * (64 + 2 * 48 + 64 + 3 * 96)  # r (in + out) each, x 2
    for _ in range(2):
        learner.step(groups_of(2, 4))
    now = untied_state(learner.model)
    assert all(torch.equal(now[n.replace("proj.", "proj.base_layer.")], tensor) for n, tensor in start.items())
    save_weights(learner.model, tmp_path / "published.safetensors")
    plain = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    plain.load_state_dict(load_file(tmp_path / "published.safetensors"), strict=False)
    changed = {n for n, tensor in untied_state(plain).items() if not torch.equal(tensor, start[n])}
    assert changed == {n for n in start if "proj" in n}
    sample = to_sample(groups_of(1, 1)[0].trajectories[0], 1.0)
    learned, (published,) = learner.logprobs([sample])[0][0], make_learner().logprobs([sample], packed(plain))[0]
    torch.testing.assert_close(learned, published, atol=1e-5, rtol=1e-5)


def packed(model: Any) -> Any:
    model.set_attn_implementation("packed")
    return model


def test_an_adapters_reference_is_the_start(make_learner: Callable[..., Learner]) -> None:
    learner, groups = make_learner(recipe={"kl_coefficient": 0.1}, lora_rank=4), groups_of(2, 4)
    assert learner.step(groups)["loss/kl"] == 0
    assert learner.step(groups)["loss/kl"] > 0
    samples = learner._weigh(learner._samples(groups))
    learner._fill_fixed_logprobs(samples)
    for sample in samples:
        started, now = make_learner().logprobs([sample])[0][0], learner.logprobs([sample])[0][0]
        torch.testing.assert_close(sample.reference, started.detach(), atol=1e-5, rtol=1e-5)
        assert (now - started).abs().max() > 1e-3
    assert all(p.requires_grad for p in learner.parameters)


def test_an_adapter_starts_from_the_runs_seed(make_learner: Callable[..., Learner]) -> None:
    torch.manual_seed(1)
    drawn = torch.get_rng_state()
    one = make_learner(lora_rank=4)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.manual_seed(2)
    other = make_learner(lora_rank=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters, other.parameters, strict=True))


def identity_of(learner: Learner, start: str = "sft") -> dict[str, dict[str, Any]]:
    return identity(learner.config, learner.recipe, start)


def save(folder: Path, learner: Learner) -> Checkpoint:
    return save_checkpoint(folder, learner, scheduler={"next_index": 4}, seconds=1.5, identity=identity_of(learner))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_rank": 4},
        {"optimizer": "muon", "warmup_steps": 3},
        {"lora_rank": 4, "optimizer": "muon"},
        {"gradient_checkpointing": True},
    ],
)
def test_a_restored_learner_goes_on_bit_for_bit(
    make_learner: Callable[..., Learner], tmp_path: Path, changes: dict[str, Any]
) -> None:
    batches = [groups_of(2, 4, seed) for seed in range(4)]
    recipe = {"kl_coefficient": 0.1}  # the starting policy must be found again too
    whole, first, second = (make_learner(recipe=recipe, **changes) for _ in range(3))
    for batch in batches[:2]:
        whole.step(batch)
        first.step(batch)
    saved = save(tmp_path, first)
    assert last_checkpoint(tmp_path) == saved
    assert restore_checkpoint(saved, second, identity_of(second))["scheduler"] == {"next_index": 4}
    for batch in batches[2:]:
        assert whole.step(batch) == second.step(batch)
    one, other = merged_state(whole.model), merged_state(second.model)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_checkpoints_of_something_else_are_refused(make_learner: Callable[..., Learner], tmp_path: Path) -> None:
    learner = make_learner()
    saved = save(tmp_path, learner)
    with pytest.raises(TrainingError, match="rl.learning_rate: 0.01, now 0.5"):
        other = make_learner(learning_rate=0.5)
        restore_checkpoint(saved, other, identity_of(other))
    with pytest.raises(TrainingError, match="recipe.divide_by_std: False, now True"):
        other = make_learner(recipe={"divide_by_std": True})
        restore_checkpoint(saved, other, identity_of(other))
    with pytest.raises(TrainingError, match="run.start: 'sft', now 'another'"):
        restore_checkpoint(saved, learner, identity_of(learner, start="another"))


def test_old_checkpoints_go_and_half_written_ones_do_not_count(
    make_learner: Callable[..., Learner], tmp_path: Path
) -> None:
    learner = make_learner()
    for version in (1, 2, 3):
        learner.version = version
        save(tmp_path, learner)
    (tmp_path / ".step-00004.123.tmp").mkdir()
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00002", "step-00003"]
    newest = last_checkpoint(tmp_path)
    assert newest is not None and newest.step == 3
