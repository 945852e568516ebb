"""The environment server: sessions over HTTP.

Its own calls, bodies and answers in JSON:
    POST /v1/sessions {"seed", "lease_s"} -> {"session_id"}; with a lease, a session ends so many seconds after the last
        call or POST /v1/touch {"session_ids"}, without one after the server's `idle_s`
    POST /v1/sessions/ID/execute {"code", "timeout_s"} -> one event a line: `queued`, `started`, `heartbeat` with the
        seconds since the call, and at last `finished` with the observation or `failed` with an error and a reason
    DELETE /v1/sessions/ID
    GET /v1/settings, /health (needs no token), /metrics (Prometheus text)
The three calls that the client of the original training code makes, unchanged:
    POST /start_runtime -> {"session_id"}
    POST /execute {"session_id", "code", "timeout_seconds"} -> {"output"}
    POST /delete_runtime {"session_id"}
A refusal is a status above 399 with {"error", "reason"}. A caller that drops its connection while its block runs gives
up the session. The server speaks plain HTTP: between machines, put it behind TLS or a tunnel.
"""

import asyncio
import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

import biomni_lib
from biomni_lib.config import RunConfig
from biomni_lib.errors import BiomniError, SandboxError
from biomni_lib.sandbox.gate import Gate, require_token
from biomni_lib.sandbox.host import Refusal, SessionHost
from biomni_lib.sandbox.observation import Observation

T = TypeVar("T")

STATUS = {
    "request": 400,
    "token": 401,
    "host": 403,
    "unknown_session": 404,
    "busy": 409,
    "body": 413,
    "sessions": 429,
    "queue": 429,
}
"""HTTP status of each kind of refusal; any other failure of the sandbox is 503."""
_DRAINED_BYTES = 64 << 20
_BODY_S, _IDLE_CONNECTION_S, _HEADER_BYTES = 30.0, 3600.0, 1 << 14
_RETRY_AFTER_S = 1
_log = logging.getLogger(__name__)


@stream_request_body
class _Handler(RequestHandler):
    """What every call shares: gate, size of the body, refusals as JSON.

    A body over the limit is read to its end and thrown away, up to `_DRAINED_BYTES`, because a client that still sends
    may miss an answer on a connection that is reset; it is never kept.
    """

    open_to_all = False

    def initialize(self, sessions: SessionHost, gate: Gate, config: RunConfig) -> None:
        self.sessions, self.gate, self.config = sessions, gate, config
        self._body = bytearray()
        self._received = 0
        self._block: asyncio.Task[Observation] | None = None

    def prepare(self) -> None:
        """Turn down at once what is announced as far too large."""
        length = self.request.headers.get("Content-Length", "0")
        if length.isdecimal() and int(length) > _DRAINED_BYTES:
            raise self._too_large()

    def data_received(self, chunk: bytes) -> None:
        """Keep the body within the limit, count the rest."""
        self._received += len(chunk)
        if self._received <= self._body_max:
            self._body += chunk
        elif self._received > _DRAINED_BYTES and not self._finished:
            self._refuse(self._too_large())

    def admit(self) -> None:
        """Raises: Refusal for a request without the token or with too large a body."""
        if not self.open_to_all:
            self.gate.check(self.request.headers)
        if self._received > self._body_max:
            raise self._too_large()

    def asked(self) -> dict[str, Any]:
        """The body. Raises: Refusal when it is no JSON object."""
        try:
            body = json.loads(self._body or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refusal("request", f"the body is no JSON ({error})") from None
        if not isinstance(body, dict):
            raise Refusal("request", "the body is no JSON object")
        return body

    def on_connection_close(self) -> None:
        """The caller is gone: so are its block and its session."""
        super().on_connection_close()
        if self._block is not None:
            self._block.cancel()

    def write_error(self, status_code: int, **given: Any) -> None:
        """Any failure as JSON with its reason."""
        error = given.get("exc_info", (None, None))[1]
        if isinstance(error, BiomniError):
            self._refuse(error)
        else:
            self.finish({"error": "request" if status_code < 500 else "internal", "reason": self._reason})

    def log_exception(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """A refusal is no failure of the server."""
        if not isinstance(error, (BiomniError, HTTPError)):
            _log.error("the call %s failed", self.request.path, exc_info=error)

    def _refuse(self, error: BiomniError) -> None:
        kind = kind_of(error)
        self.sessions.meters.refused(kind)
        self.set_status(STATUS.get(kind, 503))
        if kind == "token":
            self.set_header("WWW-Authenticate", "Bearer")
        if self.get_status() in (429, 503):
            self.set_header("Retry-After", str(_RETRY_AFTER_S))
        self.finish({"error": kind, "reason": str(error)})

    def _too_large(self) -> Refusal:
        return Refusal("body", f"the body is larger than {self.config.environment.body_max_kb} KiB")

    @property
    def _body_max(self) -> int:
        return self.config.environment.body_max_kb * 1024


class _Sessions(_Handler):
    async def post(self) -> None:
        self.admit()
        asked = self.asked()
        session_id = await self.sessions.open(_field(asked, "seed", int), _seconds(asked, "lease_s"))
        self.set_status(201)
        self.finish({"session_id": session_id})


class _Session(_Handler):
    async def delete(self, session_id: str) -> None:
        self.admit()
        await self.sessions.close_session(session_id)
        self.finish({})


class _Touch(_Handler):
    async def post(self) -> None:
        self.admit()
        await self.sessions.touch([name for name in _field(self.asked(), "session_ids", list) if isinstance(name, str)])
        self.finish({})


class _Execute(_Handler):
    """A block of code with its progress."""

    async def post(self, session_id: str) -> None:
        self.admit()
        asked = self.asked()
        code, timeout_s = _field(asked, "code", str), _seconds(asked, "timeout_s")
        connection: Any = self.request.connection
        connection.stream.set_nodelay(True)
        began = time.monotonic()
        self._block = asyncio.create_task(self.sessions.execute(session_id, code, timeout_s, self._report))
        while not (await asyncio.wait({self._block}, timeout=self.config.environment.heartbeat_s))[0]:
            self._report({"event": "heartbeat", "seconds": time.monotonic() - began})
        if not self._block.cancelled():
            self._conclude(self._block)

    def _conclude(self, block: asyncio.Task[Observation]) -> None:
        """The last event, or a plain refusal when no event has been sent."""
        error = block.exception()
        if error is None:
            self._report({"event": "finished", "observation": dataclasses.asdict(block.result())})
        elif self._headers_written and isinstance(error, BiomniError):
            self._report({"event": "failed", "error": kind_of(error), "reason": str(error)})
        else:
            raise error

    def _report(self, event: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/x-ndjson")
        self.write(json.dumps(event) + "\n")
        self.flush()


class _StartRuntime(_Handler):
    """The original client gives no seed: every session has one of its own."""

    async def post(self) -> None:
        self.admit()
        self.finish({"session_id": await self.sessions.open(secrets.randbits(63))})


class _ExecuteRuntime(_Handler):
    async def post(self) -> None:
        self.admit()
        asked = self.asked()
        session_id, code = _field(asked, "session_id", str), _field(asked, "code", str)
        run = self.sessions.execute(session_id, code, _seconds(asked, "timeout_seconds"))
        self._block = asyncio.create_task(run)
        await asyncio.wait({self._block})
        if not self._block.cancelled():
            self.finish({"output": self._block.result().text})


class _DeleteRuntime(_Handler):
    async def post(self) -> None:
        self.admit()
        await self.sessions.close_session(_field(self.asked(), "session_id", str))
        self.finish({})


class _Settings(_Handler):
    async def get(self) -> None:
        self.admit()
        self.finish(self.sessions.settings())


class _Health(_Handler):
    open_to_all = True

    async def get(self) -> None:
        self.admit()
        self.finish({"status": "ok", "version": biomni_lib.__version__})


class _Metrics(_Handler):
    async def get(self) -> None:
        self.admit()
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(self.sessions.meters.text())


class _Nowhere(_Handler):
    """Any other address or method."""

    def prepare(self) -> None:
        raise HTTPError(404, reason="no such call")


_KINDS: dict[type, str] = {str: "text", int: "a whole number", list: "a list"}


def _field(asked: dict[str, Any], name: str, kind: type[T]) -> T:
    """A field of the body. Raises: Refusal when it is missing or of another kind."""
    value = asked.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Refusal("request", f"{name} must be given, as {_KINDS[kind]}")
    return value


def _seconds(asked: dict[str, Any], name: str) -> float | None:
    """A field that may be left out. Raises: Refusal when it is no number above 0."""
    value = asked.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise Refusal("request", f"{name} must be a number of seconds above 0")
    return value


def kind_of(error: BiomniError) -> str:
    """The word for programs: a refusal's own, else `sandbox`."""
    return error.kind if isinstance(error, Refusal) else "sandbox"


def make_application(sessions: SessionHost, gate: Gate, config: RunConfig) -> Application:
    """All calls; what a web page sends across origins is refused."""
    shared = {"sessions": sessions, "gate": gate, "config": config}
    handlers = {
        "/v1/sessions": _Sessions,
        "/v1/touch": _Touch,
        "/v1/sessions/([0-9a-f]+)": _Session,
        "/v1/sessions/([0-9a-f]+)/execute": _Execute,
        "/v1/settings": _Settings,
        "/health": _Health,
        "/metrics": _Metrics,
        "/start_runtime": _StartRuntime,
        "/execute": _ExecuteRuntime,
        "/delete_runtime": _DeleteRuntime,
    }
    return Application(
        [(path, handler, shared) for path, handler in handlers.items()],
        default_handler_class=_Nowhere,
        default_handler_args=shared,
        cross_origin_protection=True,
        log_function=lambda handler: None,
    )


async def serve(
    config: RunConfig,
    *,
    host: str,
    port: int,
    token: str | None,
    lake_dir: Path | None,
    on_start: Callable[[str], None],
) -> None:
    """Serve until cancelled; then no session and no process is left.

    Args:
        host, port: where to listen; port 0 takes a free one.
        token: what callers must show; needed for any address but loopback.
        lake_dir: the lake of the sessions.
        on_start: told the server's URL.
    Raises: SandboxError when the address needs a token or is taken, or as `Sandbox.start`; DataError without a lake.
    """
    require_token(host, token)
    try:
        sockets = bind_sockets(port, host)
    except OSError as error:
        raise SandboxError(f"--host {host} --port {port}: cannot listen there ({error})") from None
    async with await SessionHost.start(config, lake_dir) as sessions:
        server = HTTPServer(
            make_application(sessions, Gate(token), config),
            max_header_size=_HEADER_BYTES,
            max_body_size=1 << 62,  # the handlers count themselves, to answer with a reason
            body_timeout=_BODY_S,
            idle_connection_timeout=_IDLE_CONNECTION_S,
        )
        server.add_sockets(sockets)
        try:
            on_start(f"http://{_in_url(host)}:{sockets[0].getsockname()[1]}")
            await asyncio.Event().wait()
        finally:
            server.stop()
            await sessions.close()
            await server.close_all_connections()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
