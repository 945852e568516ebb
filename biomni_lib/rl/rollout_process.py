"""The driver's handle on the rollout process: start it, ask for batches, push weights, notice its death.

The driver stops it through the pipe. If the driver dies, the pipe closes and the process ends by itself.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import RunError
from biomni_lib.rl.child_process import ChildProcess
from biomni_lib.rl.scheduler import Group
from biomni_lib.rl.worker import WorkerSpec

POLL_S = 0.25
STOP_S = 15.0


class RolloutProcess:
    """A running rollout process.

    Args:
        spec: what it works on.
        log: file that takes its standard output and error.
    """

    def __init__(self, spec: WorkerSpec, log: Path) -> None:
        self.weight_sync_s = 0.0
        self.loaded_version = -1
        threads = spec.config.engine.threads
        self.child = ChildProcess(
            "the rollout process", "biomni_lib.rl.worker", threads=threads, log=log, grace_s=STOP_S
        )
        self.child.send(spec)
        self._receive("started")

    def next_batch(self, learner_version: int) -> tuple[list[Group], dict[str, float]]:
        """Wait for the next batch. Returns: its groups and the worker's counters. Raises: RunError on its death."""
        self.child.send(("batch", learner_version))
        groups, report = self._receive("batch")
        return groups, report

    def push_weights(self, version: int, path: Path, *, probed: bool = False) -> None:
        """Tell the engine of a new version; returns at once. A probed one is to be followed by `take_probe`."""
        self.child.send(("weights", version, path, probed))

    def take_probe(self) -> list[Trajectory]:
        """Wait until the engine has the weights of the start, or those just pushed, and what it sampled with them.

        Returns: a few trajectories, none in a world without a probe.
        """
        (probe,) = self._receive("probe")
        return list(probe)

    def scheduler_state(self) -> dict[str, Any]:
        """The scheduler's state for a checkpoint, taken between two batches."""
        self.child.send(("state",))
        (state,) = self._receive("state")
        return dict(state)

    def close(self) -> None:
        """Stop the process, and make sure of it."""
        with contextlib.suppress(OSError):  # it may have ended already
            self.child.connection.send(("stop",))
        self.child.connection.close()
        self.child.end(STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _receive(self, kind: str) -> tuple[Any, ...]:
        """The next message of this kind; reports of loaded weights are taken on the way."""
        while True:
            message = self.child.take(POLL_S)
            if message is None:
                continue
            if message[0] == "loaded":
                self.loaded_version, self.weight_sync_s = message[1], message[2]
            elif message[0] == "failed":
                raise RunError(f"the rollout process failed: {message[1]}")
            elif message[0] == kind:
                return tuple(message[1:])
            else:
                raise RunError(f"the rollout process answered {message[0]!r} when {kind!r} was awaited")
