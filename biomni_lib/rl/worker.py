"""The rollout side of a run: engine, sandbox and scheduler in a process of its own.

Started by `rollout_process.RolloutProcess` as a fresh interpreter (neither torch nor asyncio survives a fork, and a
notebook kernel cannot be imported again). It talks over one pipe:

    in:  WorkerSpec, then ("batch", learner_version) | ("weights", version, path, probed) | ("state",) | ("stop",)
    out: ("started",) | ("batch", groups, report) | ("loaded", version, seconds) | ("probe", trajectories)
         | ("state", state) | ("failed", text)

The weights of the start, and those that are pushed as `probed`, are answered by a probe (see `parity`).

When the pipe closes, the other side is gone: the worker ends, at the latest after EXIT_GRACE_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from biomni_lib.config import RunConfig
from biomni_lib.engines.base import Engine
from biomni_lib.errors import BiomniError
from biomni_lib.rl.dispatcher import Dispatcher, RunMember
from biomni_lib.rl.parity import take_probe
from biomni_lib.rl.scheduler import GroupScheduler
from biomni_lib.rl.staleness import StalenessBudget
from biomni_lib.rl.weights import discard_up_to

EXIT_GRACE_S = 20.0
LAG_PERIOD_S = 0.25


@dataclass(frozen=True)
class World:
    """What rollouts happen in: the engine that takes new weights, and how one trajectory is rolled out and scored.

    `probe`: a prompt on which engine and learner are compared; without one they are not.
    """

    engine: Engine
    run_member: RunMember
    probe: Sequence[int] = ()


@dataclass(frozen=True)
class WorkerSpec:
    """Everything the worker needs to begin.

    `world` opens engine and sandbox for this spec (a module-level function: it travels by name); `model_dir` holds the
    tokenizer and the architecture; `weights` are those of `version`; `refill_max` and `format_weight` follow from the
    recipe; `scheduler_state` is a saved one, or None.
    """

    config: RunConfig
    instances: list[Any]
    model_dir: Path
    world: Callable[[WorkerSpec], AbstractAsyncContextManager[World]]
    version: int
    weights: Path
    refill_max: int
    format_weight: float
    scheduler_state: dict[str, Any] | None


class Worker:
    """Answers the messages of the driver while the scheduler keeps the engine busy."""

    def __init__(self, connection: Connection, spec: WorkerSpec, world: World) -> None:
        rl = spec.config.rl
        self.connection, self.spec, self.world = connection, spec, world
        self.scheduler = GroupScheduler(
            spec.instances,
            StalenessBudget(rl.groups_per_step, rl.max_staleness),
            seed=spec.config.seed,
            group_size=rl.group_size,
            places=spec.config.agents,
            refill_max=spec.refill_max,
            replace_max=rl.replace_members,
        )
        self.dispatcher = Dispatcher(self.scheduler, world.run_member)
        self.newest = spec.version
        self.lag_s = 0.0
        self._sending = asyncio.Lock()
        self._loading = asyncio.Lock()

    async def serve(self, inbox: asyncio.Queue[tuple[Any, ...]]) -> None:
        """Work until told to stop. Raises whatever a rollout raised that is not a typed failure."""
        if self.spec.scheduler_state is not None:
            self.scheduler.restore(self.spec.scheduler_state)
        await self._load(self.spec.version, self.spec.weights, True)
        lag = asyncio.ensure_future(self._watch_lag())
        pending: set[asyncio.Future[Any]] = {lag}
        message = asyncio.ensure_future(inbox.get())
        try:
            while True:
                done, _ = await asyncio.wait({message, *pending}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {message}:
                    pending.discard(task)
                    task.result()
                if message in done:
                    if message.result()[0] == "stop":
                        return
                    pending.add(asyncio.ensure_future(self._answer(*message.result())))
                    message = asyncio.ensure_future(inbox.get())
        finally:
            for task in {message, *pending}:
                task.cancel()
            await asyncio.gather(message, *pending, return_exceptions=True)
            await self.dispatcher.close()

    async def send(self, *message: Any) -> None:
        """Send without stopping the event loop while the other side is slow to read."""
        async with self._sending:
            await asyncio.to_thread(self.connection.send, message)

    async def _answer(self, kind: str, *arguments: Any) -> None:
        if kind == "weights":
            self.newest = max(self.newest, arguments[0])
            await self._load(*arguments)
        elif kind == "state":
            await self.send("state", self.scheduler.state())
        else:
            groups = await self.dispatcher.next_batch(*arguments)
            await self.send("batch", groups, self._report())

    async def _load(self, version: int, path: Path, probed: bool) -> None:
        """Swap weights between decoding steps; a version that a newer one has overtaken is passed over.

        A probe is taken before places open, so that in a synchronous run the engine does nothing else.
        """
        async with self._loading:
            if version < self.newest:
                return
            started = time.perf_counter()
            await self.world.engine.load_weights(version, path)
            await asyncio.to_thread(discard_up_to, path)
            seconds, probe = time.perf_counter() - started, []
            if probed and self.world.probe:
                probe = await take_probe(self.world.engine, self.world.probe, self.spec.config.rl.temperature)
            self.dispatcher.set_version(version)
            await self.send("loaded", version, seconds)
            if probed:
                await self.send("probe", probe)

    def _report(self) -> dict[str, float]:
        """Counters since the start, and the event loop's largest lag since the last report."""
        lag, self.lag_s = self.lag_s, 0.0
        engine = {f"engine/{name}": float(value) for name, value in asdict(self.world.engine.stats()).items()}
        groups = {f"groups/{name}": float(value) for name, value in self.scheduler.counts().items()}
        return engine | groups | {"event_loop_lag": lag, "clock_s": time.perf_counter()}

    async def _watch_lag(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_PERIOD_S)
            self.lag_s = max(self.lag_s, time.perf_counter() - before - LAG_PERIOD_S)


def _listen(connection: Connection, loop: asyncio.AbstractEventLoop, inbox: asyncio.Queue[tuple[Any, ...]]) -> None:
    """Forward messages to the event loop; when the driver is gone, stop, and insist."""
    with contextlib.suppress(EOFError, OSError):
        while (message := connection.recv())[0] != "stop":
            loop.call_soon_threadsafe(inbox.put_nowait, message)
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(inbox.put_nowait, ("stop",))
    time.sleep(EXIT_GRACE_S)
    os._exit(1)


async def _run(connection: Connection, spec: WorkerSpec) -> None:
    inbox: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    listener = threading.Thread(target=_listen, args=(connection, asyncio.get_running_loop(), inbox), daemon=True)
    async with spec.world(spec) as world:
        worker = Worker(connection, spec, world)
        await worker.send("started")
        listener.start()
        await worker.serve(inbox)


def _failure(error: BaseException) -> str:
    if isinstance(error, BiomniError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error))


def main(descriptor: int) -> int:
    """Entry of the worker process; `descriptor` is its end of the pipe."""
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    spec: WorkerSpec = connection.recv()
    import torch

    torch.set_num_threads(spec.config.engine.threads)
    try:
        asyncio.run(_run(connection, spec))
    except Exception as error:  # noqa: BLE001  the process's boundary: the driver must learn of every failure
        traceback.print_exc()
        with contextlib.suppress(OSError):
            connection.send(("failed", _failure(error)))
        return 1
    finally:
        shutil.rmtree(spec.weights.parent, ignore_errors=True)
    return 0
