"""The HTTP client of the environment server, as a transport of `RemoteSandbox`."""

import dataclasses
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from biomni_lib.config import RunConfig
from biomni_lib.errors import ConfigError
from biomni_lib.sandbox.gate import read_token
from biomni_lib.sandbox.host import Refusal
from biomni_lib.sandbox.observation import Observation

_CONNECT_S, _KEPT_CONNECTIONS = 10.0, 1024
_MISSED_HEARTBEATS = 6
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class HttpTransport:
    """Calls of one server.

    Args:
        url: of the server. token: what the server asks for, or None.
        silence_s: seconds without a word from the server after which a running block is given up as lost.
    """

    def __init__(self, url: str, token: str | None, silence_s: float) -> None:
        self._url = url
        # The environment's proxies are not asked: the server is near, and the token is for nobody else.
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(silence_s, connect=_CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT_CONNECTIONS),
            verify=ssl.create_default_context(),
            trust_env=False,
        )

    @classmethod
    def from_config(cls, config: RunConfig) -> "HttpTransport":
        """To the server of `environment.url`, with the token of this process's environment.

        Raises: ConfigError when the URL is none; SandboxError when the token is too short.
        """
        here = config.environment
        assert here.url is not None
        try:
            return cls(here.url, read_token(), max(_CONNECT_S, _MISSED_HEARTBEATS * here.heartbeat_s))
        except httpx.InvalidURL as error:
            raise ConfigError(f"environment.url = {here.url!r}: {error}") from None

    async def settings(self) -> dict[str, Any]:
        """What decides observations there. Raises: Refusal."""
        return await self._answer("GET", "/v1/settings")

    async def open(self, seed: int, lease_s: float) -> str:
        """Open a session. Raises: Refusal."""
        return str((await self._answer("POST", "/v1/sessions", {"seed": seed, "lease_s": lease_s}))["session_id"])

    async def touch(self, session_ids: list[str]) -> None:
        """Say that we live. Raises: Refusal."""
        await self._answer("POST", "/v1/touch", {"session_ids": session_ids})

    async def execute(self, session_id: str, code: str, timeout_s: float | None) -> Observation:
        """Run a block and follow its progress; a cancelled call drops the connection, which ends the session.

        Raises: Refusal.
        """
        asked = {"code": code, "timeout_s": timeout_s}
        async with self._call("POST", f"/v1/sessions/{session_id}/execute", asked) as response:
            async for line in response.aiter_lines():
                event = json.loads(line)
                if event["event"] == "finished":
                    return _observation(event["observation"])
                if event["event"] == "failed":
                    raise Refusal(event["error"], event["reason"])
        raise Refusal("lost", f"the environment server {self._url} ended the connection")

    async def close_session(self, session_id: str) -> None:
        """Close a session. Raises: Refusal."""
        await self._answer("DELETE", f"/v1/sessions/{session_id}")

    async def close(self) -> None:
        """Drop all connections."""
        await self._client.aclose()

    async def _answer(self, method: str, path: str, asked: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a call that may be made again."""
        try:
            async with self._call(method, path, asked) as response:
                return dict(json.loads(await response.aread()))
        except Refusal as refusal:
            raise Refusal("unreachable" if refusal.kind == "lost" else refusal.kind, refusal.reason) from None

    @asynccontextmanager
    async def _call(self, method: str, path: str, asked: dict[str, Any] | None = None) -> AsyncIterator[httpx.Response]:
        """An answer whose body is still to be read; failures of any kind as refusals."""
        content = None if asked is None else json.dumps(asked).encode("ascii")
        try:
            async with self._client.stream(
                method, path, content=content, headers={"Content-Type": "application/json"}
            ) as response:
                if response.is_error:
                    raise _refusal(response.status_code, await response.aread())
                yield response
        except _NOT_SENT as error:
            raise Refusal("unreachable", f"the environment server {self._url} cannot be reached ({error!r})") from None
        except httpx.HTTPError as error:
            raise Refusal("lost", f"the connection to the environment server broke ({error!r})") from None
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal("protocol", f"{self._url} does not answer like an environment server ({error!r})") from None


def _refusal(status: int, body: bytes) -> Refusal:
    try:
        told = json.loads(body)
        return Refusal(told["error"], told["reason"])
    except (ValueError, KeyError, TypeError):
        return Refusal("protocol", f"status {status} without a reason: no environment server")


def _observation(fields: dict[str, Any]) -> Observation:
    """What this library knows of an observation; a newer server may tell more."""
    known = {field.name for field in dataclasses.fields(Observation)}
    return Observation(**{name: value for name, value in fields.items() if name in known})
