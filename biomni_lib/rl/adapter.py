"""LoRA through peft: small trained matrices beside frozen ones (Hu et al. 2021).

An adapter sits on every linear layer of the body, not on embeddings or the output projection. Outside the learner
nobody sees it: what is published and saved are the merged weights, under the base model's names (see `weights`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomni_lib.rl.ranks import whole
from biomni_lib.rl.weights import ADAPTER


def add_adapter(model: Any, *, rank: int, alpha: int, seed: int) -> Any:
    """Put an adapter into a model, whose other weights are frozen; it changes no output yet.

    Args:
        rank: columns of its matrices. alpha: their product counts alpha / rank. seed: of its start.
    Returns: the model in peft's wrapping, which can switch the adapter off; `model` itself is changed in place.
    """
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, settings)


def adapter_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The adapter's own tensors by name, none when there is no adapter; detached, not copied."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if ADAPTER in name}


@torch.no_grad()
def save_adapter(adapter: Any, path: Path, *, writes: bool = True) -> None:
    """Write an adapter alone as a folder, as peft saves it, whole or not at all.

    Args:
        adapter: the model in peft's wrapping. writes: False for all but one of the ranks that share a model.
    """
    state = {name: whole(tensor).cpu() for name, tensor in adapter_state(adapter).items()}
    if writes:
        temporary = path.with_name(f".{path.name}.tmp")
        adapter.save_pretrained(temporary, state_dict=state)
        temporary.replace(path)
