"""The driver's handle on a learner of several ranks: start their processes, run a function on all, notice a death.

A learner of one rank lives in the driver itself; `open_learner` gives either, and the driver asks both for the same two
things, `version` and `run`. Each rank is a process of its own session with a pipe (see `learner_rank`): when the driver
dies, they end by themselves; when one of them dies, the others are killed and the run stops. The ranks find each other
through a file, so they are all on one machine.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from biomni_lib.config import RunConfig
from biomni_lib.errors import ConfigError
from biomni_lib.rl.child_process import ChildProcess
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.ranks import Ranks
from biomni_lib.rl.recipe import Recipe

T = TypeVar("T")
POLL_S = 0.25
STOP_S = 5.0


@dataclass(frozen=True)
class LearnerSpec:
    """What a learner is made of; `rendezvous` is a file by which ranks find each other."""

    config: RunConfig
    recipe: Recipe
    model_dir: Path
    rendezvous: Path | None = None

    def load(self, rank: int = 0) -> Learner:
        """The learner of one rank; where there are several, torch.distributed is running.

        Weights in training are in float32; those beside an adapter in the numbers of the passes.
        """
        from transformers import AutoModelForCausalLM

        placed, lora = self.config.placement, self.config.rl.lora_rank is not None
        passes: torch.dtype = getattr(torch, self.config.model.dtype)
        model = AutoModelForCausalLM.from_pretrained(self.model_dir, dtype=passes if lora else torch.float32)
        device, gathered = device_of(self.config, rank), None if lora else passes
        count, context = placed.learner_ranks, placed.context_parallel
        ranks = Ranks(rank, count, device, placed.learner_offload, gathered, context)
        return Learner(model, self.recipe, self.config, ranks)


def device_of(config: RunConfig, rank: int) -> torch.device:
    """A card of its own for each rank where the engine is one for cards and there are any, else the CPU.

    Raises: ConfigError when there are fewer cards than ranks.
    """
    if config.engine.kind != "vllm" or not torch.cuda.is_available():
        return torch.device("cpu")
    if rank >= torch.cuda.device_count():
        raise ConfigError(
            f"placement.learner_ranks = {config.placement.learner_ranks}: this machine has "
            f"{torch.cuda.device_count()} cards, and a rank takes one; set fewer"
        )
    return torch.device("cuda", rank)


@contextlib.contextmanager
def open_learner(spec: LearnerSpec, logs: Path) -> Iterator[Learner | RankedLearner]:
    """The learner that the placement names, in this process or over ranks.

    Args:
        logs: folder for the ranks' standard output and error, `learner-RANK.log`.
    Raises: ConfigError for what the learner does not know, all weights in bfloat16 by one rank, and for ranks that
        cannot share the model's attention heads.
    """
    placed, model = spec.config.placement, spec.config.model
    if placed.learner_ranks == 1 and model.dtype != "float32" and spec.config.rl.lora_rank is None:
        raise ConfigError(
            f"model.dtype = {model.dtype!r}: all weights kept in float32 and read in others "
            "needs placement.learner_ranks above 1; or set rl.lora_rank, or model.dtype = 'float32'"
        )
    if placed.learner_ranks == 1:
        yield spec.load()
        return
    with tempfile.TemporaryDirectory(prefix="biomni-learner-") as folder:
        found = LearnerSpec(spec.config, spec.recipe, spec.model_dir, Path(folder) / "rendezvous")
        with RankedLearner(found, logs) as learner:
            yield learner


class RankedLearner:
    """A learner of several ranks, each a running process; `version` is the weights'.

    Args:
        spec: with a rendezvous.
        logs: folder for the ranks' logs.
    Raises: RunError when a rank dies, what was raised on purpose in a rank as itself.
    """

    def __init__(self, spec: LearnerSpec, logs: Path) -> None:
        self.version = 0
        self.ranks: list[ChildProcess] = []
        try:
            for number in range(spec.config.placement.learner_ranks):
                log, threads = logs / f"learner-{number}.log", spec.config.rl.threads
                name, module = f"rank {number} of the learner", "biomni_lib.rl.learner_rank"
                self.ranks.append(ChildProcess(name, module, threads=threads, log=log, grace_s=STOP_S))
                self.ranks[-1].send((spec, number))
            self._answer()
        except BaseException:
            self.close()
            raise

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(learner, *arguments)` on every rank; what rank 0 returns.

        Args:
            function: of a module, so that it travels by name; it must ask for the same gathering on every rank.
        """
        for rank in self.ranks:
            rank.send((function, arguments))
        answer: T = self._answer()
        return answer

    def close(self) -> None:
        """Stop the processes, and make sure of it."""
        for rank in self.ranks:
            rank.connection.close()
        until = time.monotonic() + STOP_S
        for rank in self.ranks:
            rank.end(until - time.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _answer(self) -> Any:
        """What rank 0 answered once all have; a rank's failure is told only when no other turns out to have died.

        For the ranks that a dead one leaves behind fail too, and often they are the first to say so.
        """
        waiting, failed, until = list(self.ranks), [], float("inf")
        answer: Any = None
        while waiting and time.monotonic() < until:
            wait([rank.connection for rank in waiting], POLL_S)
            for rank, message in [(rank, rank.take()) for rank in waiting]:
                if message is None:
                    continue
                waiting.remove(rank)
                if message[0] == "failed":
                    failed.append(message[1])
                    until = min(until, time.monotonic() + STOP_S)
                elif rank is self.ranks[0]:
                    _, answer, self.version = message
        if failed:
            raise failed[0]
        return answer
