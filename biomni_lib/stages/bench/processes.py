"""Clients of a benchmark, each a process of its own that does its job whenever it is told to."""

import os
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from json import loads
from pathlib import Path
from typing import IO, cast

from biomni_lib.stages.loadtest.job import Round

_KIB, _MB = 1 << 10, 1e6


class ClientProcess:
    """A process that does the job of a folder for each call of `seconds`, on one core where that can be set.

    Args:
        command: prints one `Round` for each line on its standard input.
        core: to keep it to; None for any. environment: variables that it gets beside this process's own.
    """

    def __init__(self, command: Sequence[str], core: int | None, **environment: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            list(command), stdin=pipe, stdout=pipe, text=True, env=os.environ | environment
        )
        pin(self._process.pid, core)
        self.rounds: list[Round] = []

    def seconds(self) -> float:
        """Wall seconds of the job. Raises: CalledProcessError when the process ends instead."""
        requests, answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        with suppress(BrokenPipeError):
            requests.write("\n")
            requests.flush()
        line = answers.readline()
        if not line:
            raise subprocess.CalledProcessError(self._process.wait(), self._process.args)
        self.rounds.append(Round(**loads(line)))
        return self.rounds[-1].seconds

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    @property
    def done(self) -> int:
        """What one round did, in the unit of its job."""
        return self.rounds[-1].done

    @property
    def peak_mb(self) -> float:
        """The most memory that the process has held since its start; 0 where the system does not tell."""
        status = Path(f"/proc/{self._process.pid}/status")
        lines = status.read_text().splitlines() if status.is_file() else []
        return next((int(line.split()[1]) * _KIB / _MB for line in lines if line.startswith("VmHWM:")), 0.0)

    @property
    def cpu_s(self) -> float:
        """Processor seconds for each unit of work, the median of the rounds but the first, which warms up."""
        return statistics.median(r.cpu_s / r.done for r in self.rounds[1:] or self.rounds)


def available_cores() -> list[int | None]:
    """The cores that this process may use; [None] where a process cannot be kept to one."""
    return [*sorted(os.sched_getaffinity(0))] if hasattr(os, "sched_getaffinity") else [None]


def pin(pid: int, core: int | None) -> None:
    """Keep a process that has just been started to one core."""
    if core is not None:
        os.sched_setaffinity(pid, {core})
