"""Checkpoints of an RL run: everything a resumed run needs, in a folder that is whole or absent.

A folder `step-00010` is the state after ten steps: `learner/` has what is trained (all weights, or an adapter) and the
optimizers' state, each rank's share in a file of its own (torch.distributed.checkpoint), to be read by any number of
ranks; `model.safetensors` the whole weights, merged with an adapter, for other readers. Groups that were in flight or
waiting are kept as indexes and rolled out anew. Nothing random lives in learner or scheduler: every draw is a function
of the run's seed and a group's index, so there is no generator to save.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed import checkpoint as sharded

from biomni_lib.config import RunConfig
from biomni_lib.errors import TrainingError
from biomni_lib.provenance import atomic_path
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.learner_ranks import RankedLearner
from biomni_lib.rl.recipe import Recipe
from biomni_lib.rl.weights import save_weights

KEPT = 2
MAY_CHANGE = frozenset({"steps", "checkpoint_every", "threads", "micro_batch_tokens", "gradient_checkpointing"})
"""Settings of `rl` that change no trained number."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment: `step` steps are done."""

    path: Path
    step: int

    @property
    def weights(self) -> Path:
        """The weights' safetensors file."""
        return self.path / "model.safetensors"


def identity(config: RunConfig, recipe: Recipe, start: str) -> dict[str, dict[str, Any]]:
    """What must be equal for a checkpoint to be continued; `start` is the sha256 of the weights trained from."""
    parts = config.model_dump(mode="json", include={"data", "prompt", "agent", "rl"})
    parts["rl"] = {name: value for name, value in parts["rl"].items() if name not in MAY_CHANGE}
    return {"run": {"seed": config.seed, "start": start}, "recipe": recipe.model_dump(mode="json"), **parts}


def save_checkpoint(
    folder: Path,
    learner: Learner | RankedLearner,
    *,
    scheduler: dict[str, Any],
    seconds: float,
    identity: dict[str, Any],
) -> Checkpoint:
    """Write a checkpoint of the learner's step and delete all but the last few.

    Args:
        folder: of all checkpoints of the run.
        scheduler: the scheduler's state. seconds: trained so far. identity: of the run.
    Raises: RunError when the disk is full; older checkpoints are then still there.
    """
    path = folder / f"step-{learner.version:05d}"
    with atomic_path(path) as temporary:
        temporary.mkdir()
        counters = learner.run(_save, temporary)
        state = {"learner": counters, "seconds": seconds, "identity": identity, "scheduler": scheduler}
        (temporary / "state.json").write_text(json.dumps(state))
    for old in _complete(folder)[:-KEPT]:
        shutil.rmtree(old.path)
    return Checkpoint(path, learner.version)


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, or None."""
    found = _complete(folder)
    return found[-1] if found else None


def restore_checkpoint(
    checkpoint: Checkpoint, learner: Learner | RankedLearner, identity: dict[str, Any]
) -> dict[str, Any]:
    """Bring the learner to the checkpoint of a run with this identity, whatever number of ranks saved it.

    Returns: the saved `scheduler` state and the `seconds` trained so far.
    Raises: TrainingError when it belongs to another recipe, seed, setting or starting model, or to earlier code.
    """
    state: dict[str, Any] = json.loads((checkpoint.path / "state.json").read_text())
    if state["identity"] != identity:
        differing = _differences(state["identity"], identity)
        raise TrainingError(
            f"{checkpoint.path}: saved with other settings ({differing}); restore them, "
            f"or delete {checkpoint.path.parent} to start anew"
        )
    if "learner" not in state:
        raise TrainingError(f"{checkpoint.path}: of an earlier format; delete {checkpoint.path.parent} to start anew")
    learner.run(_restore, checkpoint.path, state["learner"])
    return state


def _save(learner: Learner, folder: Path) -> dict[str, int]:
    save_weights(learner.model, folder / "model.safetensors", writes=learner.ranks.rank == 0)
    with _quiet_alone():
        sharded.save(learner.tensors(), checkpoint_id=folder / "learner")
    return learner.counters


def _restore(learner: Learner, folder: Path, counters: dict[str, int]) -> None:
    saved: dict[str, Any] = sharded.FileSystemReader(folder / "learner").read_metadata().state_dict_metadata
    learner.allocate({name: tuple(tensor.size) for name, tensor in saved.items()})
    with _quiet_alone():
        sharded.load(learner.tensors(), checkpoint_id=folder / "learner")
    learner.counters = counters


@contextlib.contextmanager
def _quiet_alone() -> Iterator[None]:
    """Without the warning that one process alone is saved or loaded, which is then what is wanted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _complete(folder: Path) -> list[Checkpoint]:
    return [Checkpoint(path, int(path.name[5:])) for path in sorted(folder.glob("step-*"))]


def _differences(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    pairs = []
    for part in wanted:
        names = sorted(saved[part].keys() | wanted[part].keys())
        pairs += [(f"{part}.{name}", saved[part].get(name), wanted[part].get(name)) for name in names]
    return ", ".join(f"{name}: {old!r}, now {new!r}" for name, old, new in pairs if old != new)
