"""Muon in float32: momentum whose matrix updates are orthogonalised.

PyTorch's own `torch.optim.Muon` orthogonalises in bfloat16, which most CPUs emulate slowly. Muon is for the matrices of
hidden layers; `muon_and_adamw` gives everything else to AdamW. Over several ranks each orthogonalises whole matrices.
Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from biomni_lib.rl.ranks import share_of, whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
BETAS = (0.9, 0.95)
"""Of the AdamW beside Muon."""


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Push a matrix's singular values to about 1, by a quintic Newton-Schulz iteration.

    Args:
        matrix: (rows, columns), any float type.
    Returns: the same shape; singular values between about 0.7 and 1.2.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for matrices of hidden layers.

    Args:
        params: matrices only; train embeddings, norms and biases with AdamW.
        lr: step length of an update whose singular values are about 1.
        momentum: decay of the gradient's running sum.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update from the gradients."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                buffer = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                buffer.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalize(whole(weight.grad.lerp(buffer, group["momentum"])))
                length = group["lr"] * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.sub_(share_of(update, weight), alpha=length)
        return loss


def muon_and_adamw(model: torch.nn.Module, *, lr_muon: float, lr_adamw: float) -> list[torch.optim.Optimizer]:
    """Muon for a language model's hidden matrices, AdamW for the rest: embeddings, output projection, norms.

    Args:
        model: its parameters that require a gradient are trained, each by one of the two.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in chosen]
    muon = Muon(matrices, lr=lr_muon)
    return [muon, torch.optim.AdamW(others, lr=lr_adamw, betas=BETAS, weight_decay=0.0)] if others else [muon]
