"""What tests of the environment server share: a real one in a process of its own, and plain HTTP calls."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomni_lib.sandbox.watchdog import tree_pids

ROOT = Path(__file__).resolve().parents[1]
START_S = 60.0


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    opened: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON answer of a call."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **sent}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=START_S) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """A call with a body."""
        return self.call("POST", path, body, **headers)

    def open(self, seed: int = 0, **fields: Any) -> str:
        """A session's id."""
        status, answer = self.post("/v1/sessions", {"seed": seed, **fields})
        assert status == 201, answer
        self.opened.append(answer["session_id"])
        return self.opened[-1]

    def close_sessions(self) -> None:
        """Close every session that `open` gave, where it is still there."""
        while self.opened:
            assert self.call("DELETE", f"/v1/sessions/{self.opened.pop()}")[0] in (200, 404)

    def events(self, session_id: str, code: str, timeout_s: float = 60) -> "Events":
        """Start a block; its events one by one."""
        return Events(self.url, session_id, {"code": code, "timeout_s": timeout_s})

    def run(self, session_id: str, code: str) -> dict[str, Any]:
        """The observation of a block."""
        with self.events(session_id, code) as events:
            return events.last()["observation"]

    def metric(self, name: str) -> float:
        """A sample of /metrics by its name with labels; 0 when there is none."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=START_S) as answer:
            samples = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return next((float(value) for sample, _, value in samples if sample == f"biomni_sandbox_{name}"), 0.0)

    def pids(self) -> list[int]:
        """The server and all processes below it."""
        return list(tree_pids(self.process.pid))


class Events:
    """The lines of a block's answer, as they come."""

    def __init__(self, url: str, session_id: str, asked: dict[str, Any]) -> None:
        request = urllib.request.Request(f"{url}/v1/sessions/{session_id}/execute", json.dumps(asked).encode())
        self._answer = urllib.request.urlopen(request, timeout=START_S)

    def next(self) -> dict[str, Any]:
        """The next event."""
        return json.loads(self._answer.readline())

    def last(self) -> dict[str, Any]:
        """The final event."""
        return json.loads(self._answer.read().splitlines()[-1])

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *error: object) -> None:
        self._answer.close()


def start_server(runs_root: Path, *settings: str, args: tuple[str, ...] = (), **environment: str) -> Server:
    """Start a server on a free port and wait until it listens; `settings` are as for `--set`."""
    command = [sys.executable, "-m", "biomni_lib.sandbox", "serve", "--preset", "smoke", "--runs-root", str(runs_root)]
    command += [*(args or ("--port", "0")), *(word for setting in settings for word in ("--set", setting))]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith("environment server: http://"), line + process.stderr.read()
    return Server(process, line.split()[-1])


@contextlib.contextmanager
def serving(runs_root: Path, *settings: str, **given: Any) -> Iterator[Server]:
    """A server for the length of a block; it must end well, and silently."""
    server = start_server(runs_root, *settings, **given)
    try:
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        _, said = server.process.communicate(timeout=START_S)
    assert server.process.returncode == 0 and said == ""


def wait_until(holds: Callable[[], bool]) -> bool:
    """Whether a condition comes to hold within a minute."""
    deadline = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pids: list[int]) -> bool:
    """Whether all these processes end."""
    return wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
