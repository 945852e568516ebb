"""The sandbox against its peers: how fast a session starts, what a call costs, what many sessions weigh.

A session is measured as rollouts use it: strict isolation, the preset's limits, the lake's tools. Seconds are those of
this process, from the request until the answer is here; sides take turns.
"""

import asyncio
import contextlib
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from biomni_lib.config import RunConfig
from biomni_lib.sandbox import Sandbox, Session
from biomni_lib.stages.bench import peers
from biomni_lib.stages.bench.measured import Missing, Peer, Ratio, Reading, Side, conditions, take_turns

START_ROUNDS, FORK_ROUNDS, CALL_ROUNDS = 7, 31, 7
CALLS, CALLERS, SESSIONS = 100, 16, 512
USED_TIMEOUT_S = 120
CALL = "x = 1"
USED = 'import numpy as np\nscores = np.array([match_score(["HP:0001166"], o) for o in ("154700", "192500")])\nscores'
"""What each of many live sessions has done, as agents do: tools called, their numbers compared."""
TABLE = 'import pandas as pd\nframe = pd.DataFrame({"disease": ["154700", "192500"], "score": scores})\nframe'
"""What the same sessions do next: a table made and shown, which touches much of pandas."""
SESSION, KERNEL, REPL, BUBBLEWRAP, FORK = (
    "sandbox session",
    "Jupyter kernel",
    "exec in one process, as Biomni does",
    "fresh bubblewrap interpreter",
    "bare fork of a process with the libraries",
)
_GIB, _KIB = 1 << 30, 1 << 10


def start_against_kernel(config: RunConfig) -> Ratio:
    """Starts of sessions a second over those of Jupyter kernels, each until numpy and pandas are imported there."""
    with open_sandbox(config) as (runner, sandbox):
        sides: dict[str, Callable[[], float]] = {
            SESSION: lambda: runner.run(start_seconds(sandbox)),
            KERNEL: peers.kernel_start_seconds,
            REPL: peers.repl_start_seconds,
        }
        bubblewrap = shutil.which("bwrap")
        if bubblewrap:
            sides[BUBBLEWRAP] = lambda: peers.bubblewrap_start_seconds(bubblewrap)
        seconds = take_turns(sides, START_ROUNDS)
    beside: list[Peer] = [Side(name, "ms a start", 1e3 * s) for name, s in seconds.items()]
    if not bubblewrap:
        beside.append(Missing(BUBBLEWRAP, "bwrap is not installed"))
    return _starts_ratio(config, seconds, KERNEL, tuple(beside))


def start_against_fork(config: RunConfig) -> Ratio:
    """Starts of sessions a second over bare forks, and the gap: what shutting a session in costs."""
    with open_sandbox(config) as (runner, sandbox), peers.forker() as forker:
        sides = {SESSION: lambda: runner.run(start_seconds(sandbox)), FORK: forker.start_seconds}
        seconds = take_turns(sides, FORK_ROUNDS)
    beside = [Side(name, "ms a start", 1e3 * s) for name, s in seconds.items()]
    gap = Side("gap", "ms a start", 1e3 * (seconds[SESSION] - seconds[FORK]))
    return _starts_ratio(config, seconds, FORK, (*beside, gap))


def call_overhead(config: RunConfig) -> Reading:
    """Milliseconds of a call whose block does next to nothing, at the median; beside it executions a second."""
    with open_sandbox(config) as (runner, sandbox), contextlib.closing(peers.Kernel()) as kernel:
        session, repl = runner.run(sandbox.open(0)), peers.Repl()
        sides = {
            SESSION: lambda: runner.run(call_seconds(session)),
            KERNEL: lambda: _median_seconds(lambda: kernel.execute(CALL)),
            REPL: lambda: _median_seconds(lambda: repl.execute(CALL)),
        }
        seconds = take_turns(sides, CALL_ROUNDS)
        rate = runner.run(calls_per_second(sandbox))
    times = [Side(name, "ms", 1e3 * s) for name, s in seconds.items()]
    beside = (*times[1:], Side(f"{CALLERS} sessions at once", "executions per second", rate))
    return Reading(times[0], {**conditions(config), "block": CALL, "calls": CALLS * CALL_ROUNDS}, beside)


def memory_of_many(config: RunConfig) -> Reading:
    """GiB of 512 live sessions, the zygote included: proportional set size; beside it what a pandas table adds."""
    with open_sandbox(config, sessions_max=SESSIONS) as (runner, sandbox):
        began = time.perf_counter()
        sessions = [runner.run(sandbox.open(seed)) for seed in range(SESSIONS)]
        used = runner.run(memory_after(sandbox, sessions, USED))
        seconds = time.perf_counter() - began
        table = runner.run(memory_after(sandbox, sessions, TABLE))
        tables = sum(_proc_bytes(pid, "status", "VmPTE:") for pid in sandbox.pids())
        runner.run(close_all(sessions))
    beside = (
        Side("each with a pandas table shown too", "GiB", table / _GIB),
        Side("their page tables, not counted", "GiB", tables / _GIB),
        Side("to start and use them all", "s", seconds),
    )
    blocks = {"block": USED, "block with a table": TABLE}
    return Reading(Side(f"{SESSIONS} live sessions", "GiB", used / _GIB), {**conditions(config), **blocks}, beside)


@contextlib.contextmanager
def open_sandbox(config: RunConfig, **changes: Any) -> Iterator[tuple[asyncio.Runner, Sandbox]]:
    """A sandbox over the run's lake, and the event loop it lives in."""
    with asyncio.Runner() as runner:
        sandbox = runner.run(Sandbox.start(config.sandbox.model_copy(update=changes), config.lake_dir))
        try:
            yield runner, sandbox
        finally:
            runner.run(sandbox.close())


async def start_seconds(sandbox: Sandbox) -> float:
    """From nothing to a session that has the libraries."""
    began = time.perf_counter()
    async with await sandbox.open(0) as session:
        observation = await session.execute(peers.READY)
        seconds = time.perf_counter() - began
    assert observation.ok, observation.text
    return seconds


async def call_seconds(session: Session) -> float:
    """Median seconds of a call of a live session."""
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        observation = await session.execute(CALL)
        times.append(time.perf_counter() - began)
        assert observation.ok, observation.text
    return statistics.median(times)


async def calls_per_second(sandbox: Sandbox) -> float:
    """Executions a second of several live sessions together."""
    sessions = [await sandbox.open(seed) for seed in range(CALLERS)]
    await asyncio.gather(*(session.execute(CALL) for session in sessions))
    began = time.perf_counter()
    await asyncio.gather(*(call_seconds(session) for session in sessions))
    seconds = time.perf_counter() - began
    await close_all(sessions)
    return CALLERS * CALLS / seconds


async def memory_after(sandbox: Sandbox, sessions: Sequence[Session], block: str) -> int:
    """Bytes of all processes of a sandbox when each session has run a block."""
    observations = await asyncio.gather(*(session.execute(block, USED_TIMEOUT_S) for session in sessions))
    failed = [observation.text for observation in observations if not observation.ok]
    assert not failed, failed[0]
    pids = sandbox.pids()
    assert len(pids) > len(sessions)
    return sum(_proc_bytes(pid, "smaps_rollup", "Pss:") for pid in pids)


async def close_all(sessions: Iterable[Session]) -> None:
    """End sessions."""
    await asyncio.gather(*(session.close() for session in sessions))


def _starts_ratio(config: RunConfig, seconds: dict[str, float], peer: str, beside: tuple[Peer, ...]) -> Ratio:
    session, other = (Side(name, "starts per second", 1 / seconds[name]) for name in (SESSION, peer))
    told = {**conditions(config), "isolation": config.sandbox.isolation, "block": peers.READY}
    return Ratio(session, other, told, beside)


def _median_seconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _proc_bytes(pid: int, file: str, field: str) -> int:
    """A field that /proc gives in kB."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith(field)), 0)
