"""SFT: the loss is on written tokens alone, every example comes once an epoch, and a resumed run is the same run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError, TrainingError
from biomni_lib.sft import train
from biomni_lib.sft.pretraining import ANSWERS, copy_documents
from biomni_lib.sft.train import PART, Example, SftTrainer, batch_order, packed_loss, pad, summed_loss, to_example
from biomni_lib.tasks import Instance
from biomni_lib.tasks.baselines import read_facts
from tests.acting_toy import model, renderer, token_ids

PROMPT = (
    "Task: diagnose.\nPhenotypes: {}\nExcluded phenotypes: {}\nCandidate genes: {}\n"
    'Output format: {{"disease_name": ..., "OMIM_ID": ...}}'
)


def example(seed: int, *, prompt: int = 6, written: int = 5, observed: int = 4) -> Example:
    """A prompt, a turn, an observation and a turn."""
    ids = token_ids(seed, prompt + written + observed + written)
    mask = [False] * prompt + [True] * written + [False] * observed + [True] * written
    return Example(torch.tensor(ids), torch.tensor(mask))


EXAMPLES = [example(seed, prompt=4 + seed % 5, written=2 + seed % 4, observed=seed % 6) for seed in range(22)]


@pytest.fixture
def sft_config(make_config: Callable[..., RunConfig]) -> RunConfig:
    return make_config(sft=SFT)


SFT = {"batch_size": 4, "epochs": 3, "threads": 1, "warmup_steps": 4, "lr_adamw": 1e-2}
LORA = {"lora_rank": 4, "lora_alpha": 8, "optimizer": "adamw", "micro_batch_tokens": 64}


def test_an_example_ends_behind_the_last_written_token() -> None:
    made = Trajectory("t", "i")
    made.append([1, 2], sampled=False)
    made.append([3, 4], sampled=True)
    made.append([5], sampled=False)
    made.append([6], sampled=True)
    made.append([7, 8], sampled=False)
    learned = to_example(made)
    assert learned.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert learned.mask.tolist() == [False, False, True, True, False, True]
    made.loss_mask[:] = False
    with pytest.raises(DataError, match="t/i has no written token"):
        to_example(made)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_step_descends_the_mean_over_the_written_tokens_of_the_batch(sft_config, tmp_path, threads: int) -> None:
    """However many threads share the batch."""
    reference, batch = model(), EXAMPLES[:5]
    logits = [reference(e.ids[None]).logits[0, :-1] for e in batch]
    targets = [torch.where(e.mask[1:], e.ids[1:], -100) for e in batch]
    mean = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets))
    mean.backward()
    with torch.no_grad():
        assert float(summed_loss(reference, *pad(batch))) == pytest.approx(
            mean.item() * sum(int(e.mask[1:].sum()) for e in batch), rel=1e-5
        )
    changes = {"sft": sft_config.sft.model_copy(update={"threads": threads, "batch_size": 5})}
    trainer = SftTrainer(model(), batch, sft_config.model_copy(update=changes), tmp_path / "c.pt")
    assert trainer._backward(batch) == pytest.approx(mean.item(), abs=1e-5)
    for got, wanted in zip(trainer.model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(got.grad, wanted.grad, atol=1e-6)


def test_no_gradient_reaches_the_predictions_of_prompt_observation_and_padding() -> None:
    learner = model()
    ids, mask = pad([example(0), example(1, prompt=3, written=2)])
    grabbed: list[torch.Tensor] = []

    def grab(module: Any, inputs: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        grabbed.append(output)

    learner.model.norm.register_forward_hook(grab)  # what the logits are made of
    summed_loss(learner, ids, mask).backward()
    gradient = grabbed[0].grad.abs().sum(-1)
    predicts_written = torch.cat([mask[:, 1:], torch.zeros(2, 1, dtype=torch.bool)], dim=1)
    assert (gradient[~predicts_written] == 0).all()
    assert (gradient[predicts_written] > 0).all()


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 5))
def test_every_example_comes_once_an_epoch(lengths: list[int], size: int, epoch: int) -> None:
    batches = batch_order(lengths, size, epoch, seed=3)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert sorted(len(batch) for batch in batches)[1:] == [size] * (len(batches) - 1)
    assert batches == batch_order(lengths, size, epoch, seed=3)


@given(st.lists(st.integers(1, 400), min_size=8, max_size=60), st.integers(1, 3))
def test_parts_of_a_batch_are_of_like_length(lengths: list[int], parts_each: int) -> None:
    batches = batch_order(lengths, PART * parts_each, 0, seed=3)
    parts = [batch[i : i + PART] for batch in batches for i in range(0, len(batch), PART)]
    spread = [max(lengths[i] for i in part) - min(lengths[i] for i in part) for part in parts]
    assert sum(spread) <= max(lengths) - min(lengths) + 32 * len(parts)  # they do not overlap by more than jitter


def test_a_batch_mixes_lengths() -> None:
    lengths = [10] * 64 + [300] * 64
    mixed = [len({lengths[i] for i in batch}) == 2 for batch in batch_order(lengths, 4 * PART, 0, seed=3)]
    assert sum(mixed) >= 4  # of 8


def test_epochs_have_orders_of_their_own() -> None:
    lengths = [10 * (i % 7) for i in range(40)]
    orders = {str(batch_order(lengths, 4, epoch, seed)) for epoch in range(3) for seed in range(3)}
    assert len(orders) == 9


def weights(trainer: SftTrainer) -> dict[str, torch.Tensor]:
    return trainer.model.state_dict()


@pytest.mark.parametrize(("changes", "other"), [({}, 5), (LORA, 0)])
def test_a_resumed_training_equals_an_uninterrupted_one(
    make_config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    other: int,
) -> None:
    """The checkpoint's weights count, whatever those of the model are that is gone on with (`other`)."""
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 3)
    config = make_config(sft={**SFT, **changes})
    whole = SftTrainer(model(), EXAMPLES, config, tmp_path / "whole.pt")
    losses: dict[float, float] = {}
    whole.train(lambda m: losses.update({m["step"]: m["sft/loss"]}))
    assert len(losses) == len(whole.batches) == 18

    class Stopped(Exception):
        pass

    def stop(metrics: dict[str, float]) -> None:
        if metrics["step"] == 8:
            raise Stopped  # six steps are saved, two are lost

    with pytest.raises(Stopped):
        SftTrainer(model(), EXAMPLES, config, tmp_path / "cut.pt").train(stop)
    rest: dict[float, float] = {}
    resumed = SftTrainer(model(seed=other), EXAMPLES, config, tmp_path / "cut.pt")
    resumed.train(lambda m: rest.update({m["step"]: m["sft/loss"]}))
    assert rest == {step: loss for step, loss in losses.items() if step > 6}
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))


def test_training_lowers_the_loss_and_leaves_the_threads_alone(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = make_config(sft={**SFT, "epochs": 30})
    threads = torch.get_num_threads()
    seen: list[dict[str, float]] = []
    trainer = SftTrainer(model(scale=1.0), EXAMPLES[:4], config, tmp_path / "c.pt")
    trainer.train(seen.append)
    assert seen[-1]["sft/loss"] < 0.5 * seen[0]["sft/loss"]
    assert torch.get_num_threads() == threads
    assert (seen[-1]["step"], seen[-1]["seconds_left"]) == (30, 0)


def test_the_rate_rises_stays_and_falls(sft_config: RunConfig, tmp_path: Path) -> None:
    seen: list[float] = []
    SftTrainer(model(), EXAMPLES, sft_config, tmp_path / "c.pt").train(lambda m: seen.append(m["optim/lr_share"]))
    cooled = [left / (18 * train.COOLDOWN) for left in range(18, 0, -1)]
    assert seen[:4] == [0.25, 0.5, 0.75, 1.0]
    assert seen[4:] == pytest.approx([min(1.0, share) for share in cooled[4:]])
    assert seen[-1] < 0.2


def test_every_parameter_has_one_optimizer(sft_config: RunConfig, tmp_path: Path) -> None:
    trainer = SftTrainer(model(), EXAMPLES, sft_config, tmp_path / "c.pt")
    muon, adamw = ([p for group in o.param_groups for p in group["params"]] for o in trainer.optimizers.members)
    assert all(p.ndim == 2 for p in muon) and len(muon) == 2 * 7  # q, k, v, o, gate, up, down of each layer
    assert {id(p) for p in [*muon, *adamw]} == {id(p) for p in trainer.model.parameters()}
    assert len(muon) + len(adamw) == len(list(trainer.model.parameters()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_rows_laid_end_to_end_have_the_loss_and_the_gradient_of_padded_ones(
    make_config: Callable[..., RunConfig], tmp_path: Path, checkpointing: bool
) -> None:
    packed = {"micro_batch_tokens": 48, "gradient_checkpointing": checkpointing, "threads": 2}
    settings = [make_config(sft={**SFT, **changes}) for changes in ({}, packed)]
    padded, laid = (SftTrainer(model(), EXAMPLES, config, tmp_path / "c.pt") for config in settings)
    rows = laid._parts(EXAMPLES[:6])
    assert 1 < len(rows) < 6 and all(sum(len(e.ids) for e in row) <= 48 for row in rows)
    assert laid._backward(EXAMPLES[:6]) == pytest.approx(padded._backward(EXAMPLES[:6]), abs=1e-5)
    for ours, reference in zip(laid.parameters, padded.parameters, strict=True):
        assert torch.allclose(ours.grad, reference.grad, atol=1e-6)


def test_an_adapter_alone_is_trained_and_then_merged(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    config, seen = make_config(sft={**SFT, **LORA, "epochs": 30}), []
    given = model(scale=1.0)
    start = {name: weights.clone() for name, weights in given.state_dict().items()}
    trainer = SftTrainer(given, EXAMPLES[:4], config, tmp_path / "c.pt")
    assert len(trainer.parameters) == 2 * 2 * 7  # two factors for q, k, v, o, gate, up, down of both layers
    trainer.train(seen.append)
    assert seen[-1]["sft/loss"] < seen[0]["sft/loss"] - 0.4  # small frozen embeddings allow for about 0.6
    with torch.no_grad():
        beside = float(packed_loss(given, EXAMPLES[:4]))
        merged = trainer.merged()
        assert float(packed_loss(merged, EXAMPLES[:4])) == pytest.approx(beside, rel=1e-5)
    assert merged.state_dict().keys() == start.keys()
    changed = {name for name, weights in merged.state_dict().items() if not torch.equal(weights, start[name])}
    assert changed == {name for name in start if name.endswith("_proj.weight")}


def test_nothing_to_learn_from_and_a_loss_that_is_no_number(sft_config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no accepted trajectory"):
        SftTrainer(model(), [], sft_config, tmp_path / "c.pt")
    broken = model()
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="SFT loss is nan at step 0"):
        SftTrainer(broken, EXAMPLES, sft_config, tmp_path / "c.pt").train()


DISEASE = '{"OMIM_ID": "154700", "disease_name": "Some disease"}'
ID = r"HP:\d{7}|ENSG\d{11}|\b\d{6}\b"


def test_a_copy_document_repeats_the_ids_that_it_shows() -> None:
    genes = [f"ENSG00000{100000 + i}" for i in range(8)]
    causal = PROMPT.format("HP:0000003, HP:0000004", "HP:0000005", ", ".join(genes[4:]))
    instances = [
        Instance(PROMPT.format("HP:0000001, HP:0000002", "none", ", ".join(genes[:4])), DISEASE, "t", "1"),
        Instance(causal.replace("OMIM_ID", "causal_gene"), genes[5], "t", "2"),
    ]
    documents = copy_documents(instances, renderer(), count=20, seed=1)
    for document in documents:
        shown, copied = renderer().decode(document.ids[~document.mask]), renderer().decode(document.ids[document.mask])
        for ids in filter(None, read_facts(shown)):
            assert f": {', '.join(ids)}" in copied
        assert set(re.findall(ID, copied)) == set(re.findall(ID, shown))
        observed = re.findall(ID, shown.partition("<observation>")[2])
        assert re.findall(ID, copied.partition("</execute>")[2]) == observed and copied.endswith(observed[-1])
        assert len(observed) == ANSWERS
    again = copy_documents(instances, renderer(), count=20, seed=1)
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(documents, again, strict=True))
    assert len({tuple(d.ids.tolist()) for d in documents}) > 15
    assert len({len(read_facts(renderer().decode(d.ids))[1]) for d in documents}) == 2  # with and without excluded
    drawn = {id[-4:] for d in documents for id in read_facts(renderer().decode(d.ids))[2]}
    assert len(drawn) > 60  # of 80 genes; the prompts themselves name 8
