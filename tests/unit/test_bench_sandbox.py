"""The sandbox's benchmark in tiny sizes: every side really runs, and what cannot is named."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from biomni_lib.config import RunConfig
from biomni_lib.stages import bench
from biomni_lib.stages.bench import peers, sandbox
from biomni_lib.stages.bench.measured import Missing, Side


@pytest.fixture
def tiny(make_config: Callable[..., RunConfig], lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Settings over the tests' lake, and the smallest numbers of rounds, calls and sessions."""
    for name in ("START_ROUNDS", "FORK_ROUNDS", "CALL_ROUNDS"):
        monkeypatch.setattr(sandbox, name, 1)
    for name, value in (("CALLS", 5), ("CALLERS", 2), ("SESSIONS", 3)):
        monkeypatch.setattr(sandbox, name, value)
    config = make_config()
    config.lake_dir.parent.mkdir(parents=True)
    config.lake_dir.symlink_to(lake_dir)
    return config


def test_every_key_of_the_sandbox_is_registered_and_needs_the_lake_alone() -> None:
    keys = {key: measure.needs for key, measure in bench.MEASURES.items() if key.startswith("sandbox.")}
    names = ("start_vs_jupyter", "start_vs_fork", "call_ms", "gb_512_sessions")
    assert keys == {f"sandbox.{name}": "build_data" for name in names}


def test_starts_beside_a_kernel_name_every_side_and_the_missing_one(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    ratio = sandbox.start_against_kernel(tiny)
    times = {side.name: side.value for side in ratio.beside if isinstance(side, Side)}
    assert set(times) == {sandbox.SESSION, sandbox.KERNEL, sandbox.REPL} and min(times.values()) > 0
    assert ratio.ratio == pytest.approx(times[sandbox.KERNEL] / times[sandbox.SESSION])
    assert ratio.beside[-1] == Missing(sandbox.BUBBLEWRAP, "bwrap is not installed")
    assert ratio.conditions["isolation"] == "strict"


def test_starts_beside_a_fork_print_the_gap(tiny: RunConfig) -> None:
    ratio = sandbox.start_against_fork(tiny)
    session, fork, gap = (side.value for side in ratio.beside if isinstance(side, Side))
    assert gap == pytest.approx(session - fork) and ratio.ratio == pytest.approx(fork / session)


def test_a_calls_time_stands_beside_its_peers(tiny: RunConfig) -> None:
    reading = sandbox.call_overhead(tiny)
    assert (reading.side.name, reading.side.unit) == (sandbox.SESSION, "ms") and reading.side.value > 0
    assert [peer.unit for peer in reading.beside if isinstance(peer, Side)] == ["ms", "ms", "executions per second"]
    assert reading.conditions["calls"] == 5


def test_memory_is_that_of_all_processes(tiny: RunConfig) -> None:
    reading = sandbox.memory_of_many(tiny)
    with_table = reading.beside[0]
    assert isinstance(with_table, Side) and 0.01 < reading.side.value < with_table.value < 1


async def test_a_block_that_fails_is_no_measurement(tiny: RunConfig) -> None:
    async with await sandbox.Sandbox.start(tiny.sandbox, None, preload=()) as opened, await opened.open(0) as session:
        with pytest.raises(AssertionError, match="ZeroDivisionError"):
            await sandbox.memory_after(opened, [session], "1 / 0")


def test_the_repl_keeps_names_and_catches_what_is_printed() -> None:
    repl = peers.Repl()
    assert repl.execute("x = 20") == ""
    assert repl.execute("print(x + 1)") == "21\n"


def test_a_forker_forks_again_and_again_and_ends() -> None:
    with peers.forker() as forker:
        assert all(forker.start_seconds() > 0 for _ in range(3))
    assert forker._process.poll() == 0


def test_a_fresh_interpreter_is_timed_and_one_that_does_not_start_is_no_number() -> None:
    assert peers.interpreter_start_seconds() > 0
    with pytest.raises(subprocess.CalledProcessError):
        peers.interpreter_start_seconds("false")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bubblewrap_starts_an_interpreter() -> None:
    assert peers.bubblewrap_start_seconds(str(shutil.which("bwrap"))) > 0


def test_a_kernel_that_fails_a_block_says_so() -> None:
    with contextlib.closing(peers.Kernel()) as kernel, pytest.raises(AssertionError, match="ZeroDivisionError"):
        kernel.execute("1 / 0")
