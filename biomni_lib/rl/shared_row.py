"""A packed row that several ranks read together, for sequences too long for one card.

Each rank holds a slice of the row's tokens. All of a decoder but attention works on single tokens, so that a rank keeps
its share of every activation and of the logits, and its gradients are a share of the row's. Attention needs whole
sequences: before it an all-to-all changes some tokens of all heads into all tokens of some heads, after it another
changes the result back, and in between there is `packed_attention` as on one rank (Ulysses; Jacobs et al. 2023,
section 3.1). Slices need not respect sequences; the number of ranks must divide that of the heads.

Own code, for what the libraries have serves neither packed rows nor a CPU: torch's `context_parallel` (2.13) passes
keys and values around for CUDA's kernels alone, with one causal sequence a row, and `flex_attention` has no backward
pass on a CPU; the Ulysses of accelerate and transformers' Trainer is DeepSpeed's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from transformers import AttentionInterface

from biomni_lib.rl.packing import Row, packed_attention

SHARED = "packed_shared"
"""The attention's name for `model.set_attn_implementation`."""


class SharedRow:
    """One row as one rank of a group sees it; the row is filled up until every rank has as many tokens.

    Args:
        row: all of it, the same on every rank of the group.
        group: the ranks; each must do the same with the row.
        device: where attention is done.

    `part` is this rank's slice, `positions` (1, tokens) are those of all ranks.
    """

    def __init__(self, row: Row, group: ProcessGroup, device: torch.device) -> None:
        self.group, self.count = group, distributed.get_world_size(group)
        row = row.filled_up(self.count)
        tokens = row.ids.shape[1] // self.count
        start = distributed.get_rank(group) * tokens
        self.part = row.slice(start, start + tokens)
        self.positions = row.positions.to(device)
        self._masked, self._before = len(row.predicting), int((row.predicting < start).sum())

    def to_heads(self, states: Tensor) -> Tensor:
        """From this rank's tokens of all heads to all tokens of this rank's heads.

        Args:
            states: (1, heads, tokens of the slice, width). Where heads are fewer than ranks, some ranks get the same.
        Returns: (1, heads of this rank, tokens, width).
        """
        states = states[0].repeat_interleave(max(1, self.count // states.shape[1]), dim=0)
        by_rank = states.unflatten(0, (self.count, -1))  # of the rank that it goes to, then comes from
        return _Exchange.apply(by_rank, self.group).transpose(0, 1).flatten(1, 2)[None]

    def to_tokens(self, states: Tensor) -> Tensor:
        """The way back: (1, tokens, heads of this rank, width) to (1, tokens of the slice, heads, width)."""
        by_rank = states[0].unflatten(0, (self.count, -1))
        return _Exchange.apply(by_rank, self.group).transpose(0, 1).flatten(1, 2)[None]

    def join(self, values: Tensor) -> Tensor:
        """What all ranks have of the row's predicted tokens, in the row's order.

        Args:
            values: (masked of the slice,), on the CPU.
        Returns: (masked,); those of this rank alone carry a gradient, since every rank computes the loss of all.
        """
        everything = values.new_zeros(self._masked)
        end = self._before + len(values)
        everything[self._before : end] = values.detach()
        distributed.all_reduce(everything, group=self.group)
        return torch.cat([everything[: self._before], values, everything[end:]])


def shared_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared: SharedRow,
    position_ids: Tensor,
    **known: Any,
) -> tuple[Tensor, None]:
    """`packed_attention` of a whole row, for this rank's slice of it.

    Args:
        query: (1, heads, tokens of the slice, width). key, value: (1, groups of heads, the same).
        shared: the row. position_ids: of the slice, which the row knows.
    Returns: (1, tokens of the slice, heads, width), and no attention weights.
    """
    query, key, value = (shared.to_heads(states) for states in (query, key, value))
    attended, _ = packed_attention(module, query, key, value, attention_mask, position_ids=shared.positions, **known)
    return shared.to_tokens(attended), None


AttentionInterface.register(SHARED, shared_attention)


class _Exchange(torch.autograd.Function):
    """Element i of the first dimension goes to rank i of the group, and what rank i sent takes its place."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _exchanged(states, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _exchanged(gradient, ctx.group), None


def _exchanged(states: Tensor, group: ProcessGroup) -> Tensor:
    received = torch.empty_like(states, memory_format=torch.contiguous_format)
    distributed.all_to_all_single(received, states.contiguous(), group=group)
    return received
