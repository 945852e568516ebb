"""Engines as Ray actors: any engine in a process of its own, on this machine or on a cluster's nodes.

An actor that is lost, with its node or alone, or whose engine has died, is replaced: its replacement has the newest
weights before it takes a request. What the lost one had under way raises EngineLostError, for the rollout to begin
anew; conversations that were in their tools go on with another engine. An engine that is lost LOSSES_MAX times within
LOSSES_WITHIN_S stops the run.

Not covered: an actor that hangs without dying; an engine over more than one node.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from biomni_lib import cluster
from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.config import RunConfig
from biomni_lib.engines.base import Completion, Engine, EngineStats, Sampling
from biomni_lib.engines.parcel import Files, Parcel, unpacked
from biomni_lib.engines.routes import Routes
from biomni_lib.errors import BiomniError, EngineDiedError, EngineError, EngineLostError, RunError

if TYPE_CHECKING:
    from torch import Tensor

OpenEngine = Callable[[], Engine]
HEARTBEAT_S = 1.0
LOSSES_MAX, LOSSES_WITHIN_S = 4, 600.0
CLOSE_S = 30.0
SAID_MAX = 300  # characters of an error that are passed on
CALLS_MAX = 10_000  # of one actor at once; the engine behind has its own queue
CLOSED = "the engine is closed; start a new one"


class EngineActor:
    """An engine in a process of its own. Every call answers with the engine's counters beside its result.

    Args:
        open_engine: makes the engine, there; module-level, or a partial of such.
    """

    def __init__(self, open_engine: OpenEngine) -> None:
        self._open = open_engine
        self._engine: Engine

    async def start(self) -> str:
        """Make the engine. Returns: the node's id. Raises: what making it raises."""
        self._engine = self._open()
        return ray.get_runtime_context().get_node_id()

    async def generate(self, prompt_ids: list[int], sampling: Sampling, session: str) -> tuple[Completion, EngineStats]:
        """As `Engine.generate`."""
        return await self._engine.generate(prompt_ids, sampling, session=session), self._engine.stats()

    async def release(self, session: str) -> tuple[None, EngineStats]:
        """As `Engine.release`."""
        await self._engine.release(session)
        return None, self._engine.stats()

    async def load_weights(self, version: int, given: Path | Files) -> tuple[None, EngineStats]:
        """As `Engine.load_weights`; `given` is a path on this node, or the files themselves."""
        with unpacked(given) as path:
            await self._engine.load_weights(version, path)
        return None, self._engine.stats()

    async def stats(self) -> tuple[None, EngineStats]:
        """A sign of life."""
        return None, self._engine.stats()

    async def close(self) -> tuple[None, EngineStats]:
        """As `Engine.close`: calls under way raise EngineError."""
        await self._engine.close()
        return None, self._engine.stats()


@dataclasses.dataclass(frozen=True, eq=False)
class _Actor:
    handle: Any
    node: str


class RayEngine(Engine):
    """An `Engine` over one actor at a time; starts by itself, and calls wait until it has.

    Args:
        name: for messages.
        create: makes a new actor's handle.
        heartbeat_s: between signs of life, by which counters come and a silent loss is noticed.
    """

    def __init__(self, name: str, create: Callable[[], Any], *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.name, self.version, self.losses = name, 0, 0
        self._create, self._heartbeat_s = create, heartbeat_s
        self._newest: tuple[int, Parcel] | None = None
        self._lost_at: list[float] = []
        self._stats, self._stats_before = EngineStats(), EngineStats()  # of this actor; of those that were lost
        self._swapping = asyncio.Lock()
        self._closed = False
        self._actor = asyncio.ensure_future(self._start())
        self._watch = asyncio.ensure_future(self._beat())

    @property
    def ready(self) -> bool:
        """Whether a request need not wait: an actor is there, or none will be and the request says why."""
        return self._actor.done()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        """See `Engine.generate`.

        Raises: EngineLostError when the actor goes while it writes; RunError when it has gone too often.
        """
        reply: Completion = await self._call("generate", list(prompt_ids), sampling, session)
        return reply

    async def release(self, session: str) -> None:
        """See `Engine.release`; an actor that is not there holds nothing."""
        if self.ready:
            with contextlib.suppress(EngineLostError, RunError):
                await self._call("release", session)

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor] | Parcel) -> None:
        """See `Engine.load_weights`; an actor that is being started in place of a lost one is not waited for."""
        parcel = source if isinstance(source, Parcel) else Parcel(source)
        load = asyncio.ensure_future(self._load(version, parcel))
        await asyncio.shield(load)  # one whose caller was cancelled is still carried out

    def stats(self) -> EngineStats:
        """The counters of the last sign of life, lost actors included."""
        return dataclasses.replace(total(self._stats_before, self._stats), lost=self.losses)

    async def close(self) -> None:
        """End the actor; calls under way raise EngineError."""
        if self._closed:
            return
        self._closed = True
        for task in (self._watch, self._actor):
            task.cancel()
        await asyncio.gather(self._watch, self._actor, return_exceptions=True)
        if not self._actor.cancelled() and self._actor.exception() is None:
            handle = self._actor.result().handle
            with contextlib.suppress(RayError, BiomniError, TimeoutError):
                await asyncio.wait_for(cluster.answer(handle.close.remote()), CLOSE_S)
            ray.kill(handle)

    async def _call(self, method: str, *arguments: Any) -> Any:
        return await self._ask(await self._running(), method, *arguments)

    async def _running(self) -> _Actor:
        if self._closed:
            raise EngineError(CLOSED)
        try:
            return await asyncio.shield(self._actor)
        except asyncio.CancelledError:
            if self._actor.cancelled():
                raise EngineError(CLOSED) from None
            raise

    async def _ask(self, actor: _Actor, method: str, *arguments: Any) -> Any:
        try:
            result, stats = await cluster.answer(getattr(actor.handle, method).remote(*arguments))
        except RayTaskError:
            raise
        except (EngineDiedError, RayError) as error:
            self._lose(actor, error)
            if self._closed:
                raise EngineError(CLOSED) from None
            raise EngineLostError(f"engine {self.name} was lost with a call under way ({_kind(error)})") from None
        if self._is_current(actor):
            self._stats = stats
        return result

    async def _load(self, version: int, parcel: Parcel) -> None:
        async with self._swapping:
            if self.ready or not self.losses:
                with contextlib.suppress(EngineLostError):
                    await self._push(version, parcel)
            self._newest, self.version = (version, parcel), version

    async def _push(self, version: int, parcel: Parcel) -> None:
        actor = await self._running()
        await self._ask(actor, "load_weights", version, await parcel.seen_from(actor.node))

    async def _start(self, lost: Exception | None = None) -> _Actor:
        """A new actor with the newest weights. Raises: RunError after too many losses; what the first one raises."""
        while True:
            if lost is not None:
                self._count(lost)
            handle = self._create()
            try:
                actor = _Actor(handle, await cluster.answer(handle.start.remote()))
                await self._bring_up_to_date(actor)
                return actor
            except asyncio.CancelledError:
                ray.kill(handle)
                raise
            except (EngineError, EngineDiedError, RayError) as error:
                ray.kill(handle)
                if isinstance(error, RayTaskError) or (isinstance(error, EngineError) and not self.losses):
                    raise  # a fault of the code, or a model or a machine that no second attempt changes
                lost = error

    async def _bring_up_to_date(self, actor: _Actor) -> None:
        """Load the newest weights, and again those that came meanwhile."""
        taken = None
        while taken is not self._newest:
            taken = self._newest
            if taken is not None:
                version, parcel = taken
                await cluster.answer(actor.handle.load_weights.remote(version, await parcel.seen_from(actor.node)))

    def _is_current(self, actor: _Actor) -> bool:
        running = self._actor
        return running.done() and not running.cancelled() and not running.exception() and running.result() is actor

    def _lose(self, actor: _Actor, error: Exception) -> None:
        """Replace an actor that is gone, or whose engine is; who notices first does it."""
        if self._is_current(actor) and not self._closed:
            self._stats_before, self._stats = total(self._stats_before, self._stats), EngineStats()
            ray.kill(actor.handle)
            self._actor = asyncio.ensure_future(self._start(error))

    def _count(self, lost: Exception) -> None:
        now = time.monotonic()
        self.losses += 1
        self._lost_at = [at for at in self._lost_at if now - at < LOSSES_WITHIN_S] + [now]
        if len(self._lost_at) >= LOSSES_MAX:
            raise RunError(
                f"engine {self.name} was lost {LOSSES_MAX} times within {LOSSES_WITHIN_S:g} s, the last time by "
                f"{_kind(lost)}; look at its node's memory and at Ray's logs, then run the same command again to resume"
            )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            with contextlib.suppress(BiomniError):  # told to whoever calls next
                await self._call("stats")


class RayEngines(Engine):
    """Several actors as one `Engine`.

    Args:
        engines: all of the same model. renderer: of its tokenizer.
        room: see `Routes`. ends_ray: whether `close` ends Ray in this process.
    """

    def __init__(self, engines: Sequence[RayEngine], renderer: Any, *, room: int, ends_ray: bool) -> None:
        self.engines, self.renderer, self.version = list(engines), renderer, 0
        self._routes = Routes(len(self.engines), room)
        self._ends_ray = ends_ray
        self._numbers = itertools.count()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        """See `RayEngine.generate` and `Routes`."""
        conversation = session or next(self._numbers)
        ready = [number for number, engine in enumerate(self.engines) if engine.ready]
        engine = self.engines[self._routes.enter(conversation, prompt_ids, ready)]
        try:
            return await engine.generate(prompt_ids, sampling, session=session)
        finally:
            if not session:
                self._routes.leave(conversation)

    async def release(self, session: str) -> None:
        """See `Engine.release`."""
        number = self._routes.leave(session)
        if number is not None:
            await self.engines[number].release(session)

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        """See `Engine.load_weights`; when it returns, no engine serves with older ones."""
        load = asyncio.ensure_future(self._load(version, source))
        await asyncio.shield(load)

    def stats(self) -> EngineStats:
        """The counters of all engines, added up."""
        return functools.reduce(total, (engine.stats() for engine in self.engines))

    async def close(self) -> None:
        """End every actor; a second call does nothing."""
        await asyncio.gather(*(engine.close() for engine in self.engines))
        if self._ends_ray:
            self._ends_ray = False
            ray.shutdown()

    async def _load(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        parcel = await asyncio.to_thread(Parcel, source)
        self._routes.forget_prompts()
        await asyncio.gather(*(engine.load_weights(version, parcel) for engine in self.engines))
        self.version = version


def start_engines(
    config: RunConfig,
    open_engine: OpenEngine,
    renderer: Any,
    *,
    heartbeat_s: float = HEARTBEAT_S,
) -> RayEngines:
    """As many engines as `placement.engines` says, spread over the cluster that `placement.address` names.

    Args:
        open_engine: makes one, in its actor. renderer: of the model's tokenizer.
    Raises: RunError when there is no such cluster; EngineError when it has too few cards.
    """
    placed = config.placement
    address = placed.address or cluster.ALONE
    ends_ray = cluster.join(address, f"placement.address = {address!r}")
    there = ray.cluster_resources().get("GPU", 0.0)
    cards = placed.tensor_parallel if config.engine.kind == "vllm" and there else 0
    if there < placed.engines * cards:
        if ends_ray:
            ray.shutdown()
        raise EngineError(f"placement.engines = {placed.engines} of {cards} cards: the Ray cluster has {there:g} cards")
    engines = [
        RayEngine(f"{n}", functools.partial(_create, open_engine, cards, n), heartbeat_s=heartbeat_s)
        for n in range(placed.engines)
    ]
    return RayEngines(engines, renderer, room=config.engine.slots, ends_ray=ends_ray)


def start_on_ray(config: RunConfig, model_dir: Path, open_engine: OpenEngine) -> RayEngines:
    """`start_engines` for a model folder, which every node has at this path."""
    return start_engines(config, open_engine, ChatRenderer.load(model_dir))


def total(one: EngineStats, other: EngineStats) -> EngineStats:
    """Counters added up."""
    return EngineStats(*map(sum, zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)))


def _create(open_engine: OpenEngine, cards: int, number: int) -> Any:
    """One actor, which Ray itself does not start anew: its replacement must have the newest weights first."""
    actor: Any = ray.remote(EngineActor)
    options = {"num_cpus": 0, "num_gpus": cards, "max_restarts": 0, "max_concurrency": CALLS_MAX}
    nodes = [node for node in ray.nodes() if node["Alive"]]
    rooms = [n["NodeID"] for n in nodes for _ in range(int(n["Resources"].get("GPU", 0) // cards) if cards else 1)]
    place = NodeAffinitySchedulingStrategy(rooms[number % len(rooms)], soft=True) if rooms else "SPREAD"
    return actor.options(**options, scheduling_strategy=place).remote(open_engine)


def _kind(error: Exception) -> str:
    """An error's name and the last line of what it says, where Ray puts the cause."""
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[-1].strip()}"[:SAID_MAX]
