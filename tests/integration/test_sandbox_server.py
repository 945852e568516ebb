"""The environment server over plain HTTP: its own calls, the original client's, every limit, nothing left behind."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.sandbox_servers import ROOT, Server, gone, serving, start_server, wait_until

SLEEP = "import time; time.sleep(50)"
TOKEN = "a-token-for-tests-only"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
NARROW = (
    "sandbox.sessions_max=3",
    "environment.running_max=1",
    "environment.queue_max=1",
    "environment.heartbeat_s=0.05",
    "environment.body_max_kb=4",
)


@pytest.fixture(scope="module")
def wide_server(lake_dir: Path):
    with serving(lake_dir.parent) as started:
        yield started


@pytest.fixture(scope="module")
def narrow_server(lake_dir: Path):
    with serving(lake_dir.parent, *NARROW) as started:
        yield started


@pytest.fixture
def server(wide_server: Server):
    yield wide_server
    wide_server.close_sessions()


@pytest.fixture
def narrow(narrow_server: Server):
    """A server with tight limits."""
    yield narrow_server
    narrow_server.close_sessions()
    assert narrow_server.metric("sessions") == 0


@pytest.fixture(scope="module")
def guarded(lake_dir: Path):
    """A server that other machines could reach."""
    arguments = ("--host", "0.0.0.0", "--port", "0")
    with serving(lake_dir.parent, args=arguments, BIOMNI_SANDBOX_TOKEN=TOKEN) as started:
        yield started


def test_the_three_calls_of_the_original_client(server: Server):
    status, answer = server.post("/start_runtime")
    assert status == 200 and list(answer) == ["session_id"]
    runtime = answer["session_id"]

    def execute(code: str, timeout_seconds: float = 20) -> tuple[int, dict]:
        return server.post("/execute", {"session_id": runtime, "code": code, "timeout_seconds": timeout_seconds})

    assert execute("x = 6") == (200, {"output": ""})
    assert execute("print('a')\nx * 7") == (200, {"output": "a\n42"})
    assert "ZeroDivisionError" in execute("1 / 0")[1]["output"]
    assert "TimeLimit" in execute("while True: pass", 0.2)[1]["output"]
    assert execute("x") == (200, {"output": "6"})
    assert server.post("/delete_runtime", {"session_id": runtime})[0] == 200
    for path in ("/execute", "/delete_runtime"):
        status, refusal = server.post(path, {"session_id": runtime, "code": "x", "timeout_seconds": 1})
        assert status == 404 and refusal["error"] == "unknown_session"


def test_the_lake_s_tools_are_there_and_the_server_is_not(server: Server):
    session = server.open()
    assert server.run(session, "callable(match_score)")["text"] == "True"
    connect = f"import socket; socket.create_connection(('127.0.0.1', {urlsplit(server.url).port}))"
    assert "PermissionError" in server.run(session, connect)["text"]


def test_the_same_seed_gives_the_same_numbers(server: Server):
    code = "import random, numpy; random.random(), numpy.random.rand()"
    one, same, other = (server.run(server.open(seed), code)["text"] for seed in (1, 1, 2))
    assert one == same != other


def test_progress_comes_while_the_block_runs(narrow: Server):
    """The events are read before the block's end: only then can closing the session end it."""
    session = narrow.open()
    with narrow.events(session, SLEEP) as events:
        assert events.next() == {"event": "queued", "ahead": 0}
        assert events.next()["event"] == "started"
        beats = [events.next(), events.next()]
        assert [beat["event"] for beat in beats] == ["heartbeat"] * 2 and 0 < beats[0]["seconds"] < beats[1]["seconds"]
        assert narrow.call("DELETE", f"/v1/sessions/{session}") == (200, {})
        finished = events.last()
    assert finished["event"] == "finished" and "the namespace is lost" in finished["observation"]["text"]
    assert not finished["observation"]["ok"]


def test_too_many_sessions_and_too_long_a_queue_are_refused_with_a_reason(narrow: Server):
    first, second, third = (narrow.open() for _ in range(3))
    status, refusal = narrow.post("/v1/sessions", {"seed": 0})
    assert status == 429 and refusal == {
        "error": "sessions",
        "reason": "all 3 sessions are taken; close one or try again later",
    }
    assert narrow.post("/start_runtime")[0] == 429
    with narrow.events(first, SLEEP) as running:
        assert [running.next()["event"] for _ in range(2)] == ["queued", "started"]
        assert narrow.post(f"/v1/sessions/{first}/execute", {"code": "1"})[0] == 409
        with narrow.events(second, "6 * 7") as waiting:
            assert [waiting.next()["event"] for _ in range(2)] == ["queued", "heartbeat"]
            status, refusal = narrow.post(f"/v1/sessions/{third}/execute", {"code": "1"})
            assert status == 429 and refusal["error"] == "queue" and "1 blocks wait" in refusal["reason"]
            assert narrow.metric("queue") == 1 and narrow.metric("running") == 1
            narrow.call("DELETE", f"/v1/sessions/{first}")
            assert waiting.last()["observation"]["text"] == "42"
    assert narrow.run(third, "1")["text"] == "1"


def test_too_large_a_body_is_refused_however_it_comes(narrow: Server):
    session = narrow.open()
    path = f"/v1/sessions/{session}/execute"
    for size in (5 << 10, 5 << 20):
        status, refusal = narrow.post(path, {"code": "#" * size})
        assert status == 413 and refusal == {"error": "body", "reason": "the body is larger than 4 KiB"}
    connection = http.client.HTTPConnection(urlsplit(narrow.url).netloc, timeout=60)
    connection.request("POST", path, iter([b" " * 1024] * 8), encode_chunked=True)
    assert connection.getresponse().status == 413
    with socket.create_connection(("127.0.0.1", urlsplit(narrow.url).port), timeout=60) as client:
        client.sendall(b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    assert narrow.run(session, "2 + 2")["text"] == "4"


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/v1/sessions", b"{", "no JSON"),
        ("/v1/sessions", b"[" * 3000, "no JSON"),
        ("/v1/sessions", b"[]", "no JSON object"),
        ("/v1/sessions", {}, "seed"),
        ("/v1/sessions", {"seed": 1.5}, "seed"),
        ("/v1/sessions", {"seed": True}, "seed"),
        ("/v1/sessions", {"seed": 1, "lease_s": 0}, "lease_s"),
        ("/v1/touch", {"session_ids": "all"}, "session_ids"),
        ("/v1/sessions/SESSION/execute", {}, "code"),
        ("/v1/sessions/SESSION/execute", {"code": 3}, "code"),
        ("/v1/sessions/SESSION/execute", {"code": "1", "timeout_s": 0}, "timeout_s"),
        ("/v1/sessions/SESSION/execute", {"code": "1", "timeout_s": "soon"}, "timeout_s"),
        ("/v1/sessions/SESSION/execute", {"code": "1", "timeout_s": float("nan")}, "timeout_s"),
        ("/v1/sessions/SESSION/execute", {"code": "1", "timeout_s": 1e9}, "86400"),
        ("/execute", {"code": "1"}, "session_id"),
        ("/execute", {"session_id": "SESSION", "code": "1", "timeout_seconds": -1}, "timeout_seconds"),
        ("/delete_runtime", {"session_id": 3}, "session_id"),
    ],
)
def test_what_is_asked_wrongly_is_said(server: Server, path: str, body: object, names: str):
    session = server.open()
    if isinstance(body, dict):
        body = {name: session if value == "SESSION" else value for name, value in body.items()}
    status, refusal = server.post(path.replace("SESSION", session), body)
    assert status == 400 and refusal["error"] == "request" and names in refusal["reason"]


def test_other_addresses_and_methods_are_not_found(server: Server):
    assert server.call("GET", "/etc/passwd")[0] == 404
    assert server.call("GET", "/v1/sessions/../../settings")[0] == 404
    assert server.call("GET", "/v1/sessions")[0] == 405


def test_a_web_page_cannot_call_a_server_of_this_machine(server: Server):
    opened = server.metric("sessions_opened_total")
    assert server.post("/start_runtime", Origin="http://attacker.example")[0] == 403
    assert server.post("/start_runtime", Host="attacker.example", Origin="http://attacker.example")[0] == 403
    for host in ("attacker.example", "127.0.0.1.attacker.example", "[::1", "10.0.0.1", ""):
        assert server.call("GET", "/v1/settings", Host=host)[0] == 403
    for host in ("localhost:1", "127.0.0.2", "[::1]:80"):
        assert server.call("GET", "/v1/settings", Host=host)[0] == 200
    assert server.metric("sessions_opened_total") == opened


def test_other_machines_need_the_token(guarded: Server):
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Basic ?"},
    ):
        for method, path in (
            ("POST", "/v1/sessions"),
            ("POST", "/start_runtime"),
            ("GET", "/metrics"),
            ("GET", "/v1/settings"),
        ):
            status, refusal = guarded.call(method, path, **headers)
            assert status == 401 and refusal["error"] == "token"
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    session = guarded.post("/v1/sessions", {"seed": 1}, **bearer)[1]["session_id"]
    seen = guarded.post("/execute", {"session_id": session, "code": "import os; print(os.environ)"}, **bearer)[1][
        "output"
    ]
    assert "PATH" in seen and TOKEN not in seen
    assert guarded.call("GET", "/health")[1]["status"] == "ok"
    with httpx.Client(base_url=guarded.url.replace("://", f"://client:{TOKEN}@")) as original_client:
        assert original_client.post("/start_runtime").status_code == 200


@pytest.mark.parametrize(
    ("args", "environment", "names"),
    [
        (("--host", "0.0.0.0"), {}, "needs a token; set BIOMNI_SANDBOX_TOKEN"),
        (("--host", "::"), {}, "needs a token"),
        (("--host", "0.0.0.0"), {"BIOMNI_SANDBOX_TOKEN": "short"}, "too short"),
        (("--host", "0.0.0.0"), {"BIOMNI_SANDBOX_TOKEN": ""}, "too short"),
        (("--host", "0.0.0.0"), {"BIOMNI_SANDBOX_TOKEN_FILE": "nowhere/token"}, "nowhere/token"),
        (("--host", "192.0.2.1"), {"BIOMNI_SANDBOX_TOKEN": TOKEN}, "cannot listen there"),
        (("--set", "environment.idle_s=0"), {}, "environment.idle_s"),
        (("--runs-root", "nowhere"), {}, "no lake"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(args, environment, names, tmp_path):
    command = [sys.executable, "-m", "biomni_lib.sandbox", "serve", "--preset", "smoke", "--port", "0", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and names in done.stderr and done.stderr.count("\n") == 1


def test_idle_sessions_expire_and_those_of_a_client_that_lives_do_not(lake_dir: Path):
    with serving(lake_dir.parent, "environment.idle_s=1.5") as server:
        forgotten, kept = server.open(), server.open(lease_s=1.0)
        server.run(kept, "x = 3")

        def forgotten_is_gone() -> bool:
            assert server.post("/v1/touch", {"session_ids": [kept, "unknown"]}) == (200, {})
            return server.metric('sessions_ended_total{why="expired"}') == 1

        assert wait_until(forgotten_is_gone)
        assert server.post(f"/v1/sessions/{forgotten}/execute", {"code": "1"})[0] == 404
        assert server.run(kept, "x")["text"] == "3"
        assert wait_until(lambda: server.metric("sessions") == 0), "a lease that nobody renews ends"


@linux_only
@pytest.mark.parametrize("path", ["/v1/sessions/SESSION/execute", "/execute"])
def test_the_session_of_a_lost_client_ends_with_its_processes(server: Server, path: str):
    session = server.open()
    server.run(session, "1")
    before, lost = len(server.pids()), server.metric('sessions_ended_total{why="lost"}')
    asked = json.dumps({"session_id": session, "code": SLEEP, "timeout_s": 50, "timeout_seconds": 50}).encode()
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port)) as client:
        head = f"POST {path.replace('SESSION', session)} HTTP/1.1\r\nHost: localhost\r\n"
        client.sendall(f"{head}Content-Length: {len(asked)}\r\n\r\n".encode() + asked)
        assert wait_until(lambda: server.metric("running") == 1)
    assert wait_until(lambda: server.metric('sessions_ended_total{why="lost"}') == lost + 1)
    assert wait_until(lambda: len(server.pids()) < before)
    assert server.metric("running") == 0
    assert server.post("/execute", {"session_id": session, "code": "1"})[0] == 404


def test_metrics_count_what_happened(lake_dir: Path):
    with serving(lake_dir.parent) as server:
        session = server.open()
        for code in ("1", "1 / 0", "2"):
            server.run(session, code)
        server.open()
        server.call("DELETE", f"/v1/sessions/{session}")
        server.post(f"/v1/sessions/{session}/execute", {"code": "1"})
        expected = {
            "sessions": 1,
            "sessions_opened_total": 2,
            'sessions_ended_total{why="closed"}': 1,
            'executions_total{ok="true"}': 2,
            'executions_total{ok="false"}': 1,
            'refusals_total{kind="unknown_session"}': 1,
            "run_seconds_count": 3,
            "queue_seconds_count": 3,
            'run_seconds_bucket{le="+Inf"}': 3,
            "queue": 0,
            "running": 0,
        }
        assert {name: server.metric(name) for name in expected} == expected
        assert 0 < server.metric("run_seconds_sum") < 60


def test_many_clients_at_once_have_namespaces_of_their_own(server: Server):
    def work(number: int) -> str:
        session = server.open(number)
        server.run(session, f"x = {number}")
        seen = server.run(session, "x * x")["text"]
        server.call("DELETE", f"/v1/sessions/{session}")
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [str(number**2) for number in range(8)]


@linux_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_server_that_is_stopped_at_work(lake_dir: Path, number: signal.Signals):
    server = start_server(lake_dir.parent, "environment.running_max=2")
    running = [
        server.events(server.open(), f"import subprocess; subprocess.Popen(['sleep', '60']); {SLEEP}") for _ in "ab"
    ]
    waiting = server.events(server.open(), "1")
    assert wait_until(lambda: server.metric("running") == 2 and len(server.pids()) >= 7)
    pids = server.pids()
    server.process.send_signal(number)
    said = server.process.communicate(timeout=60)
    assert server.process.returncode == (-9 if number == signal.SIGKILL else 0) and said == ("", "")
    assert gone(pids)
    for events in [*running, waiting]:
        events.__exit__()
