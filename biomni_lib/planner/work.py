"""Tokens, arithmetic and time. Arithmetic is counted, and held against PyTorch's counter; time is estimated from it.

A card's time is its arithmetic over the share of its peak that such work reaches, or the bytes that it must read over
the share of its bandwidth. Both shares are assumptions, printed with the plan: measure one step and scale. Time in
tools, start-up, weight transfer and evaluation of code are not counted.
"""

from __future__ import annotations

import dataclasses

from biomni_lib.planner.cards import Card
from biomni_lib.planner.memory import kv_bytes_a_token
from biomni_lib.planner.shapes import Shape

LEARNER_SHARE, PREFILL_SHARE, DECODE_SHARE = 0.35, 0.5, 0.6
"""Assumed shares of a card's peak: arithmetic of training, arithmetic of reading a prompt, bandwidth of decoding."""
ATTENTION_BACKWARD = 2.5
"""Arithmetic of attention's backward pass in forward passes, the scores being computed again. Source: Dao 2023."""


def forward_flops(shape: Shape, tokens: float, length: float) -> float:
    """Floating-point operations of the layers in a forward pass, causal attention counted by half.

    Args:
        tokens: in all. length: of one sequence.
    Source: two a weight and token, and Chowdhery et al. 2022, appendix B, for attention.
    """
    return tokens * 2 * shape.layers * shape.layer_matrix_weights + attention_flops(shape, tokens, length)


def attention_flops(shape: Shape, tokens: float, length: float) -> float:
    """The part of `forward_flops` that is scores and weighted sums: each token sees half of its sequence."""
    return 2 * shape.layers * shape.query_width * tokens * length


def training_flops(
    shape: Shape, tokens: float, length: float, written: float, rank: int | None, *, checkpointing: bool
) -> float:
    """One forward and backward pass.

    Args:
        tokens: in all. length: of a sequence. written: tokens whose log-probs are computed; their logits are computed
            twice. rank: of a LoRA adapter, beside frozen matrices without gradients of their own. checkpointing: layers
            are computed twice, but for the last matrix of each where nothing behind it needs its outputs.
    """
    forward = 2 if checkpointing else 1
    attention = attention_flops(shape, tokens, length) * (forward + ATTENTION_BACKWARD)
    matrices = 2 * tokens * shape.layers * shape.layer_matrix_weights
    head = 2 * written * shape.vocab * shape.hidden
    if rank is None:
        spared = 2 * tokens * shape.layers * shape.intermediate * shape.hidden if checkpointing else 0
        return matrices * (forward + 2) - spared + attention + head * 4
    adapter = 2 * tokens * shape.adapter_weights(rank) * (forward + 2)
    return matrices * (forward + 1) + adapter + attention + head * 3


@dataclasses.dataclass(frozen=True)
class Serving:
    """Engines at work: how many sequences each decodes at once, of what length, on how many cards."""

    engines: int
    cards_an_engine: int
    at_once: float
    length: float

    def seconds(self, shape: Shape, card: Card, size: int, *, read: float, written: float) -> float:
        """For so many tokens read (prompts and observations) and written, over all engines.

        Every decoding step reads the weights, and the keys and values of every sequence; a step of many sequences is
        bound by arithmetic instead.
        """
        cards = self.engines * self.cards_an_engine
        reading = forward_flops(shape, read, self.length) / (cards * card.flops * PREFILL_SHARE)
        kept = self.at_once * self.length * kv_bytes_a_token(shape, size)
        bytes_a_step = (shape.weights * size + kept) / (self.cards_an_engine * card.bandwidth * DECODE_SHARE)
        arithmetic = 2 * self.at_once * shape.weights / (self.cards_an_engine * card.flops * PREFILL_SHARE)
        return reading + written / (self.engines * self.at_once) * max(bytes_a_step, arithmetic)


def learning_seconds(flops: float, card: Card, ranks: int) -> float:
    """For so much arithmetic of training on so many cards."""
    return flops / (ranks * card.flops * LEARNER_SHARE)
