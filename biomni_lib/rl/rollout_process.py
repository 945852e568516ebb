"""The driver's handle on the rollout process: start it, ask for batches, push weights, notice its death.

The child gets its own session, so Ctrl-C (or a notebook's interrupt) reaches the driver alone, which then stops the
child through the pipe. If the driver dies, the pipe closes and the child ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import deque
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import RunError
from biomni_lib.rl.scheduler import Group
from biomni_lib.rl.worker import WorkerSpec

POLL_S = 0.25
STOP_S = 15.0
LOG_LINES = 5
COMMAND = "import sys; from biomni_lib.rl.worker import main; raise SystemExit(main(int(sys.argv[1])))"


class RolloutProcess:
    """A running rollout process.

    Args:
        spec: what it works on.
        log: file that takes its standard output and error.
    """

    def __init__(self, spec: WorkerSpec, log: Path) -> None:
        self.log = log
        self.weight_sync_s = 0.0
        self.loaded_version = -1
        log.parent.mkdir(parents=True, exist_ok=True)
        self.connection, child = Pipe()
        threads = str(spec.config.engine.threads)
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with log.open("ab") as output, child:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, str(child.fileno())],
                pass_fds=[child.fileno()],
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._send(spec)
        self._receive("started")

    def next_batch(self, learner_version: int) -> tuple[list[Group], dict[str, float]]:
        """Wait for the next batch. Returns: its groups and the worker's counters. Raises: RunError on its death."""
        self._send(("batch", learner_version))
        groups, report = self._receive("batch")
        return groups, report

    def push_weights(self, version: int, path: Path, *, probed: bool = False) -> None:
        """Tell the engine of a new version; returns at once. A probed one is to be followed by `take_probe`."""
        self._send(("weights", version, path, probed))

    def take_probe(self) -> list[Trajectory]:
        """Wait until the engine has the weights of the start, or those just pushed, and what it sampled with them.

        Returns: a few trajectories, none in a world without a probe.
        """
        (probe,) = self._receive("probe")
        return list(probe)

    def scheduler_state(self) -> dict[str, Any]:
        """The scheduler's state for a checkpoint, taken between two batches."""
        self._send(("state",))
        (state,) = self._receive("state")
        return dict(state)

    def close(self) -> None:
        """Stop the process, and make sure of it."""
        with contextlib.suppress(OSError):  # it may have ended already
            self.connection.send(("stop",))
        self.connection.close()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            raise self._death() from None

    def _receive(self, kind: str) -> tuple[Any, ...]:
        """The next message of this kind; reports of loaded weights are taken on the way."""
        while True:
            message = self._next_message()
            if message[0] == "loaded":
                self.loaded_version, self.weight_sync_s = message[1], message[2]
            elif message[0] == "failed":
                raise RunError(f"the rollout process failed: {message[1]}")
            elif message[0] == kind:
                return tuple(message[1:])
            else:
                raise RunError(f"the rollout process answered {message[0]!r} when {kind!r} was awaited")

    def _next_message(self) -> tuple[Any, ...]:
        try:
            while not self.connection.poll(POLL_S):
                if self.process.poll() is not None and not self.connection.poll():
                    raise self._death()
            return tuple(self.connection.recv())
        except (EOFError, ConnectionResetError):
            raise self._death() from None

    def _death(self) -> RunError:
        try:
            code: int | None = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            code = None
        with self.log.open(errors="replace") as lines:
            last = " | ".join(line.strip() for line in deque(lines, LOG_LINES) if line.strip())
        return RunError(
            f"the rollout process ended with code {code}; run the same command again to resume from the last "
            f"checkpoint; its log {self.log} ends: {last or '(empty)'}"
        )
