"""A KV cache of fixed slots, and the attention over it.

Every decoding step multiplies matrices of the same shape for all slots, and attention adds up over blocks of a fixed
length in a fixed order: blocks beyond a sequence's end add exact zeros. So a sequence's numbers do not depend on which
other sequences are being decoded beside it, nor on their lengths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PretrainedConfig

ATTENTION = "biomni_slots"
BLOCK = 128
"""Cache positions summed at once; the cache is read up to the block of the longest sequence."""


class SlotCache:
    """Keys and values, one tensor a layer of shape (slots, kv_heads, length, head_dim).

    Looks enough like transformers' `Cache` for a decoder's forward: `update` writes at the rows and positions that
    `select` set and returns those rows whole; the mask hides what lies beyond each sequence.
    """

    def __init__(self, config: PretrainedConfig, slots: int, length: int) -> None:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        length = _blocks(length) * BLOCK
        shape = (slots, config.num_key_value_heads, length, head_dim)
        self.keys = [torch.zeros(shape) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros(shape) for _ in range(config.num_hidden_layers)]
        self.length = length
        self._columns = torch.arange(length)
        self._rows = torch.arange(slots)
        self._slot: int | None = None
        self._positions, self._visible = torch.zeros(slots, dtype=torch.long), length

    def select_all(self, positions: Tensor, longest: int) -> Tensor:
        """The next forward decodes one token in every slot, at `positions` (slots,). Returns the mask.

        `longest` is the highest position in use: nothing behind its block is read.
        """
        self._slot, self._positions = None, positions
        return self._mask(positions[:, None], longest)[:, None]

    def select_one(self, slot: int, positions: Tensor) -> Tensor:
        """The next forward prefills `slot` at consecutive `positions` (tokens,). Returns the mask."""
        self._slot, self._positions = slot, positions
        return self._mask(positions, int(positions[-1]))[None, None]

    def _mask(self, positions: Tensor, longest: int) -> Tensor:
        self._visible = _blocks(longest + 1) * BLOCK
        hidden = self._columns[: self._visible] > positions[..., None]
        return torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values (batch, kv_heads, tokens, head_dim); return the selected rows of the cache."""
        rows = slice(None) if self._slot is None else slice(self._slot, self._slot + 1)
        cached = self.keys[layer], self.values[layer]
        for store, new in zip(cached, (keys, values), strict=True):
            if self._slot is None:
                store[self._rows, :, self._positions] = new[:, :, 0]
            else:
                first = int(self._positions[0])
                store[rows, :, first : first + new.shape[2]] = new
        return cached[0][rows, :, : self._visible], cached[1][rows, :, : self._visible]

    def get_seq_length(self, *_: Any) -> int:
        """Unused by the forward passes made here, which pass positions explicitly."""
        return 0

    def read(self, slot: int, first: int, count: int) -> Tensor:
        """A copy of a slot's span, shape (layers, 2, kv_heads, count, head_dim)."""
        span = slice(first, first + count)
        pairs = zip(self.keys, self.values, strict=True)
        return torch.stack([torch.stack([k[slot, :, span], v[slot, :, span]]) for k, v in pairs])

    def write(self, slot: int, first: int, block: Tensor) -> None:
        """Put a span that `read` returned into a slot."""
        span = slice(first, first + block.shape[3])
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            keys[slot, :, span], values[slot, :, span] = block[layer, 0], block[layer, 1]


def slot_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Grouped-query attention without copying keys for each query head.

    Args:
        query: (batch, heads, tokens, head_dim); key, value: (batch, kv_heads, length, head_dim).
        mask: (batch, 1, tokens, length), 0 or -inf.
    Returns: (batch, tokens, heads, head_dim).
    """
    batch, heads, tokens, dim = query.shape
    kv_heads, length = key.shape[1], key.shape[2]
    grouped = query.reshape(batch * kv_heads, -1, dim) * scaling
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    blocks = [slice(start, start + BLOCK) for start in range(0, length, BLOCK)]
    scores = torch.cat([torch.bmm(grouped, keys[:, block].transpose(1, 2)) for block in blocks], dim=-1)
    scores = scores.view(batch, heads, tokens, length).add_(mask)
    weights = (scores - scores.amax(dim=-1, keepdim=True)).exp_().view(batch * kv_heads, -1, length)
    total, out = weights.new_zeros(weights.shape[:2]), torch.zeros_like(grouped)
    for block in blocks:
        total += weights[..., block].sum(dim=-1)
        out += torch.bmm(weights[..., block], values[:, block])
    return (out / total[..., None]).view(batch, heads, tokens, dim).transpose(1, 2), None


def _blocks(positions: int) -> int:
    return -(-positions // BLOCK)


AttentionInterface.register(ATTENTION, slot_attention)
