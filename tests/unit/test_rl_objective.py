"""Every recipe's objective against a plain reference, and what may not change its gradient."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig, recipe_names
from biomni_lib.errors import ShapeError, TrainingError
from biomni_lib.rl.aggregation import sequence_weights
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.objective import TokenBatch, policy_loss
from biomni_lib.rl.optimizers import Optimizers
from biomni_lib.rl.recipe import Aggregation, Recipe, load_recipe
from biomni_lib.rl.samples import Sample, to_sample
from biomni_lib.rl.scheduler import Group
from tests.rl_reference import Sequence, objective
from tests.rl_toy import VOCABULARY, save_toy_model

L_MAX = 50


def changed(base: str, **change: Any) -> Recipe:
    return Recipe(**{**load_recipe(base).model_dump(), **change})


RECIPES = {name: load_recipe(name) for name in recipe_names() if name != "correctness-only"} | {
    "geometric": changed("default", correction="geometric_mask", tis_cap=None, geometric_range=(0.7, 1.5)),
    "anchored": changed("default", correction="rollout_anchored", tis_cap=None),
    "dual": changed("default", dual_clip=3.0),
    "kl": changed("icepop", kl_coefficient=0.1),
    "entropy": changed("default", entropy_coefficient=0.05),
    "gspo-tis": changed("gspo", correction="tis", tis_cap=1.2, clip_low=0.1, clip_high=0.1, kl_coefficient=0.1),
    "gspo-wide": changed("gspo", clip_low=0.3, clip_high=0.3, dual_clip=1.2),
    "micro-batches": changed("as-executed", loss_micro_batch=2),
}
"""The shipped ones, but for one that differs in the reward alone, and others for what none of them takes."""
CROSSED = RECIPES | {
    f"{loss}, {aggregation}": changed(
        "as-executed", loss=loss, aggregation=aggregation, loss_micro_batch=2 if "micro" in aggregation else None
    )
    for loss in ("clip", "gspo")
    for aggregation in get_args(Aggregation)
}
"""And every loss with every aggregation."""


def random_sequences(sizes: list[int], seed: int, spread: float = 0.4) -> list[Sequence]:
    """Log-probabilities of four policies that are near each other, and advantages of both signs and 0."""
    rng = np.random.default_rng(seed)

    def one(tokens: int) -> Sequence:
        behaviour = rng.uniform(-4, -1, tokens)
        new, old, reference = behaviour + rng.normal(scale=spread, size=(3, tokens))
        return Sequence(new, old, behaviour, reference, rng.uniform(0, 2, tokens), float(rng.choice([-1.5, 0, 0.5, 1])))

    return [one(tokens) for tokens in sizes]


def to_batch(recipe: Recipe, sequences: list[Sequence], dtype: torch.dtype = torch.float64) -> TokenBatch:
    def column(name: str) -> torch.Tensor:
        return torch.tensor(np.concatenate([getattr(s, name) for s in sequences]), dtype=dtype)

    sizes = torch.tensor([len(s.new) for s in sequences])
    return TokenBatch(
        logprobs=column("new").requires_grad_(),
        behaviour=column("behaviour"),
        entropy=column("entropy").requires_grad_(),
        segment=torch.arange(len(sequences)).repeat_interleave(sizes),
        advantages=torch.tensor([s.advantage for s in sequences], dtype=dtype),
        weights=sequence_weights(
            sizes, recipe.aggregation, constant_length=L_MAX, loss_micro_batch=recipe.loss_micro_batch
        ).to(dtype),
        proximal=column("old"),
        reference=column("reference"),
    )


sizes_of_sequences = st.lists(st.integers(0, 7), min_size=1, max_size=6)


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=25)
@given(sizes=sizes_of_sequences, seed=st.integers(0, 9999))
def test_every_recipe_equals_its_papers_formula(name: str, sizes: list[int], seed: int) -> None:
    sequences = random_sequences(sizes, seed)
    loss, metrics = policy_loss(RECIPES[name], to_batch(RECIPES[name], sequences))
    assert loss.item() == pytest.approx(objective(RECIPES[name], sequences, L_MAX), rel=1e-5, abs=1e-6)
    assert metrics["tokens"] == sum(sizes)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"gspo-tis"}))
def test_every_recipes_gradient_is_the_slope_of_its_papers_formula(name: str) -> None:
    """Corrections hold still: they depend on the policy at the batch's start, not on the one in training."""
    recipe, sequences, h = RECIPES[name], random_sequences([3, 5, 1, 4], seed=5), 1e-6
    batch = to_batch(recipe, sequences)
    policy_loss(recipe, batch)[0].backward()
    slopes = []
    for s in sequences:
        for t in range(len(s.new)):
            ends = []
            for step in (h, -h):
                s.new[t] += step
                ends.append(objective(recipe, sequences, L_MAX))
                s.new[t] -= step
            slopes.append((ends[0] - ends[1]) / (2 * h))
    np.testing.assert_allclose(batch.logprobs.grad, slopes, rtol=1e-4, atol=1e-8)
    if recipe.entropy_coefficient:
        np.testing.assert_allclose(batch.entropy.grad, -recipe.entropy_coefficient / 13)  # 13 tokens, token mean


def test_a_tokens_weight_scales_that_tokens_gradient_in_gspo() -> None:
    """GSPO-token, by hand: s = 1 (log-ratios 0.1 and -0.1), rho = 0.5 and 1.5, capped at 1.2; A = 1, no KL."""
    recipe = RECIPES["gspo-tis"].model_copy(update={"kl_coefficient": 0.0})
    old = np.array([-1.0, -1.0])
    sequence = Sequence(old + (0.1, -0.1), old, old - np.log([0.5, 1.5]), old, old, 1.0)
    batch = to_batch(recipe, [sequence])
    loss, _ = policy_loss(recipe, batch)
    loss.backward()
    assert loss.item() == pytest.approx(-(0.5 + 1.2) / 2)
    np.testing.assert_allclose(batch.logprobs.grad, [-0.5 / 2, -1.2 / 2])


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=15)
@given(sizes=sizes_of_sequences, seed=st.integers(0, 9999), cut=st.integers(1, 6))
def test_neither_the_cut_nor_the_order_changes_a_gradient(name: str, sizes: list[int], seed: int, cut: int) -> None:
    """In float32: the whole step at once, against micro-batches of shuffled trajectories with shuffled tokens."""
    recipe, rng = RECIPES[name], np.random.default_rng(seed)
    whole = to_batch(recipe, random_sequences(sizes, seed), torch.float32)
    expected, _ = policy_loss(recipe, whole)
    expected.backward()
    leaf = whole.logprobs.detach().clone().requires_grad_()
    trajectories, total = rng.permutation(len(sizes)), 0.0
    for part in np.array_split(trajectories, cut):
        tokens = torch.tensor(rng.permutation(np.flatnonzero(np.isin(whole.segment, part))), dtype=torch.int64)
        position = {int(trajectory): row for row, trajectory in enumerate(part)}
        loss, _ = policy_loss(
            recipe,
            TokenBatch(
                logprobs=leaf[tokens],
                behaviour=whole.behaviour[tokens],
                entropy=whole.entropy[tokens],
                segment=torch.tensor([position[int(i)] for i in whole.segment[tokens]], dtype=torch.int64),
                advantages=whole.advantages[torch.tensor(part, dtype=torch.int64)],
                weights=whole.weights[torch.tensor(part, dtype=torch.int64)],
                proximal=whole.proximal[tokens],
                reference=whole.reference[tokens],
            ),
        )
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(leaf.grad, whole.logprobs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_without_a_proximal_policy_the_one_in_training_stands_in(name: str) -> None:
    """The first update of a batch: the same loss and gradient as with its log-probs written down beforehand."""
    recipe, batch = RECIPES[name], to_batch(RECIPES[name], random_sequences([4, 2, 6], seed=1))
    gradients = []
    for proximal in (None, batch.logprobs.detach().clone()):
        loss, _ = policy_loss(recipe, dataclasses.replace(batch, proximal=proximal))
        gradients.append((loss.item(), torch.autograd.grad(loss, batch.logprobs)[0]))
    assert gradients[0][0] == gradients[1][0]
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_only_the_rollout_anchor_clips_in_a_single_update() -> None:
    batch = dataclasses.replace(to_batch(RECIPES["default"], random_sequences([9, 9, 9], seed=3)), proximal=None)
    clipped = {}
    for name in ("anchored", "default", "decoupled"):
        metrics = policy_loss(RECIPES[name], batch)[1]
        clipped[name] = (metrics["policy/clip_fraction_low"] + metrics["policy/clip_fraction_high"]).item()
    assert clipped["anchored"] > 0
    assert clipped["default"] == clipped["decoupled"] == 0


@pytest.mark.parametrize("name", ["icepop", "geometric"])
def test_when_all_tokens_are_masked_nothing_is_trained(name: str) -> None:
    sequences = random_sequences([3, 4], seed=0)
    for s in sequences:
        s.behaviour -= 9.0  # rho is e^9 and more
    batch = to_batch(RECIPES[name], sequences)
    loss, metrics = policy_loss(RECIPES[name], batch)
    loss.backward()
    assert loss.item() == 0
    assert not batch.logprobs.grad.any()
    assert metrics["policy/masked_fraction"] == metrics["tokens"] == 7


@pytest.mark.parametrize("name", RECIPES)
def test_no_tokens_at_all_is_a_loss_of_zero(name: str) -> None:
    loss, metrics = policy_loss(RECIPES[name], to_batch(RECIPES[name], random_sequences([0, 0], seed=0)))
    loss.backward()
    assert loss.item() == 0
    assert all(value == 0 for value in metrics.values())


def test_a_batch_that_lacks_what_its_recipe_needs_is_refused() -> None:
    batch = to_batch(RECIPES["kl"], random_sequences([2], seed=0))
    with pytest.raises(TrainingError, match="'icepop' has a KL term"):
        policy_loss(RECIPES["kl"], dataclasses.replace(batch, reference=None))
    with pytest.raises(TrainingError, match="'default' has an entropy bonus"):
        policy_loss(RECIPES["entropy"], dataclasses.replace(batch, entropy=batch.entropy.detach()))
    with pytest.raises(ShapeError, match="a token column"):
        dataclasses.replace(batch, behaviour=torch.zeros(3))
    with pytest.raises(ShapeError, match="1 advantages, 2 weights"):
        dataclasses.replace(batch, weights=torch.zeros(2))


# The same through the learner: real weights, packed micro-batches.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    folder = save_toy_model(tmp_path_factory.mktemp("objective") / "model")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def make_learner(make_config: Callable[..., RunConfig], model: torch.nn.Module) -> Callable[..., Learner]:
    def make(recipe: Recipe, kind: type[Learner] = Learner, **rl: Any) -> Learner:
        agent = {"max_tokens": 32, "max_turn_tokens": 16}
        config = make_config(agent=agent, rl={"learning_rate": 1e-2, "grad_clip": 1e6, "max_staleness": 1, **rl})
        learner = kind(copy.deepcopy(model), recipe, config)
        learner.optimizers = Optimizers([torch.optim.SGD(learner.parameters, lr=0.1)])
        return learner

    return make


def groups_of(count: int, size: int) -> list[Group]:
    """Ledgers of several turns, lengths, endings and rewards, sampled by another policy than the learner's."""
    rng = np.random.default_rng(0)

    def member(index: int, sample: int) -> Trajectory:
        made = Trajectory("toy", f"i{index}", sample, total=float(rng.integers(0, 3)), format=1.0, ending="solved")
        for _ in range(rng.integers(1, 4)):
            made.append(rng.integers(2, VOCABULARY, rng.integers(1, 6)).tolist(), sampled=False)
            n = int(rng.integers(1, 5))
            ids = rng.integers(2, VOCABULARY, n).tolist()
            made.append(ids, sampled=True, logprobs=rng.uniform(-3, -2, n).tolist(), policy_versions=[0] * n)
        return made

    return [Group(index, [member(index, sample) for sample in range(size)]) for index in range(count)]


def moved(learner: Learner, groups: list[Group]) -> dict[str, torch.Tensor]:
    """What one batch adds to the weights, over all of its updates."""
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.step(groups)
    return {name: p.detach() - before[name] for name, p in learner.model.named_parameters()}


class Unpacked(Learner):
    """Each trajectory alone, whole logits, transformers' own attention: no micro-batch, no row, no chunk."""

    def logprobs(self, samples: Any, model: Any = None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        stock = model or self.model
        stock.set_attn_implementation("sdpa")
        out = [torch.log_softmax(stock(s.ids[None]).logits[0, :-1], dim=-1) for s in samples]
        picked = [every[s.mask[1:]] for every, s in zip(out, samples, strict=True)]
        targets = [s.ids[s.mask] for s in samples]
        logprobs = [every.gather(1, ids[:, None])[:, 0] for every, ids in zip(picked, targets, strict=True)]
        return logprobs, [torch.distributions.Categorical(logits=every).entropy() for every in picked]


class Shuffled(Learner):
    """The trajectories of every update in another order, once their weights are fixed."""

    def _weigh(self, samples: list[Sample]) -> list[Sample]:
        used = super()._weigh(samples)
        return [used[i] for i in np.random.default_rng(1).permutation(len(used))]


def assert_same_update(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert any(change.abs().max() > 1e-5 for change in one.values())
    for parameter, change in one.items():
        torch.testing.assert_close(other[parameter], change, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("name", CROSSED)
def test_micro_batches_packing_and_order_change_no_update_of_any_recipe(
    make_learner: Callable[..., Learner], name: str
) -> None:
    """Against one row for all: a trajectory or two a row, none packed at all, another order within every update."""
    groups, recipe = groups_of(2, 4), CROSSED[name]
    whole = moved(make_learner(recipe, micro_batch_tokens=8192), groups)
    assert_same_update(whole, moved(make_learner(recipe, micro_batch_tokens=32), groups))
    assert_same_update(whole, moved(make_learner(recipe, kind=Unpacked), groups))
    assert_same_update(whole, moved(make_learner(recipe, kind=Shuffled, micro_batch_tokens=50), groups))


@pytest.mark.parametrize("name", sorted(n for n, r in CROSSED.items() if r.aggregation != "token_mean_micro_batch"))
def test_the_order_of_a_batch_changes_no_update_of_any_recipe(make_learner: Callable[..., Learner], name: str) -> None:
    """With one update a batch, since the order says which of several a group is trained in; as it says which
    trajectories share a token mean, where an aggregation takes it within a micro-batch."""
    recipe, groups = CROSSED[name].model_copy(update={"optimizer_steps": 1}), groups_of(2, 4)
    mixed = [Group(g.index, [g.trajectories[i] for i in (2, 3, 0, 1)]) for g in groups[::-1]]
    assert_same_update(moved(make_learner(recipe), groups), moved(make_learner(recipe), mixed))


@pytest.mark.parametrize("name", RECIPES)
def test_observation_tokens_carry_no_gradient_in_any_recipe(make_learner: Callable[..., Learner], name: str) -> None:
    made = Trajectory("toy", "i", total=2.0, ending="solved")
    made.append([2, 3], sampled=False)
    made.append([4], sampled=True, logprobs=[0.0], policy_versions=[0])
    made.append([5, 5, 5], sampled=False)
    made.append([6], sampled=True, logprobs=[0.0], policy_versions=[0])
    learner = make_learner(RECIPES[name].model_copy(update={"optimizer_steps": 1}))
    made.logprobs[made.loss_mask] = learner.logprobs([to_sample(made, 0.0)])[0][0].detach().numpy()  # on-policy
    pushes: list[torch.Tensor] = []

    def watch(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        if output.last_hidden_state.requires_grad:
            output.last_hidden_state.register_hook(pushes.append)

    learner.model.model.register_forward_hook(watch)
    learner.step([Group(0, [made, dataclasses.replace(made, total=0.0)])])
    touched = pushes[0].abs().sum(dim=-1) > 0  # (1, positions)
    assert touched.tolist() == [[False, True, False, False, False, True, False] * 2]  # end to end


def test_flat_groups_are_trained_only_by_what_needs_no_advantage(make_learner: Callable[..., Learner]) -> None:
    flat = groups_of(1, 3)
    for t in flat[0].trajectories:
        t.total = 1.0
    assert not any(change.any() for change in moved(make_learner(RECIPES["default"]), flat).values())
    assert any(change.any() for change in moved(make_learner(RECIPES["entropy"]), flat).values())


def test_an_entropy_bonus_raises_the_entropy(make_learner: Callable[..., Learner]) -> None:
    learner, flat = make_learner(changed("default", entropy_coefficient=5.0)), groups_of(1, 3)
    for t in flat[0].trajectories:
        t.total = 1.0
    entropies = [learner.step(flat)["policy/entropy"] for _ in range(4)]
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0]


def test_trajectories_cut_off_stay_in_the_mean_and_out_of_the_loss(make_learner: Callable[..., Learner]) -> None:
    groups = groups_of(1, 4)
    for t, total in zip(groups[0].trajectories, (2.0, 0.0, 0.0, 0.0), strict=True):
        t.total = total
    groups[0].trajectories[0].ending = "token_limit"
    learner = make_learner(changed("default", overlong_filter=True))
    samples = learner._samples(groups)
    used = learner._weigh(samples)
    assert [s.trajectory.sample for s in used] == [1, 2, 3]
    assert [s.advantage for s in samples] == [1.5, -0.5, -0.5, -0.5]
    assert sum(s.weight * len(s.rollout) for s in used) == pytest.approx(1)  # the mean is over what is left


def test_long_trajectories_lose_reward_by_the_penalty(make_learner: Callable[..., Learner]) -> None:
    """32 tokens allowed, the last half penalised: 16 cost nothing, 24 cost half, 32 cost 1."""
    groups = groups_of(1, 3)
    for t, tokens in zip(groups[0].trajectories, (16, 24, 32), strict=True):
        t.append([3] * (tokens - len(t.token_ids)), sampled=False)
        t.total = 2.0
    learner = make_learner(changed("default", overlong_penalty_fraction=0.5))
    assert [s.advantage for s in learner._samples(groups)] == [0.5, 0.0, -0.5]
