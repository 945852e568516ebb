"""Weights on their way from the learner to the engines: one safetensors file a policy version.

Files are written beside their name and renamed, so a reader never sees half of one; they lie in shared memory when
there is room, else in the run's folder. Tensors that share memory (tied embeddings) are written once, under the first
name; a reader ties them again. Of a model with a LoRA adapter the merged weights are written, under the base model's
names, so that no reader knows the difference; for an engine that takes adapters, the adapter alone, as peft saves it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from biomni_lib.engines.weight_files import shared_memory
from biomni_lib.rl.ranks import whole

ROOM_FACTOR = 8  # free shared memory needed, in multiples of one version's size
ADAPTER, BASE = ".lora_", ".base_layer"  # in peft's names of an adapter's tensors, and of what they stand beside


def untied_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without second names of a shared tensor, contiguous and detached (not copied)."""
    first = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items() if name in first}


@torch.no_grad()
def merged_state(model: torch.nn.Module, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """`untied_state` in the base model's layout, on the CPU: an adapter, where there is one, is added to its matrices.

    Args:
        keep: False gives nothing back; for all but one of the ranks that share a model and must gather it together.
    """
    state, merged = untied_state(model), {}
    for name, tensor in state.items():
        if ADAPTER in name:
            continue
        if name.endswith(f"{BASE}.weight"):
            layer: Any = model.get_submodule(name.removesuffix(f"{BASE}.weight"))
            (adapter,) = layer.active_adapters
            tensor = (tensor + layer.get_delta_weight(adapter)).to(tensor.dtype)
        gathered = whole(tensor)
        if keep:
            merged[name.replace(BASE, "")] = gathered.cpu()
    return merged


def save_weights(model: torch.nn.Module, path: Path, *, writes: bool = True) -> None:
    """Write a model's weights, merged with its adapter, to a safetensors file, whole or not at all.

    Args:
        writes: False for all but one of the ranks that share a model.
    """
    state = merged_state(model, keep=writes)
    if writes:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        save_file(state, temporary)
        temporary.replace(path)


class WeightFolder:
    """Where versions are published (`Learner.publish`); `close` removes what is left of it.

    Args:
        size: bytes of one version.
        fallback: folder used when shared memory has too little room or does not exist.
    """

    def __init__(self, size: int, fallback: Path) -> None:
        memory = shared_memory()
        roomy = memory is not None and shutil.disk_usage(memory).free > ROOM_FACTOR * size
        if not roomy:
            fallback.mkdir(parents=True, exist_ok=True)
        prefix = f"biomni-weights-{os.getpid()}-"
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=memory if roomy else fallback))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def discard_up_to(path: Path) -> None:
    """Delete this version's file or folder and those of the versions before it, in the same folder."""
    for old in path.parent.glob(f"*{path.suffix}"):
        if old.name <= path.name and old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        elif old.name <= path.name:
            old.unlink(missing_ok=True)
