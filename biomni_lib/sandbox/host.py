"""Sessions by id over one sandbox: what the HTTP server and the Ray actor share.

A caller opens a session, runs blocks in it and closes it. A session without a call for `idle_s` is closed, and one
whose caller goes away while a block runs. A caller that can say that it lives (`touch`) asks for a shorter time, its
lease: then its sessions last while it thinks, and go soon after it is gone. What would go over a limit is refused with
a reason.
"""

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from biomni_lib.config import RunConfig
from biomni_lib.errors import SandboxError
from biomni_lib.sandbox.closing import Closing
from biomni_lib.sandbox.meters import Meters
from biomni_lib.sandbox.observation import Observation
from biomni_lib.sandbox.pool import Sandbox
from biomni_lib.sandbox.session import Session

Report = Callable[[dict[str, Any]], None]
"""Told of the progress of a block: `queued` with the blocks ahead, then `started` with the seconds waited."""
TIMEOUT_MAX_S = 86_400
_EXPIRY_CHECK_S = 1.0


class Refusal(SandboxError):
    """A request that is turned down, or that cannot be answered; `kind` is for programs, `reason` for people."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason

    def __str__(self) -> str:
        return self.reason


@dataclass
class _Entry:
    session: Session
    idle_s: float
    used: float = field(default_factory=time.monotonic)
    busy: bool = False


class SessionHost(Closing):
    """Many callers' sessions in one sandbox.

    Args:
        sandbox: started; closed by `close`.
        config: the run's settings; `config.environment` has the limits.
        lake: sha256 that names the lake of the sessions; None for sessions without one.
    """

    def __init__(self, sandbox: Sandbox, config: RunConfig, lake: str | None) -> None:
        self.meters = Meters()
        self.meters.watch(sessions=lambda: len(self._entries), queue=lambda: self._waiting)
        self._sandbox, self._config, self._lake, self._limits = sandbox, config, lake, config.environment
        self._entries: dict[str, _Entry] = {}
        self._places = asyncio.Semaphore(self._limits.running_max)
        self._waiting = 0
        self._expiry = asyncio.create_task(self._expire())

    @classmethod
    async def start(cls, config: RunConfig, lake_dir: Path | None) -> Self:
        """Start the sandbox and serve its sessions.

        Raises: DataError when there is no lake in the folder; SandboxError as `Sandbox.start`.
        """
        lake = lake_digest(lake_dir)
        return cls(await Sandbox.start(config.sandbox, lake_dir), config, lake)

    def settings(self) -> dict[str, Any]:
        """What decides observations, for a client to compare with its own settings, and what sessions run under."""
        assert self._sandbox.protection is not None
        return settings_of(self._config, self._lake) | {"protection": self._sandbox.protection.describe()}

    async def open(self, seed: int, lease_s: float | None = None) -> str:
        """Open a session.

        Args:
            seed: of the session's random generators.
            lease_s: seconds without a call or a touch after which it is closed, below the host's `idle_s`.
        Returns: its id, which nobody can guess.
        Raises: Refusal when there are too many.
        """
        if len(self._entries) >= self._config.sandbox.sessions_max:
            raise Refusal("sessions", f"all {len(self._entries)} sessions are taken; close one or try again later")
        session = await self._sandbox.open(seed)
        session_id, idle_s = secrets.token_hex(16), self._limits.idle_s
        self._entries[session_id] = _Entry(session, min(lease_s or idle_s, idle_s))
        self.meters.opened()
        return session_id

    async def execute(
        self, session_id: str, code: str, timeout_s: float | None, report: Report = lambda event: None
    ) -> Observation:
        """Run a block, when there is a place for it. A caller that cancels this gives up the session.

        Raises: Refusal for an unknown or busy session, a full queue or a wrong timeout; then nothing has been reported.
            SandboxError when the machine gives no process.
        """
        entry = self._entry(session_id)
        if entry.busy:
            raise Refusal("busy", "the session runs another block; wait for its end")
        if timeout_s is not None and not 0 < timeout_s <= TIMEOUT_MAX_S:
            raise Refusal("request", f"the timeout is {timeout_s} s; it must be above 0 and at most {TIMEOUT_MAX_S}")
        entry.busy = True
        try:
            async with self._place(report) as waited_s:
                observation = await entry.session.execute(code, timeout_s)
        except asyncio.CancelledError:
            await self._drop(session_id, "lost")
            raise
        finally:
            entry.busy, entry.used = False, time.monotonic()
        self.meters.executed(observation)
        return dataclasses.replace(observation, queue_s=observation.queue_s + waited_s)

    async def touch(self, session_ids: Sequence[str]) -> None:
        """The caller of these sessions lives; those that are unknown are passed over."""
        for entry in filter(None, map(self._entries.get, session_ids)):
            entry.used = time.monotonic()

    async def close_session(self, session_id: str) -> None:
        """Close a session, a running block included. Raises: Refusal when it is unknown."""
        self._entry(session_id)
        await self._drop(session_id, "closed")

    async def close(self) -> None:
        """Close every session and the sandbox; returns when no process is left."""
        self._expiry.cancel()
        for session_id in list(self._entries):
            await self._drop(session_id, "shutdown")
        await self._sandbox.close()

    def _entry(self, session_id: str) -> _Entry:
        entry = self._entries.get(session_id)
        if entry is None:
            raise Refusal("unknown_session", "no such session; it was closed, or had been without a call for too long")
        return entry

    @contextlib.asynccontextmanager
    async def _place(self, report: Report) -> AsyncIterator[float]:
        """A place among the running blocks; yields the seconds waited for it."""
        if self._places.locked() and self._waiting >= self._limits.queue_max:
            raise Refusal("queue", f"{self._waiting} blocks wait already; try again later")
        report({"event": "queued", "ahead": self._waiting})
        began = time.monotonic()
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            waited_s = time.monotonic() - began
            report({"event": "started", "queue_s": waited_s})
            with self.meters.running(waited_s):
                yield waited_s
        finally:
            self._places.release()

    async def _drop(self, session_id: str, why: str) -> None:
        entry = self._entries.pop(session_id, None)
        if entry is not None:
            await entry.session.close()
            self.meters.ended(why)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_CHECK_S)
            now = time.monotonic()
            for session_id, entry in list(self._entries.items()):
                if not entry.busy and entry.used + entry.idle_s < now:
                    await self._drop(session_id, "expired")


def settings_of(config: RunConfig, lake: str | None) -> dict[str, Any]:
    """The settings and the lake that decide observations."""
    return config.sandbox.model_dump(include={"isolation", "memory_mb", "output_chars"}) | {"lake": lake}


def lake_digest(lake_dir: Path | None) -> str | None:
    """What names a lake's content. Raises: DataError when there is no lake in the folder."""
    if lake_dir is None:
        return None
    from biomni_lib.lake.manifest import lake_version

    return lake_version(lake_dir)
