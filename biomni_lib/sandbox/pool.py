"""The sandbox: one zygote, many sessions, in this process's event loop."""

import asyncio
import contextlib
import logging
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from biomni_lib.errors import SandboxError
from biomni_lib.notes import note
from biomni_lib.sandbox.cgroup import CgroupError, SessionGroups
from biomni_lib.sandbox.limits import Limits
from biomni_lib.sandbox.observation import Latency
from biomni_lib.sandbox.places import Places, ToolClass
from biomni_lib.sandbox.protection import Protection
from biomni_lib.sandbox.session import Session
from biomni_lib.sandbox.watchdog import Watchdog, tree_pids
from biomni_lib.sandbox.worker import Worker, ZygoteProcess, ZygoteSettings

if TYPE_CHECKING:
    from biomni_lib.config import SandboxConfig

LAKE_TOOLS = "biomni_lib.sandbox.toolbox:lake_tools"
CACHED_LAKE_TOOLS = "biomni_lib.sandbox.toolbox:cached_lake_tools"
PRELOAD = ("numpy", "pandas", "scipy.stats", "Bio.Align", "Bio.SeqIO", "biomni_lib.sandbox.warm")
_DESCRIPTORS_PER_SESSION, _DESCRIPTORS_BESIDE = 2, 256
_log = logging.getLogger(__name__)


class Sandbox:
    """Where code that models write runs.

    `async with await Sandbox.start(config.sandbox, lake_dir) as sandbox:` or `start` and `close`. When the zygote dies,
    its sessions' blocks end as observations and the next session starts a new zygote.
    """

    def __init__(
        self, settings: ZygoteSettings, *, sessions_max: int, timeout_s: float, at_once: Mapping[ToolClass, int]
    ) -> None:
        self.limits, self.timeout_s = settings.limits, timeout_s
        self.places = Places(at_once)
        self._settings = settings
        self._sessions = asyncio.Semaphore(sessions_max)
        self._restart = asyncio.Lock()
        self._zygote: ZygoteProcess | None = None
        self._workers: dict[int, Worker] = {}
        self._excesses: dict[int, str] = {}
        self._watchdog = Watchdog(settings.limits, self._kill_for_excess)
        self._groups: SessionGroups | None = None
        self.protection: Protection | None = None
        self._closed = False

    @classmethod
    async def start(
        cls,
        config: "SandboxConfig",
        lake_dir: Path | None,
        *,
        provider: str | None = None,
        preload: tuple[str, ...] = PRELOAD,
    ) -> Self:
        """Start the zygote and prove with one session that the isolation holds together on this machine.

        Args:
            config: the run's sandbox settings.
            lake_dir: the one data folder that sessions may read; None for none.
            provider: `module:function`, called with `lake_dir`, that gives the names defined in every session; the
                lake's tools when None, with a cache of their results unless the settings say otherwise.
            preload: modules that are loaded once for all sessions.
        Raises: SandboxError that names what the machine does not give, and the remedy.
        """
        provider = provider or (CACHED_LAKE_TOOLS if config.tool_cache else LAKE_TOOLS)
        _allow_descriptors(config.sessions_max)
        limits = Limits(config.memory_mb, config.output_chars)
        settings = ZygoteSettings(config.isolation, limits, lake_dir, provider, preload)
        sandbox = cls(
            settings,
            sessions_max=config.sessions_max,
            timeout_s=config.execute_timeout_s,
            at_once={"python": config.python_at_once, "shell": config.shell_at_once},
        )
        try:
            sandbox.stop_worker(await sandbox.start_worker(0, Latency()))
            sandbox._tell_protection()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    async def open(self, seed: int) -> Session:
        """A session with its own namespace; cheap, since its process starts with the first block.

        Args:
            seed: of the session's random generators.
        Raises: SandboxError when the sandbox is closed.
        """
        self._require_open()
        return Session(self, seed)

    async def close(self) -> None:
        """Kill every session and the zygote; returns when no process is left. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for worker in list(self._workers.values()):
            self.stop_worker(worker)
        self._watchdog.close()
        if self._zygote is not None:
            await self._zygote.close()
        if self._groups is not None:
            self._groups.close()

    def pids(self) -> list[int]:
        """Every process of this sandbox: launcher, zygote, sessions and what they started (Linux)."""
        return [] if self._zygote is None else list(tree_pids(self._zygote.pid))

    async def start_worker(self, seed: int, latency: Latency) -> Worker:
        """A fresh session process; waits for a place when `sessions_max` are taken (for `Session`)."""
        self._require_open()
        with latency.counted("queue_s"):
            await self._sessions.acquire()
        try:
            with latency.counted("start_s"):
                worker = await self._open_worker(seed)
        except BaseException:
            self._sessions.release()
            raise
        self._workers[worker.handle.host_pid] = worker
        self._watchdog.add(worker.handle.host_pid)
        if self._groups is not None:
            with contextlib.suppress(OSError):  # the process has ended; its first block tells
                self._groups.add(worker.handle.host_pid)
        return worker

    def stop_worker(self, worker: Worker) -> None:
        """Kill a session's processes and free its place (for `Session`)."""
        if self._workers.pop(worker.handle.host_pid, None) is not None:
            self._watchdog.remove(worker.handle.host_pid)
            self._excesses.pop(worker.handle.host_pid, None)
            worker.close()
            if self._groups is not None:
                self._groups.remove(worker.handle.host_pid)
            self._sessions.release()

    @contextlib.contextmanager
    def watched(self, worker: Worker) -> Iterator[None]:
        """Watch a session's memory closely while it runs a block (for `Session`)."""
        self._watchdog.mark(worker.handle.host_pid, running=True)
        try:
            yield
        finally:
            self._watchdog.mark(worker.handle.host_pid, running=False)

    def excess(self, worker: Worker) -> str:
        """What the session was killed for using too much of; empty when for nothing (for `Session`)."""
        pid = worker.handle.host_pid
        if self._groups is not None and self._groups.exceeded(pid):
            return f"{self.limits.memory_mb} MiB of memory"
        return self._excesses.get(pid, "")

    async def _open_worker(self, seed: int) -> Worker:
        """From the running zygote, or from a new one when it is gone."""
        zygote = self._zygote or await self._new_zygote(None)
        try:
            return await zygote.open(seed)
        except (OSError, EOFError) as error:
            _log.warning("the sandbox's zygote is gone (%s); starting another", error)
            return await (await self._new_zygote(zygote)).open(seed)

    async def _new_zygote(self, gone: ZygoteProcess | None) -> ZygoteProcess:
        async with self._restart:
            if self._zygote is gone:
                if gone is not None:
                    await gone.close()
                self._zygote = ZygoteProcess(self._settings)
                await self._protect(self._zygote)
            assert self._zygote is not None
            return self._zygote

    async def _protect(self, zygote: ZygoteProcess) -> None:
        """Load the zygote, and have a session's memory, and what its tier leaves open, bounded from outside."""
        tier, missing = await zygote.load()
        if tier != "namespaces":
            self._watchdog.watch_scratch(zygote.scratch_dir)
        if self._groups is None:
            try:
                self._groups = SessionGroups.open(self.limits)
                self._watchdog.sweep_with(self._groups.sweep)
            except CgroupError as error:
                missing += (str(error),)
        memory = "watching parent" if self._groups is None else "cgroup v2 and watching parent"
        self.protection = Protection(tier, memory, missing)

    def _tell_protection(self) -> None:
        """State in the log and in the manifests what sessions run under."""
        assert self.protection is not None
        text, warning = self.protection.describe(), self.protection.warning
        _log.info("sandbox: %s", text)
        if warning:
            _log.warning(warning)
        note("sandbox", f"{text}; WARNING: {warning}" if warning else text)

    def _kill_for_excess(self, pid: int, what: str) -> None:
        worker = self._workers.get(pid)
        if worker is not None:
            self._excesses[pid] = what
            worker.handle.kill()

    def _require_open(self) -> None:
        if self._closed:
            raise SandboxError("the sandbox is closed; start another one")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _allow_descriptors(sessions: int) -> None:
    """Raise this process's own limit of open descriptors to what the sessions need: a socket and a pidfd each.

    Raises: SandboxError when the machine's limit is lower.
    """
    needed = sessions * _DESCRIPTORS_PER_SESSION + _DESCRIPTORS_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SandboxError(
            f"sandbox.sessions_max = {sessions}: needs {needed} open files, this machine allows {hard};"
            " lower it or raise the hard limit (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
