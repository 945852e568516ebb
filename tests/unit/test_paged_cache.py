"""The cache in blocks against plain attention over whole conversations."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen3Config

from biomni_lib.engines.paged_cache import BLOCK, PagedCache, Pages, paged_attention

HEADS, GROUPS, WIDTH = 4, 2, 8
SLOTS, LENGTH = 3, 3 * BLOCK


class Conversations:
    """Each slot's keys and values in the cache, and plainly beside it."""

    def __init__(self, seed: int) -> None:
        sizes = {"num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": WIDTH}
        self.cache = PagedCache(Qwen3Config(num_hidden_layers=1, **sizes), SLOTS, LENGTH)
        self.generator = torch.Generator().manual_seed(seed)
        self.plain = [torch.zeros(2, GROUPS, 0, WIDTH) for _ in range(SLOTS)]

    def length(self, slot: int) -> int:
        return self.plain[slot].shape[2]

    def decode(self, slots: list[int]) -> None:
        """One token more in each of the slots, whose rows must then see what plain attention sees."""
        pages = self.cache.decode({slot: self.length(slot) for slot in slots})
        out, queries = self._pass(pages, SLOTS, 1, {slot: (slot, 1) for slot in slots})
        for slot in range(SLOTS):
            expected = self._attended(slot, queries[slot]) if slot in slots else torch.zeros(1, HEADS, WIDTH)
            torch.testing.assert_close(out[slot], expected, atol=1e-5, rtol=1e-5)

    def prefill(self, slot: int, count: int, padded: int) -> None:
        pages = self.cache.prefill(slot, self.length(slot), count, padded)
        out, queries = self._pass(pages, 1, padded, {slot: (0, count)})
        expected = self._attended(slot, queries[0, :, :count])
        torch.testing.assert_close(out[0, :count], expected, atol=1e-5, rtol=1e-5)

    def free(self, slot: int) -> None:
        self.cache.free(slot)
        self.plain[slot] = self.plain[slot][:, :, :0]

    def move(self, source: int, target: int) -> None:
        """What a slot holds goes on in another."""
        span = self.cache.read(source, 0, self.length(source))
        self.cache.free(target)
        self.cache.write(target, 0, span)
        self.plain[target] = self.plain[source]
        self.free(source)

    def _pass(self, pages: Pages, rows: int, tokens: int, new: dict[int, tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """A forward pass of random vectors; `new`: the row of each slot and how many of its tokens are kept."""
        drawn = torch.randn(2, rows, GROUPS, tokens, WIDTH, generator=self.generator)
        queries = torch.randn(rows, HEADS, tokens, WIDTH, generator=self.generator)
        for slot, (row, count) in new.items():
            self.plain[slot] = torch.cat([self.plain[slot], drawn[:, row, :, :count]], dim=2)
        pool = self.cache.update(drawn[0], drawn[1], 0)
        return paged_attention(torch.nn.Module(), queries, *pool, pages.mask, WIDTH**-0.5, pages)[0], queries

    def _attended(self, slot: int, queries: Tensor) -> Tensor:
        keys, values = self.plain[slot].repeat_interleave(HEADS // GROUPS, dim=1)
        count = queries.shape[1]
        mask = torch.ones(count, self.length(slot), dtype=torch.bool).tril(self.length(slot) - count)
        return scaled_dot_product_attention(queries, keys, values, attn_mask=mask).transpose(0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_every_row_attends_to_its_own_conversation_whatever_came_and_went(seed: int) -> None:
    rng, made = np.random.default_rng(seed), Conversations(seed)
    for _ in range(60):
        slot, other = (int(n) for n in rng.permutation(SLOTS)[:2])
        move = rng.integers(5)
        room = LENGTH - made.length(slot)
        if move == 0 and made.length(slot) > BLOCK:
            made.free(slot)
        elif move == 1 and made.length(slot):
            made.move(slot, other)
        elif move == 2 and room > 40:
            made.prefill(slot, int(rng.integers(1, 41)), 48)
        else:
            made.decode([n for n in range(SLOTS) if rng.random() < 0.6 and made.length(n) < LENGTH] or [other])
        if max(made.length(n) for n in range(SLOTS)) == LENGTH:
            made.free(int(np.argmax([made.length(n) for n in range(SLOTS)])))


def test_a_block_is_held_by_one_conversation_and_the_lowest_free_one_is_taken() -> None:
    made = Conversations(0)
    for slot, count in enumerate((BLOCK + 1, 1, 2 * BLOCK)):
        made.prefill(slot, count, count)
    assert made.cache.decode({0: BLOCK + 1, 1: 1, 2: 2 * BLOCK}).runs == [(0, 6)]
    made.free(0)
    assert made.cache.decode({1: 2, 2: 2 * BLOCK + 1}).runs == [(2, 6)]
    made.prefill(0, 1, 1)
    assert made.cache.decode({0: 1, 2: 2 * BLOCK + 1}).runs == [(0, 1), (3, 6)]
