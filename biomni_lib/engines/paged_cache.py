"""A KV cache in blocks of a fixed length, and the attention over it (PagedAttention: Kwon et al. 2023).

A conversation holds the blocks that its length needs, the lowest free ones. Attention multiplies each block by itself
and adds a conversation's blocks up in their order, and every step decodes one row a slot, idle or not: so a sequence's
numbers do not depend on which others are decoded beside it, nor on their lengths or places: bit by bit with one thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, PretrainedConfig

ATTENTION = "biomni_paged"
BLOCK = 128
"""Cache positions multiplied at once, and handed out at once."""


@dataclass(frozen=True)
class Pages:
    """What one forward pass reads and writes: n blocks, in ascending order of their place in the pool.

    `positions`: (rows, tokens) of the tokens in their conversations. `runs`: (first, end) of consecutive blocks.
    `owner`: (n,) the row of the batch that reads a block. `layers`: for the first, second, … block of conversations,
    which of the n these are, and their rows. `mask`: (n, 1, tokens, BLOCK), 0 or -inf. New keys and values of the
    tokens `written`, indexes into rows x tokens, go to `places`: blocks, and positions in them.
    """

    positions: Tensor
    runs: list[tuple[int, int]]
    owner: Tensor
    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor
    written: Tensor
    places: tuple[Tensor, Tensor]


class PagedCache:
    """Keys and values, one tensor a layer of shape (blocks, kv_heads, BLOCK, head_dim), and each slot's blocks.

    Looks enough like transformers' `Cache` for a decoder's forward: `update` writes where the pages of the pass say,
    and returns the whole pool, of which `paged_attention` reads those pages.

    Args:
        config: of the model. slots: conversations. length: of the longest, in tokens.
    """

    def __init__(self, config: PretrainedConfig, slots: int, length: int) -> None:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (slots * _blocks(length), config.num_key_value_heads, BLOCK, head_dim)
        self.keys = [torch.zeros(shape) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros(shape) for _ in range(config.num_hidden_layers)]
        self._tables: list[list[int]] = [[] for _ in range(slots)]
        self._free = list(range(shape[0]))
        self._pages: Pages | None = None

    def decode(self, positions: Mapping[int, int]) -> Pages:
        """The next forward has one token a slot; those named write it at their position, and read up to it."""
        for slot, position in positions.items():
            self._reserve(slot, position + 1)
        tokens = torch.zeros(len(self._tables), 1, dtype=torch.long)
        tokens[list(positions), 0] = torch.tensor(list(positions.values()))
        places = self._places(list(positions.items()))
        return self._select({slot: slot for slot in positions}, tokens, torch.tensor(list(positions)), places)

    def prefill(self, slot: int, first: int, count: int, padded: int) -> Pages:
        """The next forward has `padded` tokens of one slot, from position `first` on; the first `count` are kept."""
        self._reserve(slot, first + count)
        tokens = torch.arange(first, first + padded)[None]
        places = self._places([(slot, first + i) for i in range(count)])
        return self._select({slot: 0}, tokens, torch.arange(count), places)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values, (rows, kv_heads, tokens, head_dim); return the pool's."""
        assert self._pages is not None
        blocks, offsets = self._pages.places
        pool = self.keys[layer], self.values[layer]
        for store, new in zip(pool, (keys, values), strict=True):
            store[blocks, :, offsets] = new.transpose(1, 2).flatten(0, 1)[self._pages.written]
        return pool

    def get_seq_length(self, *_: Any) -> int:
        """Unused by the forward passes made here, which pass positions explicitly."""
        return 0

    def read(self, slot: int, first: int, count: int) -> Tensor:
        """A copy of a slot's span, shape (layers, 2, kv_heads, count, head_dim)."""
        _, kv_heads, _, head_dim = self.keys[0].shape
        span = torch.empty(len(self.keys), 2, kv_heads, count, head_dim)
        for block, there, here in self._parts(slot, first, count):
            for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
                span[layer, 0, :, here], span[layer, 1, :, here] = keys[block, :, there], values[block, :, there]
        return span

    def write(self, slot: int, first: int, span: Tensor) -> None:
        """Put a span that `read` returned into a slot."""
        self._reserve(slot, first + span.shape[3])
        for block, there, here in self._parts(slot, first, span.shape[3]):
            for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
                keys[block, :, there], values[block, :, there] = span[layer, 0, :, here], span[layer, 1, :, here]

    def free(self, slot: int) -> None:
        """Take all blocks of a slot back."""
        for block in self._tables[slot]:
            heapq.heappush(self._free, block)
        self._tables[slot] = []

    def _reserve(self, slot: int, length: int) -> None:
        table = self._tables[slot]
        while len(table) < _blocks(length):
            table.append(heapq.heappop(self._free))

    def _parts(self, slot: int, first: int, count: int) -> Iterator[tuple[int, slice, slice]]:
        """A span block by block: the block, the positions in it, and those in the span."""
        done = 0
        while done < count:
            rank, offset = divmod(first + done, BLOCK)
            size = min(BLOCK - offset, count - done)
            yield self._tables[slot][rank], slice(offset, offset + size), slice(done, done + size)
            done += size

    def _places(self, positions: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        blocks = [self._tables[slot][position // BLOCK] for slot, position in positions]
        return torch.tensor(blocks), torch.tensor([position % BLOCK for _, position in positions])

    def _select(self, rows: Mapping[int, int], tokens: Tensor, written: Tensor, places: tuple[Tensor, Tensor]) -> Pages:
        """The pages of a pass; `tokens`: (rows, tokens) positions, of which the slots `rows` read up to the last."""
        found = []
        for slot, row in rows.items():
            held = self._tables[slot][: _blocks(int(tokens[row, -1]) + 1)]
            found += [(block, row, rank) for rank, block in enumerate(held)]
        blocks, owner, rank = np.array(sorted(found)).T
        edges = [0, *(np.flatnonzero(np.diff(blocks) != 1) + 1), len(blocks)]
        of_rank = [np.flatnonzero(rank == r) for r in range(rank.max() + 1)]
        last = tokens[torch.from_numpy(owner)] - torch.from_numpy(rank)[:, None] * BLOCK
        hidden = torch.arange(BLOCK) > last[..., None]
        self._pages = Pages(
            positions=tokens,
            runs=[(int(blocks[a]), int(blocks[b - 1]) + 1) for a, b in pairwise(edges)],
            owner=torch.from_numpy(owner),
            layers=[(torch.from_numpy(which), torch.from_numpy(owner[which])) for which in of_rank],
            mask=torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None],
            written=written,
            places=places,
        )
        return self._pages


def paged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float,
    pages: Pages,
    **_: Any,
) -> tuple[Tensor, None]:
    """Grouped-query attention over the pages of a pass, without copying keys.

    Args:
        query: (rows, heads, tokens, head_dim); key, value: (blocks, kv_heads, BLOCK, head_dim), the pool.
        mask: that of `pages`.
    Returns: (rows, tokens, heads, head_dim); zeros where a row reads nothing.
    """
    rows, heads, tokens, dim = query.shape
    kv_heads, read = key.shape[1], len(pages.owner)
    asked = (query.reshape(rows, kv_heads, -1, dim) * scaling)[pages.owner].flatten(0, 1)
    sizes = [(end - first) * kv_heads for first, end in pages.runs]
    keys, values = ([pool[first:end].flatten(0, 1) for first, end in pages.runs] for pool in (key, value))
    scores = torch.cat([torch.bmm(q, k.transpose(1, 2)) for q, k in zip(asked.split(sizes), keys, strict=True)])
    scores = scores.view(read, heads, tokens, BLOCK).add_(mask)
    highest, top = scores.amax(dim=-1), query.new_full((rows, heads, tokens), float("-inf"))
    for blocks, owners in pages.layers:
        top[owners] = torch.maximum(top[owners], highest[blocks])
    weights = (scores - top[pages.owner][..., None]).exp_()
    sums, parts = weights.sum(dim=-1), weights.view(read * kv_heads, -1, BLOCK).split(sizes)
    seen = torch.cat([torch.bmm(w, v) for w, v in zip(parts, values, strict=True)]).view(read, heads, tokens, dim)
    total, out = torch.zeros_like(top), torch.zeros_like(query)
    for blocks, owners in pages.layers:
        total[owners] += sums[blocks]
        out[owners] += seen[blocks]
    return (out / total.clamp_(min=1)[..., None]).transpose(1, 2), None


def _blocks(positions: int) -> int:
    return -(-positions // BLOCK)


AttentionInterface.register(ATTENTION, paged_attention)
