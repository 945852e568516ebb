"""One way to start where code runs: this process's own pool, an environment server, or Ray actors on many nodes."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from biomni_lib.sandbox.observation import Observation
from biomni_lib.sandbox.pool import Sandbox

if TYPE_CHECKING:
    from biomni_lib.config import RunConfig

RAY = "ray:"


class EnvironmentSession(Protocol):
    """A persistent namespace: `Session`, or one that runs elsewhere."""

    async def execute(self, code: str, timeout_s: float | None = None) -> Observation: ...
    async def close(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Environment(Protocol):
    """Opens sessions: `Sandbox` or `RemoteSandbox`."""

    async def open(self, seed: int) -> EnvironmentSession: ...
    async def close(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


async def start_environment(config: "RunConfig", lake_dir: Path | None) -> Environment:
    """Start or join what `environment.url` names, or the Ray actors of `placement.sandbox_hosts`.

    Args:
        config: the run's settings. lake_dir: the lake of the sessions, on every node at the same path; None for none.
    Raises: RunError when there is no such Ray cluster; SandboxError when the machine cannot isolate, when the server
        cannot be reached within `environment.patience_s`, or runs with other settings or another lake; DataError
        without a lake.
    """
    url, placed = config.environment.url, config.placement
    if placed.sandbox_hosts:
        from biomni_lib.sandbox.ray_actor import start_on_ray

        setting, hosts = f"placement.address = {placed.address!r}", placed.sandbox_hosts
        return await start_on_ray(config, lake_dir, placed.address or "local", setting, hosts=hosts)
    if url is None:
        return await Sandbox.start(config.sandbox, lake_dir)
    if url.startswith(RAY):
        from biomni_lib.sandbox.ray_actor import start_on_ray

        return await start_on_ray(config, lake_dir, url.removeprefix(RAY), f"environment.url = {url!r}")
    from biomni_lib.sandbox.client import HttpTransport
    from biomni_lib.sandbox.host import lake_digest, settings_of
    from biomni_lib.sandbox.remote import RemoteSandbox

    sandbox = RemoteSandbox([HttpTransport.from_config(config)], config.environment)
    try:
        await sandbox.require_settings(settings_of(config, lake_digest(lake_dir)))
    except BaseException:
        await sandbox.close()
        raise
    return sandbox
