"""Trajectories in one row see nothing of each other, at no cost in masks, and the result is transformers' own."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from biomni_lib.errors import ShapeError
from biomni_lib.rl.packing import PACKED, fill_rows, lay_end_to_end, packed_attention
from tests.rl_toy import VOCABULARY, save_toy_model

LENGTHS = (5, 1, 9, 3, 17)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    folder = save_toy_model(tmp_path_factory.mktemp("packing") / "model")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded.set_attn_implementation(PACKED)
    return loaded


def sequences(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, VOCABULARY, (n,), generator=generator) for n in lengths]


def masks(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    """Every second token is to be predicted, never the first."""
    return [torch.arange(n) % 2 == 1 for n in lengths]


def hidden(model: torch.nn.Module, ids: list[torch.Tensor]) -> torch.Tensor:
    """(tokens, width) of one packed row."""
    row = lay_end_to_end(ids, [torch.zeros(len(s), dtype=torch.bool) for s in ids])
    return model.model(input_ids=row.ids, position_ids=row.positions, use_cache=False).last_hidden_state[0]


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 60))
def test_rows_hold_every_sequence_once_within_the_budget_and_waste_little(lengths: list[int], most: int) -> None:
    rows = fill_rows(lengths, most)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    used = [sum(lengths[i] for i in row) for row in rows]
    assert all(total <= most or len(row) == 1 for total, row in zip(used, rows, strict=True))
    assert sum(2 * total <= most for total in used) <= 1  # two rows half empty would have been one


def test_a_row_knows_what_is_predicted_from_where() -> None:
    ids, mask = sequences(), masks()
    row = lay_end_to_end(ids, mask)
    assert row.positions[0].tolist() == [p for n in LENGTHS for p in range(n)]
    assert row.targets.tolist() == [int(i) for s, m in zip(ids, mask, strict=True) for i in s[m]]
    before = [int(i) for s, m in zip(ids, mask, strict=True) for i in s[:-1][m[1:]]]
    assert row.ids[0, row.predicting].tolist() == before


@pytest.mark.parametrize("ranks", [1, 2, 3, 40])
def test_equal_slices_of_a_row_that_is_filled_up_predict_what_the_row_does(ranks: int) -> None:
    row = lay_end_to_end(sequences(), masks())
    full = row.filled_up(ranks)
    tokens = full.ids.shape[1] // ranks
    parts = [full.slice(n * tokens, (n + 1) * tokens) for n in range(ranks)]
    assert torch.cat([part.targets for part in parts]).equal(row.targets)
    predicting = torch.cat([part.ids[0, part.predicting] for part in parts])
    assert predicting.equal(row.ids[0, row.predicting])
    assert full.positions[0, sum(LENGTHS) :].tolist() == list(range(ranks * tokens - sum(LENGTHS)))


def test_a_packed_row_equals_transformers_own_attention(model: torch.nn.Module) -> None:
    """Each sequence alone; all of them padded; and in one row, whose restarting positions become a mask there."""
    stock, ids = copy.deepcopy(model), sequences()
    stock.set_attn_implementation("sdpa")
    packed = hidden(model, ids)
    alone = [stock.model(input_ids=s[None]).last_hidden_state[0] for s in ids]
    padded = stock.model(input_ids=torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)).last_hidden_state
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed, torch.cat([h[: len(s)] for h, s in zip(padded, ids, strict=True)]))
    torch.testing.assert_close(packed, hidden(stock, ids), atol=1e-5, rtol=1e-5)


def test_nothing_of_one_trajectory_reaches_another(model: torch.nn.Module) -> None:
    """Other tokens in one of them leave every bit of the others as it was, and no gradient goes across."""
    ids = sequences()
    other = [s if n != 2 else (s - 2 + 1) % (VOCABULARY - 2) + 2 for n, s in enumerate(ids)]
    before, after = hidden(model, ids).split(LENGTHS), hidden(model, other).split(LENGTHS)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, True, True]
    embedded = model.get_input_embeddings()(torch.cat(ids))[None].detach().requires_grad_()
    positions = lay_end_to_end(ids, masks()).positions
    out = model.model(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state[0]
    out.split(LENGTHS)[2].sum().backward()
    touched = [bool(g.any()) for g in embedded.grad[0].split(LENGTHS)]
    assert touched == [False, False, True, False, False]


class Largest(TorchDispatchMode):
    """The most values that one tensor has, of all that are made."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor)]
        self.values = max([self.values, *sizes])
        return made


@pytest.mark.parametrize("lengths", [(2048,), (1000, 24, 1024)])
def test_no_mask_of_length_by_length_is_made(model: torch.nn.Module, lengths: tuple[int, ...]) -> None:
    with Largest() as largest:
        hidden(model, sequences(lengths)).sum().backward()
    assert largest.values == 2048 * 64  # the widest thing in the model: its feed-forward layer


def test_transformers_own_attention_makes_that_mask(model: torch.nn.Module) -> None:
    """Which is why there is a packed attention; when this fails, see whether it is still needed."""
    stock = copy.deepcopy(model)
    stock.set_attn_implementation("sdpa")
    with torch.no_grad(), Largest() as largest:
        hidden(stock, sequences((200, 56)))
    assert largest.values == 256 * 256


def test_what_packed_attention_does_not_know_is_refused(model: torch.nn.Module) -> None:
    q, positions = torch.zeros(1, 1, 4, 8), torch.arange(4)[None]
    for arguments in (
        {"query": torch.zeros(2, 1, 4, 8)},
        {"attention_mask": torch.ones(4, 4)},
        {"sliding_window": 2},
        {"position_ids": None},
    ):
        known = {"query": q, "key": q, "value": q, "attention_mask": None, "position_ids": positions}
        with pytest.raises(ShapeError, match="neither a mask nor a sliding window"):
            packed_attention(model, **{**known, **arguments})


def test_a_saved_model_does_not_ask_for_packed_attention(model: torch.nn.Module, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert PACKED not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
