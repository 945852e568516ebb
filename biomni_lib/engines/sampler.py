"""Drawing tokens: temperature, top-p, and the log-probability that the learner will need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from biomni_lib.engines.base import Sampling


def sample(logits: Tensor, samplings: Sequence[Sampling], uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution.

    Args:
        logits: (rows, vocab). samplings: one a row. uniforms: (rows,) in [0, 1), float64.
    Returns: ids (rows,) and their log-probabilities (rows,) after temperature and before top-p
        (at temperature 1 where the row is greedy).
    """
    temperatures = torch.tensor([s.temperature for s in samplings])
    greedy = temperatures == 0
    logprobs = torch.log_softmax(logits / torch.where(greedy, 1.0, temperatures)[:, None], dim=-1)
    weights = logprobs.exp()
    if any(s.top_p < 1 for s in samplings):
        weights = _nucleus(weights, torch.tensor([s.top_p for s in samplings]))
    cumulative = weights.double().cumsum(dim=-1)
    ids = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)[:, 0]
    ids = torch.where(greedy, logprobs.argmax(dim=-1), ids.clamp_(max=logits.shape[-1] - 1))
    return ids, logprobs.gather(-1, ids[:, None])[:, 0]


def _nucleus(weights: Tensor, top_p: Tensor) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches top_p; zero elsewhere."""
    ordered, order = weights.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    reached = (before >= top_p[:, None]) & (top_p[:, None] < 1)  # a whole row stays whole, whatever its sum rounds to
    kept = ordered.masked_fill(reached, 0.0)
    return torch.zeros_like(weights).scatter(-1, order, kept)
