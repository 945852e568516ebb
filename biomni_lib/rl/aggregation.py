"""How token losses become one number.

Every aggregation is a weight a sequence, fixed before the optimizer step is cut into micro-batches:
L = sum_i w_i sum_t l_it over the sampled tokens t of sequence i. So the cut cannot change the gradient, whatever the
aggregation. |o_i| is the number of sampled tokens of sequence i, N the number of sequences. A filtered sequence enters
with length 0: it counts in N, and none of its tokens counts. What a correction masks later leaves the weights alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from biomni_lib.errors import ShapeError
from biomni_lib.rl.recipe import Aggregation


def sequence_weights(
    lengths: Tensor,
    aggregation: Aggregation,
    *,
    constant_length: int | None = None,
    loss_micro_batch: int | None = None,
) -> Tensor:
    """The weight w_i of every token of sequence i, so that L = sum_i w_i sum_t l_it.

    Args:
        lengths: (N,) int, sampled tokens |o_i| of each sequence of one optimizer step; 0 allowed.
        aggregation:
            token_mean: 1 / sum_j |o_j| (Yu et al. 2025, eq. 8);
            sequence_mean: 1 / (N |o_i|) (Shao et al. 2024, eq. 3; Zheng et al. 2025, section 4.1);
            constant_length: 1 / (N L_max) (Liu et al. 2025, section 3.1);
            token_mean_micro_batch: token_mean inside consecutive micro-batches of loss_micro_batch sequences, then
            their mean (what the original code does; long micro-batches count their tokens less).
        constant_length: L_max, for constant_length.
        loss_micro_batch: sequences a micro-batch, for token_mean_micro_batch.
    Returns: (N,) float32; 0 where a sequence has no sampled token.
    Raises: ShapeError when the aggregation's parameter is missing.
    """
    counts = lengths.to(torch.float32)
    if aggregation == "token_mean":
        return (counts > 0) / counts.sum().clamp(min=1)
    if aggregation == "sequence_mean":
        return (counts > 0) / (len(counts) * counts.clamp(min=1))
    if aggregation == "constant_length":
        if constant_length is None:
            raise ShapeError("aggregation constant_length needs constant_length")
        return (counts > 0) / (len(counts) * float(constant_length))
    if loss_micro_batch is None:
        raise ShapeError("aggregation token_mean_micro_batch needs loss_micro_batch")
    parts = counts.split(loss_micro_batch)
    return torch.cat([sequence_weights(part, "token_mean") for part in parts]) / max(len(parts), 1)
