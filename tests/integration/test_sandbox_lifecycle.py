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
from biomni_lib.notes import notes
from biomni_lib.sandbox import Sandbox
from biomni_lib.sandbox.watchdog import tree_pids
from tests.integration.test_sandbox_attacks import ENVIRONMENT, open_python, rights

ROOT = Path(__file__).resolve().parents[2]
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


async def removed(folder: str, within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while Path(folder).exists() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not Path(folder).exists()


@linux_only
async def test_nothing_is_left_after_close():
    before = descriptors()
    sandbox = await start()
    sessions = [await sandbox.open(seed) for seed in range(20)]
    busy = "import subprocess; subprocess.Popen(['sleep', '600']); None"
    await asyncio.gather(*(session.execute(busy) for session in sessions))
    pids = list(tree_pids(sandbox._zygote._process.pid))
    assert len(pids) >= 2 + 2 * 20
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
        deadline = time.monotonic() + 10
        while len(list(tree_pids(zygote))) > 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
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
        "    await (await sandbox.open(0)).execute('1')\n    print(sandbox._zygote._process.pid,"
        " sandbox._zygote.scratch_dir, flush=True)\n"
        "    time.sleep(600)\nasyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        launcher, _, scratch = parent.stdout.readline().strip().partition(" ")
        pids = list(tree_pids(int(launcher)))
        parent.kill()
    assert len(pids) >= 3 and await gone(pids) and await removed(scratch)


LINKED = """
import asyncio, sys
from biomni_lib.config import SandboxConfig
from biomni_lib.sandbox import Sandbox
async def main():
    async with await Sandbox.start(SandboxConfig(), None, preload=()) as sandbox, await sandbox.open(1) as session:
        print(sys.prefix, (await session.execute("import numpy; print(numpy.ones(2).sum())")).text)
asyncio.run(main())
"""


@linux_only
def test_python_may_lie_behind_a_linked_folder(tmp_path):
    """As homes of many clusters do: the folder above the environment is a link."""
    home = tmp_path / "home"
    home.symlink_to(Path(sys.prefix).parent)
    python = home / Path(sys.prefix).name / "bin" / "python"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run([python, "-c", LINKED], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == f"{home / Path(sys.prefix).name} 2.0"


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
    assert "and no Landlock" in finished.stdout
    assert "--security-opt" in finished.stdout and 'sandbox.isolation = "process"' in finished.stdout
    assert finished.stdout.count("\n") == 1


CONTAINED = """
import asyncio, ctypes, json, time
from biomni_lib.sandbox import Sandbox, kernel, seccomp
from tests.attacks.arena import config
UNSHARE, MOUNT = 272, 165
def forbid():
    deny = seccomp._answers([UNSHARE, MOUNT], seccomp._DENY)
    program = seccomp._instruction(seccomp._LOAD, 0) + deny + seccomp._PERMIT
    kernel.forbid_new_privileges()
    kernel.call("prctl", 22, 2, ctypes.byref(seccomp._FilterProgram(len(program) // 8, program)), 0, 0)
async def main():
    async with await Sandbox.start(config("strict"), None, preload=()) as sandbox, await sandbox.open(1) as session:
        print(json.dumps([sandbox.protection.tier, sandbox.protection.describe()]))
        print(json.dumps((await session.execute("open('/etc/passwd')")).text))
        children = "import os, time\\nfor _ in range(3): os.fork() or time.sleep(600)\\ntime.sleep(600)"
        block = asyncio.create_task(session.execute(children, 900))
        await asyncio.sleep(1)
        print(sandbox._zygote._process.pid, sandbox._zygote.scratch_dir, flush=True)
        time.sleep(600)
forbid()
asyncio.run(main())
"""


@linux_only
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the test's own filter knows one machine's numbers")
@pytest.mark.parametrize("victim", ["parent", "zygote"])
def test_strict_falls_back_on_landlock_in_a_container_and_leaves_nothing_behind(victim):
    """A filter that forbids unshare and mount stands for a container's; then a process of the sandbox is killed."""
    python = open_python()
    if python is None:
        pytest.skip("no Python 3.11 and checkout that an ordinary user can read")
    command = [python, "-c", CONTAINED]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, **rights("ordinary")) as parent:
        tier, said = json.loads(parent.stdout.readline())
        assert tier == "landlock" and "user, pid and network namespaces ([Errno 1]" in said
        assert "PermissionError" in json.loads(parent.stdout.readline())
        launcher, _, scratch = parent.stdout.readline().strip().partition(" ")
        pids = list(tree_pids(int(launcher)))
        assert len(pids) >= 6
        os.kill(parent.pid if victim == "parent" else pids[1], signal.SIGKILL)
        assert asyncio.run(gone(pids[1:], within_s=20))
        assert asyncio.run(removed(scratch))
        parent.kill()


async def test_process_isolation_must_be_asked_for_and_warns(caplog):
    assert SandboxConfig().isolation == "strict"
    before = descriptors()
    async with await start(isolation="process") as sandbox, await sandbox.open(1) as session:
        assert "runs with your rights" in caplog.text
        assert notes()["sandbox"].startswith("process, memory by ") and "runs with your rights" in notes()["sandbox"]
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
