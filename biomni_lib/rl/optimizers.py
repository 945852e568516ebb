"""What turns gradients into updates: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from biomni_lib.rl.muon import muon_and_adamw


class Optimizers:
    """One or more optimizers that share a model and act as one; their learning rates when given are the full ones."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = list(members)
        self._rates = [[float(group["lr"]) for group in member.param_groups] for member in self.members]

    def set_rates(self, share: float) -> None:
        """Set every learning rate to a share of the full one."""
        for member, rates in zip(self.members, self._rates, strict=True):
            for group, rate in zip(member.param_groups, rates, strict=True):
                group["lr"] = share * rate

    def step(self) -> None:
        """One update from the gradients."""
        for member in self.members:
            member.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def state(self, model: torch.nn.Module) -> dict[str, Tensor]:
        """Every tensor that an optimizer keeps, by `PARAMETER/KEY`; not copied."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        kept = (item for member in self.members for item in member.state.items())
        return {f"{names[p]}/{key}": value for p, state in kept for key, value in state.items()}

    def allocate(self, model: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make room for a saved state, whose tensors have these names and shapes, to be read into.

        Learning rates are not part of it: `set_rates` sets those before every step.
        """
        parameters = dict(model.named_parameters())
        owners = {p: member for member in self.members for group in member.param_groups for p in group["params"]}
        for name, shape in shapes.items():
            of, _, key = name.partition("/")
            parameter = parameters[of]
            like = parameter.shape == torch.Size(shape)
            owners[parameter].state[parameter][key] = torch.zeros_like(parameter) if like else torch.zeros(shape)


def make_optimizers(
    model: torch.nn.Module, kind: Literal["adamw", "muon"], *, lr_muon: float, lr_adamw: float
) -> Optimizers:
    """AdamW, or Muon and AdamW (see `muon_and_adamw`), for the parameters that require a gradient."""
    if kind == "muon":
        return Optimizers(muon_and_adamw(model, lr_muon=lr_muon, lr_adamw=lr_adamw))
    trained = [p for p in model.parameters() if p.requires_grad]
    return Optimizers([torch.optim.AdamW(trained, lr=lr_adamw, weight_decay=0.0)])


def warm_up(step: int, steps: int) -> float:
    """Share of the full learning rate in a step, counted from 0: it rises linearly, and is 1 after `steps` of them."""
    return min(1.0, (step + 1) / max(1, steps))
