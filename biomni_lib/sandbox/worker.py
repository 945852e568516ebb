"""The parent's side of the zygote and of one session's process."""

import asyncio
import contextlib
import importlib.util
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biomni_lib import errors
from biomni_lib.errors import SandboxError
from biomni_lib.sandbox.limits import Limits
from biomni_lib.sandbox.wire import WireError, decode_body, encode_frame, read_frame

_LOAD_S = 120.0
_REPLY_BYTES_PER_CHAR, _REPLY_EXTRA_BYTES, _STALE_REPLIES = 12, 1024, 8
_SEED_BYTES = 16
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ZygoteSettings:
    """What the zygote is told once.

    Attributes:
        isolation: `strict`, or one tier by name (`tiers.py`).
        limits: bounds of one session.
        lake_dir: folder that sessions may read, or None.
        provider: `module:function` that gives the names of a session.
        preload: modules that sessions find loaded.
    """

    isolation: str
    limits: Limits
    lake_dir: Path | None
    provider: str
    preload: tuple[str, ...]


class ProcessHandle:
    """A session's first process, named without a race by its pidfd; by its process group where there are none (macOS).

    Whatever else the session started ends with it, by its pid namespace or by the zygote's hand.
    """

    def __init__(self, pid: int, pidfd: int | None) -> None:
        self._pidfd, self._closed, self._lock = pidfd, False, threading.Lock()
        self.host_pid = pid if pidfd is None else _host_pid(pidfd)

    def alive(self) -> bool:
        """Whether the process still runs."""
        if self._pidfd is None:
            try:
                os.kill(self.host_pid, 0)
            except ProcessLookupError:
                return False
            return True
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        return not ended.poll(0)

    def kill(self) -> None:
        """End the process (from any thread); in a pid namespace all its descendants end with it."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._closed:
                return
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            else:
                os.killpg(self.host_pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process and let its name go."""
        self.kill()
        with self._lock:
            if not self._closed and self._pidfd is not None:
                os.close(self._pidfd)
            self._closed = True


def _host_pid(pidfd: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


@dataclass(frozen=True)
class Reply:
    """A checked reply of a session; its content is the user code's."""

    text: str
    ok: bool
    truncated: bool


class Worker:
    """One live session process and the connection to it."""

    def __init__(
        self, handle: ProcessHandle, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits
    ) -> None:
        self.handle, self._reader, self._writer = handle, reader, writer
        self._reply_bytes = limits.output_chars * _REPLY_BYTES_PER_CHAR + _REPLY_EXTRA_BYTES

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the process is shut in.

        Raises: SandboxError when it cannot be.
        """
        try:
            async with asyncio.timeout(timeout_s):
                message = await read_frame(self._reader, self._reply_bytes)
        except (TimeoutError, WireError, EOFError, ConnectionError) as error:
            raise SandboxError(f"a sandbox session did not start within {timeout_s:g} s ({error!r})") from None
        if "error" in message:
            raise SandboxError(str(message["error"]))

    async def run(self, code: str, timeout_s: float) -> Reply:
        """Send a block and wait for its own reply; replies to other blocks, which user code may forge, are dropped.

        Raises: WireError, EOFError or ConnectionError when the process is gone or breaks the protocol.
        """
        number = secrets.token_hex(8)
        self._writer.write(encode_frame({"id": number, "code": code, "timeout_s": timeout_s}))
        for _ in range(_STALE_REPLIES):
            message = await read_frame(self._reader, self._reply_bytes)
            if message.get("id") == number and isinstance(message.get("text"), str):
                return Reply(message["text"], message.get("ok") is True, message.get("truncated") is True)
        raise WireError("the session answers other questions than those asked")

    def close(self) -> None:
        """Kill the process and drop the connection."""
        self.handle.close()
        self._writer.transport.abort()


class ZygoteProcess:
    """A running zygote; `open` gives workers."""

    def __init__(self, settings: ZygoteSettings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self.scratch_dir = Path(tempfile.mkdtemp(prefix="sandbox-"))
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        descriptor = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "biomni_lib.sandbox.zygote", str(descriptor)],
            env=_clean_environment(settings.provider),
            cwd="/",
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the launcher, the root of every process of the zygote and its sessions."""
        return self._process.pid

    async def load(self) -> tuple[str, tuple[str, ...]]:
        """Send the settings and wait until everything is loaded and shut in.

        Returns: the tier that was chosen, and what the machine does not give.
        Raises: SandboxError when the machine refuses the isolation or the names cannot be loaded.
        """
        settings = self._settings
        message = {
            "isolation": settings.isolation,
            "limits": asdict(settings.limits),
            "lake_dir": str(settings.lake_dir.resolve()) if settings.lake_dir else None,
            "provider": settings.provider,
            "preload": settings.preload,
            "scratch_dir": str(self.scratch_dir),
        }
        try:
            self._control.sendall(encode_frame(message))
            async with asyncio.timeout(_LOAD_S):
                reply, _ = await self._receive()
        except (TimeoutError, OSError, EOFError) as error:
            raise SandboxError(f"the sandbox did not load within {_LOAD_S:g} s ({error!r})") from None
        if "error" in reply:
            raise _error_of(reply, settings.isolation)
        return reply["tier"], tuple(reply["missing"])

    async def open(self, seed: int) -> Worker:
        """Fork a session.

        Raises: SandboxError when the session cannot be shut in; OSError or EOFError when the zygote is gone.
        """
        ours, theirs = socket.socketpair()
        exchange = asyncio.create_task(self._request(seed, theirs))
        try:
            reply, descriptors = await asyncio.shield(exchange)
        except BaseException:
            exchange.add_done_callback(_close_descriptors)
            ours.close()
            raise
        if "error" in reply:
            ours.close()
            raise SandboxError(f"the sandbox cannot start a session: {reply['error']}")
        handle = ProcessHandle(reply["pid"], descriptors[0] if descriptors else None)
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            handle.close()
            ours.close()
            raise
        worker = Worker(handle, reader, writer, self._settings.limits)
        try:
            await worker.wait_ready(self._settings.limits.start_s)
        except BaseException:
            worker.close()
            raise
        return worker

    async def _request(self, seed: int, theirs: socket.socket) -> tuple[dict[str, Any], list[int]]:
        """One question and its answer; never cancelled in between, so that answers stay in step."""
        with theirs:
            async with self._lock:
                message = (seed % (1 << 8 * _SEED_BYTES)).to_bytes(_SEED_BYTES, "big")
                socket.send_fds(self._control, [message], [theirs.fileno()])
                theirs.close()
                return await self._receive()

    async def _receive(self) -> tuple[dict[str, Any], list[int]]:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._control.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._control.fileno())
        data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 1)
        if not data:
            raise EOFError("the zygote is gone")
        return decode_body(data[4:]), list(descriptors)

    async def close(self) -> None:
        """End the zygote and with it every session; returns when none is left."""
        self._control.close()
        try:
            await asyncio.to_thread(self._process.wait, 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        await asyncio.to_thread(shutil.rmtree, self.scratch_dir, ignore_errors=True)


def _close_descriptors(exchange: asyncio.Task[tuple[dict[str, Any], list[int]]]) -> None:
    """Drop the answer to a question whose asker is gone; the session ends with its socket."""
    if not exchange.cancelled() and exchange.exception() is None:
        for descriptor in exchange.result()[1]:
            os.close(descriptor)


def _error_of(reply: dict[str, Any], isolation: str) -> errors.BiomniError:
    """The zygote's failure as this library's error: a provider's own (a missing lake), else of the sandbox."""
    kind = getattr(errors, str(reply.get("kind")), None)
    if isinstance(kind, type) and issubclass(kind, errors.BiomniError):
        return kind(reply["error"])
    return SandboxError(f"the sandbox cannot start with isolation={isolation!r}: {reply['error']}")


def _import_folders(provider: str) -> list[str]:
    """Where this package and the provider's module are imported from."""
    spec = importlib.util.find_spec(provider.partition(":")[0].partition(".")[0])
    origin = Path(spec.origin).resolve() if spec is not None and spec.origin else _PACKAGE_PARENT
    folder = origin.parent.parent if origin.name == "__init__.py" else origin.parent
    return list(dict.fromkeys([str(_PACKAGE_PARENT), str(folder)]))


def _clean_environment(provider: str) -> dict[str, str]:
    """The zygote's whole environment: nothing of this process's but where to import from."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "ARROW_IO", "NUMEXPR")}
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve huge pages for each session
        "PYTHONPATH": os.pathsep.join(_import_folders(provider)),
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_ARENA_MAX": "1",
        **threads,
    }
