"""A Python process beside the driver, with a pipe to it: how the rollout process and the learner's ranks begin and end.

The child gets its own session, so Ctrl-C (or a notebook's interrupt) reaches the driver alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from biomni_lib.errors import RunError

LOG_LINES = 5


class ChildProcess:
    """A running process.

    Args:
        name: how messages call it. module: whose `main(descriptor)` it runs, with the number of its end of the pipe.
        threads: of its arithmetic. log: file that takes its standard output and error.
        grace_s: seconds that it has to end by itself when its end of the pipe is closed.
    """

    def __init__(self, name: str, module: str, *, threads: int, log: Path, grace_s: float) -> None:
        self.name, self.log, self.grace_s = name, log, grace_s
        log.parent.mkdir(parents=True, exist_ok=True)
        self.connection, child = Pipe()
        command = f"import sys; from {module} import main; raise SystemExit(main(int(sys.argv[1])))"
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with log.open("ab") as output, child:
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, str(child.fileno())],
                pass_fds=[child.fileno()],
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def send(self, message: Any) -> None:
        """Raises: RunError when the process has ended."""
        try:
            self.connection.send(message)
        except OSError:
            raise self._death() from None

    def take(self, timeout_s: float = 0.0) -> tuple[Any, ...] | None:
        """A message, or None when there is none in that time. Raises: RunError when the process has ended without."""
        ended = self.process.poll() is not None
        try:
            if self.connection.poll(timeout_s):
                return tuple(self.connection.recv())
        except (EOFError, ConnectionResetError):
            ended = True
        if ended:
            raise self._death()
        return None

    def end(self, grace_s: float) -> None:
        """Wait for its end so long, then make sure of it."""
        try:
            self.process.wait(max(0.0, grace_s))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _death(self) -> RunError:
        self.end(self.grace_s)
        with self.log.open(errors="replace") as lines:
            last = " | ".join(line.strip() for line in deque(lines, LOG_LINES) if line.strip())
        return RunError(
            f"{self.name} ended with code {self.process.returncode}; run the same command again to resume from the "
            f"last checkpoint; its log {self.log} ends: {last or '(empty)'}"
        )
