"""Several processes that learn as one: what each holds of the weights, and what they tell each other.

The weights are cut over the ranks (FSDP2): a layer is gathered while it is computed. Every rank is given the whole
batch and works out by itself which rank reads which trajectories; gradients are summed, not averaged, since the weight
of every token was fixed for the whole optimizer step before. All ranks do the same number of passes.

Where a row is too long for one card, `context` neighbouring ranks read each row together (see `shared_row`) and are one
reader among `readers`: they are given the same trajectories and know the same of them, and the weights are cut over all
ranks as before, so that one sum of gradients is that over trajectories and that over slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The place of this process among `count` that share one learner; torch.distributed is running if they are many.

    device: where the learner's arithmetic is done. offload: whether what a rank holds rests in the host's memory.
    gathered: the numbers of gathered weights, and so of the passes; None for those that they are kept in.
    context: how many of the ranks read one row together; divides `count`.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")
    offload: bool = False
    gathered: torch.dtype | None = None
    context: int = 1

    @property
    def readers(self) -> int:
        """How many rows are read at once."""
        return self.count // self.context

    @property
    def reader(self) -> int:
        """Which of them this rank reads."""
        return self.rank // self.context

    @cached_property
    def group(self) -> ProcessGroup | None:
        """The ranks that read a row together with this one; None where it reads alone. All ranks must ask at once."""
        if self.context == 1:
            return None
        group, _ = torch.distributed.new_subgroups(group_size=self.context)
        return group

    def gather(self, value: T) -> list[T]:
        """What every reader gave, in their order; ranks that read together give the same."""
        if self.count == 1:
            return [value]
        given: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(given, value)
        return given[:: self.context]

    def place(self, reader: Any) -> Any:
        """Bring a `logprobs.Reader` to the device, and keep of its weights this rank's share alone."""
        if self.count == 1:
            return reader.to(self.device)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import (
            CPUOffloadPolicy,
            FSDPModule,
            MixedPrecisionPolicy,
            OffloadPolicy,
            fully_shard,
        )

        mesh = init_device_mesh(self.device.type, (self.count,))
        resting = CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if self.offload else OffloadPolicy()
        numbers = MixedPrecisionPolicy(param_dtype=self.gathered, reduce_dtype=torch.float32)
        for layer in reader.model.model.layers:
            fully_shard(layer, mesh=mesh, offload_policy=resting, mp_policy=numbers)
        fully_shard(reader, mesh=mesh, offload_policy=resting, mp_policy=numbers, reshard_after_forward=True)
        for module in reader.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        return reader


ALONE = Ranks()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that the ranks share, in full; all ranks must ask. Any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a tensor that every rank has in full, what this rank keeps of it if it is cut as another is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
