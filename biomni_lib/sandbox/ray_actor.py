"""Sessions on many nodes: Ray actors, one on each or as many as are asked for; each serves a sandbox of its node as the
HTTP server does.

Ray restarts an actor that dies, on its node; its sessions go on in fresh namespaces and say so. The actors end with the
run that started them.
"""

import asyncio
import contextlib
import itertools
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from biomni_lib import cluster
from biomni_lib.config import EnvironmentConfig, RunConfig
from biomni_lib.sandbox.host import Refusal, SessionHost, lake_digest, settings_of
from biomni_lib.sandbox.observation import Observation
from biomni_lib.sandbox.remote import RemoteSandbox

_CALLS_BESIDE_BLOCKS = 64


class SandboxActor:
    """A `SessionHost` in a process of its own; started by its first call, after a restart too."""

    def __init__(self, config: RunConfig, lake_dir: Path | None) -> None:
        self._config, self._lake_dir = config, lake_dir
        self._starting = asyncio.Lock()
        self._host: SessionHost | None = None

    async def settings(self) -> dict[str, Any]:
        """As `SessionHost.settings`."""
        return (await self._started()).settings()

    async def open(self, seed: int, lease_s: float) -> str:
        """As `SessionHost.open`."""
        return await (await self._started()).open(seed, lease_s)

    async def touch(self, session_ids: list[str]) -> None:
        """As `SessionHost.touch`."""
        await (await self._started()).touch(session_ids)

    async def execute(self, session_id: str, code: str, timeout_s: float | None) -> Observation:
        """As `SessionHost.execute`."""
        return await (await self._started()).execute(session_id, code, timeout_s)

    async def close_session(self, session_id: str) -> None:
        """As `SessionHost.close_session`."""
        await (await self._started()).close_session(session_id)

    async def close(self) -> None:
        """End every session and the sandbox."""
        if self._host is not None:
            await self._host.close()

    async def _started(self) -> SessionHost:
        async with self._starting:
            if self._host is None:
                self._host = await SessionHost.start(self._config, self._lake_dir)
            return self._host


class RayTransport:
    """Calls of one actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def settings(self) -> dict[str, Any]:
        """What decides observations there. Raises: SandboxError or DataError when its sandbox does not start."""
        return dict(await _answer(self._actor.settings.remote()))

    async def open(self, seed: int, lease_s: float) -> str:
        """Open a session. Raises: Refusal."""
        return str(await _answer(self._actor.open.remote(seed, lease_s)))

    async def touch(self, session_ids: list[str]) -> None:
        """Say that we live. Raises: Refusal."""
        await _answer(self._actor.touch.remote(session_ids))

    async def execute(self, session_id: str, code: str, timeout_s: float | None) -> Observation:
        """Run a block; a cancelled call ends the session. Raises: Refusal."""
        call = self._actor.execute.remote(session_id, code, timeout_s)
        observation: Observation = await _answer(call, broken="lost")
        return observation

    async def close_session(self, session_id: str) -> None:
        """Close a session. Raises: Refusal."""
        await _answer(self._actor.close_session.remote(session_id))

    async def close(self) -> None:
        """End the actor."""
        with contextlib.suppress(Refusal):
            await _answer(self._actor.close.remote())
        ray.kill(self._actor)


class RaySandbox(RemoteSandbox):
    """`RemoteSandbox` that ends Ray in this process when it has started it there."""

    def __init__(self, actors: list[Any], limits: EnvironmentConfig, *, ends_ray: bool) -> None:
        super().__init__([RayTransport(actor) for actor in actors], limits)
        self._ends_ray = ends_ray

    async def close(self) -> None:
        """End every actor; a second call does nothing."""
        await super().close()
        if self._ends_ray:
            self._ends_ray = False
            ray.shutdown()


async def start_on_ray(
    config: RunConfig, lake_dir: Path | None, address: str, setting: str, *, hosts: int | None = None
) -> RaySandbox:
    """Actors on the nodes of a Ray cluster, each with `sandbox.sessions_max` sessions.

    Args:
        config: the run's settings. lake_dir: the lake, on every node at this path; None for none.
        address, setting: as for `cluster.join`. hosts: how many; none for one on every node.
    Raises: RunError when there is no such cluster; SandboxError as `Sandbox.start`; DataError without a lake.
    """
    expected = settings_of(config, lake_digest(lake_dir))
    ends_ray = cluster.join(address, setting)
    sandbox = RaySandbox(_actors(config, lake_dir, hosts), config.environment, ends_ray=ends_ray)
    try:
        await sandbox.require_settings(expected)
    except BaseException:
        await sandbox.close()
        raise
    return sandbox


def _actors(config: RunConfig, lake_dir: Path | None, hosts: int | None) -> list[Any]:
    """Spread over the nodes; where a node is lost, Ray starts its actor anew on another."""
    here = config.environment
    actor: Any = ray.remote(SandboxActor)
    shared = {
        "num_cpus": 0,
        "max_restarts": -1,
        "max_concurrency": here.running_max + here.queue_max + _CALLS_BESIDE_BLOCKS,
    }
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    places = [
        NodeAffinitySchedulingStrategy(n, soft=True)
        for n in itertools.islice(itertools.cycle(nodes), hosts or len(nodes))
    ]
    return [actor.options(**shared, scheduling_strategy=place).remote(config, lake_dir) for place in places]


async def _answer(call: Any, broken: str = "unreachable") -> Any:
    """The answer to a call of an actor.

    Raises: what the actor raised, as itself; Refusal of the kind `broken` when the actor or its node is gone.
    """
    try:
        return await cluster.answer(call)
    except (RayActorError, TaskCancelledError) as error:
        raise Refusal(broken, f"the sandbox's Ray actor is gone ({type(error).__name__})") from None
