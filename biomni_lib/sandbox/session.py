"""A trajectory's session: blocks of code in, observations out, whatever the code does.

A block that cannot be interrupted is killed with its namespace, and so is a session over its memory; the observation
says so and the next block starts in a fresh process with the same seed. Only misuse by the caller raises.
"""

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Self

from biomni_lib.errors import SandboxError
from biomni_lib.sandbox.observation import Latency, Observation, clean_text
from biomni_lib.sandbox.wire import WireError
from biomni_lib.sandbox.worker import Reply, Worker

if TYPE_CHECKING:
    from biomni_lib.sandbox.pool import Sandbox

_FRESH = "[the interpreter had ended since the last block; this is a fresh namespace]\n"
_LOST = "the namespace is lost, the next block starts with a fresh one"
_LATE_REPLY_S = 0.1
_DAY_S = 86_400
_GONE = (WireError, EOFError, ConnectionError)


class Session:
    """Made by `Sandbox.open`; its process starts with the first block."""

    def __init__(self, sandbox: "Sandbox", seed: int) -> None:
        self._sandbox, self._seed = sandbox, seed
        self._worker: Worker | None = None
        self._busy = self._closed = self._died_idle = False

    async def execute(self, code: str, timeout_s: float | None = None) -> Observation:
        """Run a block of code in the session's namespace, as soon as its class has a place.

        Args:
            code: Python source; the value of a last expression is shown as in the interactive interpreter.
            timeout_s: seconds until the block is interrupted; None for the sandbox's setting.
        Raises: SandboxError when the session is closed or already runs a block, and when no process can be started.
        """
        if self._closed or self._busy:
            raise SandboxError(f"the session is {'closed' if self._closed else 'running a block'}; open another one")
        limit_s = self._sandbox.timeout_s if timeout_s is None else timeout_s
        if not 0 < limit_s <= _DAY_S:
            raise SandboxError(f"timeout_s is {limit_s}; it must be above 0 and at most {_DAY_S}")
        self._busy = True
        finished = False
        latency = Latency()
        try:
            worker = await self._live_worker(latency)
            async with self._sandbox.places.take(code, latency):
                observation = await self._run(worker, code, limit_s, latency)
            finished = True
            return observation
        finally:
            self._busy = False
            if not finished:
                self._drop_worker()

    async def close(self) -> None:
        """Kill the session's processes; a second call does nothing."""
        self._closed = True
        self._drop_worker()

    async def _live_worker(self, latency: Latency) -> Worker:
        if self._worker is not None and not self._worker.handle.alive():
            self._drop_worker()
            self._died_idle = True
        if self._worker is None:
            self._worker = await self._sandbox.start_worker(self._seed, latency)
        return self._worker

    def _drop_worker(self) -> None:
        if self._worker is not None:
            self._sandbox.stop_worker(self._worker)
            self._worker = None

    async def _run(self, worker: Worker, code: str, timeout_s: float, latency: Latency) -> Observation:
        with self._sandbox.watched(worker), latency.counted("run_s"):
            reply = await self._reply(worker, code, timeout_s)
        if isinstance(reply, str):
            self._drop_worker()
            reply = Reply(f"[{reply}; {_LOST}]", ok=False, truncated=False)
        prefix = _FRESH if self._died_idle else ""
        self._died_idle = False
        text, cut = clean_text(prefix + reply.text, self._sandbox.limits.output_chars)
        truncated = reply.truncated or cut
        return Observation(text, reply.ok, latency.run_s, truncated, latency.queue_s, latency.start_s)

    async def _reply(self, worker: Worker, code: str, timeout_s: float) -> Reply | str:
        """The session's reply, or why there is none."""
        limits = self._sandbox.limits
        task = asyncio.create_task(worker.run(code, timeout_s))
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_s + limits.grace_s)
            if not done:
                done, _ = await asyncio.wait({task}, timeout=_LATE_REPLY_S)
            if not done:
                return f"the block did not stop after {timeout_s:g} s and was killed"
            return task.result()
        except _GONE:
            excess = self._sandbox.excess(worker)
            return f"the session used more than its {excess} and was killed" if excess else "the interpreter died"
        finally:
            task.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
