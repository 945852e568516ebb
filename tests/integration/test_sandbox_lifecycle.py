"""The sandbox as a whole: what the machine refuses, who dies with whom, nothing left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from biomni_lib.config import SandboxConfig
from biomni_lib.sandbox import Sandbox
from biomni_lib.sandbox.watchdog import tree_pids

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")


async def start(**settings) -> Sandbox:
    return await Sandbox.start(SandboxConfig(memory_mb=256, **settings), None, preload=())


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


async def gone(pids: list[int], within_s: float = 5) -> bool:
    deadline = time.monotonic() + within_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


@linux_only
async def test_nothing_is_left_after_close():
    before = descriptors()
    sandbox = await start()
    sessions = [await sandbox.open(seed) for seed in range(20)]
    busy = "import subprocess; subprocess.Popen(['sleep', '600']); None"
    await asyncio.gather(*(session.execute(busy) for session in sessions))
    pids = list(tree_pids(sandbox._zygote._process.pid))
    assert len(pids) == 2 + 2 * 20
    await sandbox.close()
    await sandbox.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    await asyncio.sleep(0)
    assert descriptors() == before


@linux_only
async def test_sessions_opened_and_dropped_leave_no_process_and_no_descriptor():
    async with await start() as sandbox:
        zygote = sandbox._zygote._process.pid
        await asyncio.sleep(0.1)
        before = descriptors()
        for seed in range(100):
            async with await sandbox.open(seed) as session:
                await session.execute("1")
        await asyncio.sleep(0.3)
        assert len(list(tree_pids(zygote))) == 2
        assert descriptors() == before


@linux_only
@pytest.mark.parametrize("target", ["launcher", "zygote", "session"])
async def test_a_killed_process_of_the_sandbox_is_an_observation_and_work_goes_on(target):
    async with await start() as sandbox:
        session, other = await sandbox.open(1), await sandbox.open(2)
        await asyncio.gather(session.execute("kept = 1"), other.execute("kept = 2"))
        launcher = sandbox._zygote._process.pid
        zygote = int(Path(f"/proc/{launcher}/task/{launcher}/children").read_text())
        victims = {"launcher": launcher, "zygote": zygote, "session": session._worker.handle.host_pid}
        running = asyncio.create_task(session.execute("import time; time.sleep(60)", 50))
        await asyncio.sleep(0.2)
        os.kill(victims[target], signal.SIGKILL)
        observation = await running
        assert not observation.ok and "the interpreter died; the namespace is lost" in observation.text
        assert (await session.execute("2 + 2")).text == "4"
        expected = "2" if target == "session" else "[the interpreter had ended since the last block"
        assert (await other.execute("globals().get('kept')")).text.startswith(expected)


@linux_only
async def test_nothing_outlives_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, time\nfrom biomni_lib.config import SandboxConfig\nfrom biomni_lib.sandbox import Sandbox\n"
        "async def main():\n    sandbox = await Sandbox.start(SandboxConfig(), None, preload=())\n"
        "    await (await sandbox.open(0)).execute('1')\n    print(sandbox._zygote._process.pid, flush=True)\n"
        "    time.sleep(600)\nasyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        launcher = int(parent.stdout.readline())
        pids = list(tree_pids(launcher))
        parent.kill()
    assert len(pids) == 3 and await gone(pids)


REFUSED = """
import asyncio
from biomni_lib.config import SandboxConfig
from biomni_lib.errors import SandboxError
from biomni_lib.sandbox import Sandbox
from biomni_lib.sandbox.kernel import forbid_new_privileges
from biomni_lib.sandbox.seccomp import install_filter
async def main():
    try: await Sandbox.start(SandboxConfig(), None, preload=())
    except SandboxError as error: print(error)
forbid_new_privileges()
install_filter()
asyncio.run(main())
"""


@linux_only
def test_strict_refuses_where_namespaces_are_forbidden_and_names_the_remedy():
    """A filter that forbids unshare stands for a container that does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run([sys.executable, "-c", REFUSED], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "isolation='strict'" in finished.stdout and "no user, pid and network namespaces" in finished.stdout
    assert "--security-opt" in finished.stdout and 'sandbox.isolation = "process"' in finished.stdout
    assert finished.stdout.count("\n") == 1


ORDINARY = """
import asyncio, json
from types import SimpleNamespace
from biomni_lib.sandbox import Sandbox
CONFIG = SimpleNamespace(
    isolation="strict", sessions_max=4, python_at_once=4, shell_at_once=4, execute_timeout_s=5, memory_mb=128,
    output_chars=4000, tool_cache=True,
)
CHILDREN = '''
import os, time
for _ in range(6):
    if os.fork() == 0:
        b = bytearray(60 << 20)
        for i in range(0, len(b), 4096): b[i] = 1
        time.sleep(30)
time.sleep(30)'''
BLOCKS = {
    "identity": "import os; os.getpid(), os.getuid()",
    "shadow": "open('/etc/passwd').read()",
    "home": "import os; sorted(os.listdir('/'))",
    "network": "import socket; socket.socket()",
    "write": "open('/usr/planted', 'w')",
    "memory": CHILDREN,
    "after": "6 * 7",
    "bomb": "import os\\nfor _ in range(99): os.fork() or __import__('time').sleep(9)",
}
async def main():
    async with await Sandbox.start(CONFIG, None, preload=()) as sandbox, await sandbox.open(1) as session:
        print(json.dumps({name: (await session.execute(code)).text for name, code in BLOCKS.items()}))
asyncio.run(main())
"""


@linux_only
@pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user the other tests prove this")
def test_strict_holds_for_an_ordinary_user_too():
    probe = "import sys, biomni_lib; assert sys.version_info >= (3, 11)"
    as_nobody = {"user": 65534, "group": 65534, "extra_groups": [], "env": {"PYTHONPATH": str(ROOT)}, "cwd": "/"}
    able = Path(SYSTEM_PYTHON).exists() and not subprocess.run([SYSTEM_PYTHON, "-c", probe], **as_nobody).returncode
    if not able:
        pytest.skip("no Python 3.11 and checkout that an ordinary user can read")
    finished = subprocess.run([SYSTEM_PYTHON, "-c", ORDINARY], capture_output=True, text=True, **as_nobody)
    assert finished.returncode == 0, finished.stderr
    texts = json.loads(finished.stdout)
    assert texts["identity"] == "(1, 1000)" and texts["shadow"].startswith("'sandbox:x:1000")
    assert "home" not in texts["home"] and "proc" not in texts["home"]
    assert "PermissionError" in texts["network"] and "Read-only file system" in texts["write"]
    assert "BlockingIOError" in texts["bomb"] or "namespace is lost" in texts["bomb"]
    assert "128 MiB of memory and was killed" in texts["memory"] and texts["after"] == "42"


async def test_process_isolation_must_be_asked_for_and_warns(caplog):
    assert SandboxConfig().isolation == "strict"
    before = descriptors()
    async with await start(isolation="process") as sandbox, await sandbox.open(1) as session:
        assert "runs with your rights" in caplog.text
        assert (await session.execute("x = 2\nprint(x)")).text == "2"
        assert "TimeLimit" in (await session.execute("while True: pass", 0.2)).text
        lost = await session.execute("import os; os.kill(os.getpid(), 9)")
        assert "the namespace is lost" in lost.text
        assert (await session.execute("'x' in globals()")).text == "False"
        folder = Path((await session.execute("import os; print(os.getcwd())")).text)
        assert folder.is_dir()
    assert not folder.exists()
    await asyncio.sleep(0)
    assert descriptors() == before
