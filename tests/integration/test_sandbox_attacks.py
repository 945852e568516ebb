"""Every attack of `tests/attacks`, in both strict tiers, as root and as an ordinary user.

Each arena is a process that opens one sandbox and runs attacks on demand; after each the zygote, a neighbour session
and a victim process must be well.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks import files, kernel_calls, processes, protocol, resources  # noqa: F401 - they register attacks
from tests.attacks.arena import ATTACKS

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}
AS_ROOT = os.geteuid() == 0
USERS = ("root", "ordinary") if AS_ROOT else ("ordinary",)
TIERS = ("namespaces", "landlock")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the strict tiers are Linux's")


def rights(user: str) -> dict:
    """What subprocess needs to run as a user, seen from the user that runs the tests."""
    return NOBODY if AS_ROOT and user == "ordinary" else {}


@functools.cache
def open_python() -> str | None:
    """A Python that an ordinary user can run with this checkout."""
    probe = "import sys, biomni_lib.sandbox; assert sys.version_info >= (3, 11)"
    for python in (sys.executable, "/usr/bin/python3"):
        command = {"args": [python, "-c", probe], "env": ENVIRONMENT, "cwd": "/", "stderr": subprocess.DEVNULL}
        try:
            if subprocess.run(**command, **rights("ordinary")).returncode == 0:
                return python
        except OSError:
            continue
    return None


class ArenaProcess:
    """A sandbox of one tier, opened by one user."""

    def __init__(self, user: str, tier: str) -> None:
        python = sys.executable if (user, tier) == ("root", "namespaces") else open_python()
        if python is None:
            pytest.skip("no Python 3.11 and checkout that an ordinary user can read")
        self._process = subprocess.Popen(
            [python, "-m", "tests.attacks", tier],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            cwd="/",
            **rights(user),
        )
        self.protection = json.loads(self._process.stdout.readline())

    def run(self, attack: str) -> str | None:
        """The failure of an attack's assertion, or None."""
        self._process.stdin.write(f"{attack}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> int:
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait(30)


@pytest.fixture(scope="module", params=[f"{tier}-{user}" for tier in TIERS for user in USERS])
def arena(request):
    tier, user = request.param.split("-")
    opened = ArenaProcess(user, tier)
    assert opened.protection.startswith(f"{tier}, memory by ")
    yield opened
    assert opened.close() == 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_does_no_harm(arena, attack):
    failure = arena.run(attack)
    assert failure is None, failure


def test_sessions_opened_and_dropped_leave_nothing(arena):
    failure = arena.run("open_and_drop 100")
    assert failure is None, failure


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_sessions_opened_and_dropped_leave_nothing(arena):
    failure = arena.run("open_and_drop 1000")
    assert failure is None, failure


def soak(tier: str, count: int) -> None:
    opened = ArenaProcess(USERS[0] if tier == "namespaces" else "ordinary", tier)
    try:
        failure = opened.run(f"soak {count}")
        assert failure is None, failure
    finally:
        opened.close()


def test_five_hundred_sessions_with_random_faults_leave_nothing():
    soak("namespaces", 500)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tier", TIERS)
def test_ten_thousand_sessions_with_random_faults_leave_nothing(tier):
    soak(tier, 10_000)
