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
from safetensors.torch import load_file, save_file

from biomni_lib.errors import TrainingError

SHARED_MEMORY = Path("/dev/shm")
ROOM_FACTOR = 8  # free shared memory needed, in multiples of one version's size
ADAPTER, BASE = ".lora_", ".base_layer"  # in peft's names of an adapter's tensors, and of what they stand beside


def untied_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without second names of a shared tensor, contiguous and detached (not copied)."""
    seen: set[int] = set()
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            state[name] = tensor.detach().contiguous()
    return state


@torch.no_grad()
def merged_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """`untied_state` in the base model's layout: an adapter, where there is one, is added to its matrices."""
    state = untied_state(model)
    merged = {name.replace(BASE, ""): tensor for name, tensor in state.items() if ADAPTER not in name}
    for name in (name for name in state if name.endswith(f"{BASE}.weight")):
        layer: Any = model.get_submodule(name.removesuffix(f"{BASE}.weight"))
        (adapter,) = layer.active_adapters
        merged[name.replace(BASE, "")] = state[name] + layer.get_delta_weight(adapter)
    return merged


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write a model's weights, merged with its adapter, to a safetensors file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(merged_state(model), temporary)
    temporary.replace(path)


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Read weights written by `save_weights` into a model of the same shape.

    Raises: TrainingError when names or shapes do not fit.
    """
    wanted, given = untied_state(model), load_file(path)
    if {n: t.shape for n, t in wanted.items()} != {n: t.shape for n, t in given.items()}:
        raise TrainingError(
            f"{path}: the weights belong to a model of another shape; take the model they were saved from"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(given[name])


class WeightFolder:
    """Where versions are published; `close` removes what is left of it.

    Args:
        model: tells the size of a version.
        fallback: folder used when shared memory has too little room or does not exist.
    """

    def __init__(self, model: torch.nn.Module, fallback: Path) -> None:
        size = sum(t.numel() * t.element_size() for t in untied_state(model).values())
        roomy = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > ROOM_FACTOR * size
        if not roomy:
            fallback.mkdir(parents=True, exist_ok=True)
        prefix = f"biomni-weights-{os.getpid()}-"
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=SHARED_MEMORY if roomy else fallback))

    def publish(self, model: torch.nn.Module, version: int, adapter: Any | None = None) -> Path:
        """Write one version; older ones are deleted by the reader once it has moved past them.

        Args:
            adapter: the model in peft's wrapping, of which the adapter alone is written; None for all weights.
        Returns: a safetensors file, or the folder of an adapter.
        """
        if adapter is None:
            path = self.path / f"{version:08d}.safetensors"
            save_weights(model, path)
            return path
        path = self.path / f"{version:08d}.adapter"
        temporary = path.with_name(f".{path.name}.tmp")
        adapter.save_pretrained(temporary)
        return temporary.replace(path)

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
