"""Trajectories laid end to end in one row, none of which sees another.

Positions start at 0 again in every trajectory, which is how transformers marks a packed row. Its own `sdpa` then makes
a mask of length x length and computes all of it; `packed_attention`, registered with transformers' AttentionInterface,
reads the same marks and attends within each trajectory alone, causally, so there is no mask at any length and nothing
is computed across trajectories. On one core, with the model of preset `cpu` and 24 trajectories of 250 to 540 tokens, a
pass forward and backward takes 0.75 of the time that it takes with trajectories sorted by length and padded, and 0.12
of the time of a packed row with `sdpa` and its mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from biomni_lib.errors import ShapeError

PACKED = "packed"
"""The attention's name for `model.set_attn_implementation`."""


@dataclass(frozen=True)
class Row:
    """Sequences end to end, or a slice of them.

    ids, positions: (1, tokens); predicting: (masked,) indexes of the tokens whose next is to be predicted, ascending;
    targets: (masked,) ids of those next ones.
    """

    ids: Tensor
    positions: Tensor
    predicting: Tensor
    targets: Tensor

    def filled_up(self, multiple: int) -> Row:
        """With tokens at its end, a sequence of their own that predicts nothing, until the count is a multiple."""
        more = torch.arange(-self.ids.shape[1] % multiple)[None]
        ids, positions = torch.cat([self.ids, torch.zeros_like(more)], 1), torch.cat([self.positions, more], 1)
        return replace(self, ids=ids, positions=positions)

    def slice(self, start: int, end: int) -> Row:
        """The tokens from `start` to before `end`, and what they predict."""
        inside = (self.predicting >= start) & (self.predicting < end)
        predicting, targets = self.predicting[inside] - start, self.targets[inside]
        return Row(self.ids[:, start:end], self.positions[:, start:end], predicting, targets)


def lay_end_to_end(ids: Sequence[Tensor], masks: Sequence[Tensor]) -> Row:
    """One row of some sequences, in this order.

    Args:
        ids: (length,) int64 each. masks: (length,) each, True where a token is to be predicted; the first never is.
    """
    positions = torch.cat([torch.arange(len(sequence)) for sequence in ids])
    sampled = torch.cat(list(masks)).nonzero().squeeze(1)
    row = torch.cat(list(ids))
    return Row(row[None], positions[None], sampled - 1, row[sampled])


def fill_rows(lengths: Sequence[int], tokens_max: int) -> list[list[int]]:
    """Which sequences share a row: the longest first, each into the first row with room for it.

    Returns: indexes into `lengths`, every one once; a row holds at most `tokens_max` tokens, or one longer sequence.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        row = next((n for n, left in enumerate(room) if lengths[index] <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(tokens_max)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def share_out(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Which sequences each rank reads: the longest first, each to the rank that has the fewest tokens so far.

    Returns: indexes into `lengths` by rank, ascending, every one once.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        rank = tokens.index(min(tokens))
        shares[rank].append(index)
        tokens[rank] += lengths[index]
    return [sorted(share) for share in shares]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_ids: Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence of a packed row; an attention function of transformers.

    Args:
        query: (1, heads, tokens, width). key, value: (1, groups of heads, tokens, width).
        position_ids: (1, tokens), 0 where a sequence starts.
    Returns: (1, tokens, heads, width), and no attention weights.
    Raises: ShapeError for more than one row, or what it does not know: a mask, a window.
    """
    if attention_mask is not None or sliding_window is not None or position_ids is None or len(query) > 1:
        raise ShapeError("packed attention takes one row with its positions, and neither a mask nor a sliding window")
    starts = [*(position_ids[0] == 0).nonzero().squeeze(1).tolist(), query.shape[2]]
    lengths = [end - start for start, end in pairwise(starts)]
    sequences = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    attended = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=True)
        for q, k, v in sequences
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED, packed_attention)
