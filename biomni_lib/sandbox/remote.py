"""The sandbox's interface over a transport: sessions that run elsewhere, used like those of this process.

A session opens with its first block. When its server has forgotten it (it expired, or the server started anew), the
next block runs in a fresh namespace and says so, as after the end of an interpreter; a connection that breaks while a
block runs is an observation. A full server and one that cannot be reached are waited for, up to `patience_s`.
While the sandbox is open it tells its hosts that it lives, so that sessions last through long turns of the model.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from biomni_lib.config import EnvironmentConfig
from biomni_lib.errors import SandboxError
from biomni_lib.notes import note
from biomni_lib.sandbox.host import Refusal
from biomni_lib.sandbox.observation import Observation

T = TypeVar("T")
P = ParamSpec("P")

TRY_LATER = frozenset({"sessions", "queue", "busy", "unreachable"})
"""Kinds of refusal that pass; none of them has run anything."""
_GONE = frozenset({"unknown_session", "lost"})
_FRESH = "[the session had ended since the last block; this is a fresh namespace]\n"
_LOST = "the namespace is lost, the next block starts with a fresh one"
_WAIT_FIRST_S, _WAIT_MOST_S = 0.05, 2.0
_log = logging.getLogger(__name__)


class Transport(Protocol):
    """The way to one `SessionHost`, with its methods; each may raise `Refusal`.

    Two kinds are the transport's own: `lost`, when the answer of `execute` does not come, and `unreachable`, when the
    call may be made again. A cancelled `execute` ends the block and the session there.
    """

    async def settings(self) -> dict[str, Any]: ...
    async def open(self, seed: int, lease_s: float) -> str: ...
    async def touch(self, session_ids: list[str]) -> None: ...
    async def execute(self, session_id: str, code: str, timeout_s: float | None) -> Observation: ...
    async def close_session(self, session_id: str) -> None: ...
    async def close(self) -> None: ...


class RemoteSandbox:
    """`Sandbox` over one or more transports; a new session goes where the fewest of ours are.

    Args:
        transports: one for each host. limits: how long to wait, and the sessions' lease.
    """

    def __init__(self, transports: Sequence[Transport], limits: EnvironmentConfig) -> None:
        self.lease_s, self._patience_s = limits.lease_s, limits.patience_s
        self._open: dict[Transport, set[RemoteSession]] = {transport: set() for transport in transports}
        self._closed = False
        self._sign_of_life = asyncio.create_task(self._live())

    async def require_settings(self, expected: dict[str, Any]) -> None:
        """Compare every host's settings and lake with the run's own, and note what the sessions run under.

        Raises: SandboxError that names the first difference; Refusal when a host cannot be reached.
        """
        for transport in self._open:
            found = await self.patiently(transport.settings)
            for name, value in expected.items():
                if found.get(name) != value:
                    setting = "lake" if name == "lake" else f"sandbox.{name}"
                    raise SandboxError(
                        f"{setting} = {value!r} here and {found.get(name)!r} where the sessions run; "
                        "start both with the same settings and the same lake"
                    )
            note("sandbox", f"elsewhere: {found.get('protection')}")

    async def open(self, seed: int) -> "RemoteSession":
        """A session with its own namespace; it starts with its first block.

        Args:
            seed: of the session's random generators.
        Raises: SandboxError when the sandbox is closed.
        """
        if self._closed:
            raise SandboxError("the sandbox is closed; start another one")
        transport = min(self._open, key=lambda place: len(self._open[place]))
        session = RemoteSession(self, transport, seed)
        self._open[transport].add(session)
        return session

    async def close(self) -> None:
        """Close every session of ours and the connections. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._sign_of_life.cancel()
        await asyncio.gather(*(session.close() for of_host in self._open.values() for session in list(of_host)))
        for transport in self._open:
            await transport.close()

    def forget(self, session: "RemoteSession") -> None:
        """A session is closed (for `RemoteSession`)."""
        self._open[session.transport].discard(session)

    async def patiently(self, call: Callable[P, Awaitable[T]], *args: P.args, **named: P.kwargs) -> T:
        """Call, and call again while the host has no place or is not there (for `RemoteSession`)."""
        deadline, wait_s = time.monotonic() + self._patience_s, _WAIT_FIRST_S
        while True:
            try:
                return await call(*args, **named)
            except Refusal as refusal:
                if refusal.kind not in TRY_LATER or time.monotonic() >= deadline:
                    raise
                if refusal.kind == "unreachable" and wait_s == _WAIT_FIRST_S:
                    _log.warning("%s; trying again for %g s", refusal, self._patience_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _WAIT_MOST_S)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self.lease_s / 4)
            for transport, sessions in self._open.items():
                with contextlib.suppress(Refusal):  # the next block tells what is wrong
                    await transport.touch([session.id for session in sessions if session.id is not None])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class RemoteSession:
    """`Session` elsewhere; made by `RemoteSandbox.open`."""

    def __init__(self, sandbox: RemoteSandbox, transport: Transport, seed: int) -> None:
        self.transport = transport
        self._sandbox, self._seed = sandbox, seed
        self.id: str | None = None
        self._busy = self._closed = False

    async def execute(self, code: str, timeout_s: float | None = None) -> Observation:
        """Run a block of code in the session's namespace.

        Args:
            code: Python source. timeout_s: seconds until the block is interrupted; None for the host's setting.
        Raises: SandboxError when the session is closed or already runs a block, and when no process can be started.
        """
        if self._closed or self._busy:
            raise SandboxError(f"the session is {'closed' if self._closed else 'running a block'}; open another one")
        self._busy = True
        try:
            return await self._execute(code, timeout_s)
        finally:
            self._busy = False

    async def close(self) -> None:
        """End the session where it runs; a second call does nothing."""
        self._closed = True
        self._sandbox.forget(self)
        session_id, self.id = self.id, None
        if session_id is not None:
            with contextlib.suppress(Refusal):  # it is gone already, or expires with its host's other idle ones
                await self.transport.close_session(session_id)

    async def _execute(self, code: str, timeout_s: float | None) -> Observation:
        """Open if need be, and once more when the host does not know the session any longer."""
        prefix = ""
        while True:
            known = self.id is not None
            if self.id is None:
                self.id = await self._sandbox.patiently(self.transport.open, self._seed, self._sandbox.lease_s)
            try:
                found = await self._sandbox.patiently(self.transport.execute, self.id, code, timeout_s)
            except Refusal as refusal:
                if refusal.kind not in _GONE or (refusal.kind == "unknown_session" and not known):
                    raise
                self.id, prefix = None, _FRESH
                if refusal.kind == "lost":
                    return Observation(f"[{refusal}; {_LOST}]", ok=False, seconds=0.0, truncated=False)
            else:
                return dataclasses.replace(found, text=prefix + found.text)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
