"""Log-probabilities of given tokens without ever holding the full logits.

`Reader` is the model as the learner calls it: one row in, log-probs and entropies of the row's sampled tokens out,
whether a rank reads the row by itself or with others.

Rows (token positions) are processed in chunks; when there is more than one, each chunk's logits are recomputed in the
backward pass instead of kept, so memory is bounded by one chunk whatever the number of tokens or the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint

from biomni_lib.rl.packing import Row
from biomni_lib.rl.shared_row import SharedRow

LOGITS_MAX = 1 << 25  # values of logits held at once: 128 MiB in float32


class Reader(torch.nn.Module):
    """A causal language model with `.model` (the body) and `.lm_head`, from a packed row to its sampled tokens.

    Args:
        group: the ranks that read every row together, each a slice; None where this one reads it all.
    """

    def __init__(self, model: Any, group: ProcessGroup | None = None) -> None:
        super().__init__()
        self.model, self.group = model, group

    def forward(self, row: Row, temperature: float, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        """What `token_logprobs` returns of the row's sampled tokens, on the CPU; on every rank that reads it."""
        if self.group is None:
            return self._read(row, temperature, entropy_gradient)
        shared = SharedRow(row, self.group, self.model.lm_head.weight.device)
        logprobs, entropy = self._read(shared.part, temperature, entropy_gradient, shared=shared)
        return shared.join(logprobs), shared.join(entropy)

    def _read(self, row: Row, temperature: float, entropy_gradient: bool, **known: Any) -> tuple[Tensor, Tensor]:
        device = self.model.lm_head.weight.device
        ids, positions = row.ids.to(device), row.positions.to(device)
        hidden = self.model.model(input_ids=ids, position_ids=positions, use_cache=False, **known).last_hidden_state
        logprobs, entropy = token_logprobs(
            hidden[0, row.predicting.to(device)],
            self.model.lm_head.weight,
            row.targets.to(device),
            temperature,
            entropy_gradient=entropy_gradient,
        )
        return logprobs.cpu(), entropy.cpu()


def token_logprobs(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    temperature: float,
    *,
    entropy_gradient: bool = False,
    logits_max: int = LOGITS_MAX,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target at the sampling temperature, and the entropy of its distribution.

    Args:
        hidden: (rows, width), the body's output at the position before each target.
        head: (vocabulary, width), the output projection.
        targets: (rows,) int64.
        temperature: what the logits are divided by; as when the tokens were sampled.
        entropy_gradient: whether the entropies carry a gradient (an entropy bonus needs it).
        logits_max: logits held at once.
    Returns: log-probabilities (rows,) with gradient; entropies in nats (rows,).
    """
    rows = max(1, logits_max // head.shape[0])
    if len(hidden) <= rows:
        return _chunk(hidden, head, targets, temperature, entropy_gradient)
    pieces = [
        checkpoint(_chunk, h, head, t, temperature, entropy_gradient, use_reentrant=False)
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat([logprobs for logprobs, _ in pieces]), torch.cat([entropy for _, entropy in pieces])


def _chunk(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    everything = torch.log_softmax((hidden @ head.T).float() / temperature, dim=-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(everything.exp() * everything).sum(dim=-1)
    return everything.gather(1, targets[:, None]).squeeze(1), entropy
