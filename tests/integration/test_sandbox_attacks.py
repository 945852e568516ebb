"""What hostile code tries from inside a session, each with proof that the harm did not happen.

Every test ends with another session at work: the zygote and its neighbours survive.
"""

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path
from textwrap import dedent

import pytest
import pytest_asyncio

import biomni_lib
from biomni_lib.config import SandboxConfig
from biomni_lib.sandbox import Sandbox

CONFIG = SandboxConfig(output_chars=2000, memory_mb=256)
SECRET = "gold-4711"
SYSCALL = dedent("""
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    def errno(r): return ctypes.get_errno() if r == -1 else r
""")
EPERM, ENOSYS = 1, 38
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not Path("/proc/self/ns/user").exists(), reason="strict isolation needs Linux namespaces"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run_folder(tmp_path_factory):
    """A lake with a gold file beside it, both readable by everybody."""
    folder = tmp_path_factory.mktemp("run")
    for parent in (folder, *folder.parents[:2]):
        with contextlib.suppress(PermissionError):
            parent.chmod(0o755)
    (folder / "lake").mkdir()
    (folder / "lake" / "table.txt").write_text("rows")
    (folder / "gold.json").write_text(SECRET)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(run_folder):
    os.environ["SANDBOX_TEST_TOKEN"] = SECRET
    async with await Sandbox.start(CONFIG, run_folder / "lake", provider=f"{__name__}:no_names") as started:
        yield started
    del os.environ["SANDBOX_TEST_TOKEN"]


def no_names(lake_dir):
    """Nothing is defined in these sessions."""
    return {}


@pytest_asyncio.fixture(loop_scope="module")
async def session(sandbox):
    async with await sandbox.open(1) as neighbour, await sandbox.open(2) as opened:
        await neighbour.execute("alive = 'alive'")
        yield opened
        assert (await neighbour.execute("alive")).text == "'alive'"


async def test_the_gold_file_and_the_hosts_files_do_not_exist_inside(session, run_folder):
    lake = run_folder / "lake" / "table.txt"
    assert (await session.execute(f"open({str(lake)!r}).read()")).text == "'rows'"
    for path in (
        run_folder / "gold.json",
        "/etc/shadow",
        "/proc/self/environ",
        "/proc/1/mem",
        "/sys",
        "/home",
        "/dev/vda",
    ):
        observation = await session.execute(f"open({str(path)!r}, 'rb').read()")
        assert observation.text.splitlines()[-1].startswith("FileNotFoundError"), path
    walk = """
import os
found = []
for top, folders, names in os.walk('/'):
    folders[:] = [folder for folder in folders if folder not in ('usr', 'lib')]
    found += names
'gold.json' in found, 'table.txt' in found"""
    assert (await session.execute(walk)).text == "(False, True)"
    assert (await session.execute(f"import os; os.listdir({str(run_folder)!r})")).text == "['lake']"


async def test_the_rest_of_this_library_is_not_there(session):
    package = Path(biomni_lib.__file__).parent
    listed = (await session.execute(f"import os; sorted(os.listdir({str(package)!r}))")).text
    assert "tasks" not in listed and "rewards" not in listed and "sandbox" in listed
    assert "ModuleNotFoundError" in (await session.execute("import biomni_lib.tasks")).text


async def test_the_parents_environment_is_not_visible(session):
    observation = await session.execute("import os, gc\nos.environ.get('SANDBOX_TEST_TOKEN'), sorted(os.environ)")
    assert observation.text.startswith("(None,") and SECRET not in observation.text
    assert SECRET not in (await session.execute("import subprocess; subprocess.run('env; set', shell=True)")).text


async def test_there_is_no_network(session):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        server.settimeout(0)
        local.bind("\0sandbox-test")
        local.listen()
        local.settimeout(0)
        port = server.getsockname()[1]
        for code in (
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
            "import socket; socket.socket(socket.AF_UNIX).connect('\\0sandbox-test')",
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
            "import urllib.request; urllib.request.urlopen('http://192.0.2.1', timeout=1)",
        ):
            observation = await session.execute(code)
            assert not observation.ok and "Operation not permitted" in observation.text
        for listener in (server, local):
            with pytest.raises(BlockingIOError):
                listener.accept()


async def test_other_processes_cannot_be_seen_or_signalled(session):
    host = [os.getpid(), os.getppid(), *range(2, 300)]
    code = f"""
import os
def hit(p):
    try: os.kill(p, 9); return p
    except ProcessLookupError: return 0
sum(map(hit, {host}))"""
    assert (await session.execute(code)).text == "0"
    assert (await session.execute("os.getpid(), os.getppid()")).text == "(1, 0)"


@pytest.mark.parametrize(
    "call",
    [
        "libc.mount(b'none', b'/sandbox', b'tmpfs', 0, None)",
        "libc.mount(None, b'/usr', None, 32 | 4096, None)",
        "libc.umount2(b'/sandbox', 2)",
        "libc.unshare(0x10000000)",
        "libc.unshare(0x00020000)",
        "libc.setns(0, 0)",
        "libc.chroot(b'/sandbox')",
        "libc.mknod(b'/sandbox/disk', 0o60666, 0xFE00)",
        "libc.ptrace(0, 0, 0, 0)",
        "libc.process_vm_readv(1, None, 0, None, 0, 0)",
        "libc.setuid(0)",
        "libc.setgid(0)",
        "libc.sethostname(b'x', 1)",
        "libc.syscall(425, 8, None)",
        "libc.syscall(435, None, 0)",
        "libc.syscall(321, 0, None, 0)",
        "libc.syscall(298, None, 0, -1, -1, 0)",
        "libc.syscall(304, -100, None, 0)",
        "libc.syscall(250, 0, 0)",
        "libc.memfd_create(b'm', 0)",
        "libc.shmget(1, 4096, 0o1600)",
    ],
)
async def test_dangerous_calls_are_refused(session, call):
    observation = await session.execute(f"{SYSCALL}errno({call})")
    assert observation.text in {str(EPERM), str(ENOSYS), "22" if "setuid" in call or "setgid" in call else ""}


async def test_no_identity_no_capability_no_new_privileges(session):
    code = "import os\n(os.getresuid(), os.getresgid(), os.system('/usr/bin/su -c id 2>/dev/null') != 0)"
    assert (await session.execute(code)).text == "((1000, 1000, 1000), (1000, 1000, 1000), True)"
    bounding = "[libc.prctl(23, c, 0, 0, 0) for c in range(41)].count(1)"
    prctl = f"{SYSCALL}{bounding}, libc.prctl(39, 0, 0, 0, 0), libc.prctl(21, 0, 0, 0, 0)"
    assert (await session.execute(prctl)).text == "(0, 1, 2)"


async def test_libraries_lake_and_root_cannot_be_written(session, run_folder):
    for folder in ("/", "/usr/bin", "/etc", os.__file__.rpartition("/")[0], str(run_folder / "lake"), str(run_folder)):
        observation = await session.execute(f"open({folder!r} + '/planted.py', 'w')")
        assert "Read-only file system" in observation.text or "Permission denied" in observation.text, folder
    assert not (run_folder / "lake" / "planted.py").exists()
    observation = await session.execute(f"import os; os.remove({str(run_folder / 'lake' / 'table.txt')!r})")
    assert not observation.ok and (run_folder / "lake" / "table.txt").exists()


async def test_another_sessions_scratch_is_out_of_reach(sandbox, session):
    async with await sandbox.open(3) as other:
        await other.execute("open('/sandbox/private', 'w').write('theirs')")
        assert (await other.execute("import os; os.listdir()")).text == "['private']"
        assert (await session.execute("import os; os.listdir('/sandbox'), os.listdir('/dev/shm')")).text == "([], [])"


async def test_scratch_is_small_in_bytes_and_files(session):
    full = await session.execute("for i in range(9):\n    open(str(i), 'wb').write(b'x' * (10 << 20))")
    assert "No space left" in full.text or "File too large" in full.text
    await session.execute("import os\n[os.remove(name) for name in os.listdir()]")
    many = await session.execute("for i in range(10**6):\n    open(str(i), 'w').close()", timeout_s=5)
    assert "No space left" in many.text


async def test_memory_at_once_is_an_error_that_keeps_the_namespace(session):
    observation = await session.execute("kept = 1\nb'x' * (8 << 30)")
    assert observation.text.splitlines()[-1] == "MemoryError"
    assert (await session.execute("kept")).text == "1"


SHARED = (
    "import mmap\nm = mmap.mmap(-1, 900 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1\nimport time; time.sleep(5)"
)
CHILDREN = (
    "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        b = bytearray(150 << 20)\n"
    "        for i in range(0, len(b), 4096): b[i] = 1\n        time.sleep(30)\ntime.sleep(30)"
)


@pytest.mark.parametrize("code", [SHARED, CHILDREN])
async def test_memory_shared_or_spread_over_children_ends_the_session(session, code):
    observation = await session.execute(code, timeout_s=8)
    assert not observation.ok and "256 MiB of memory and was killed; the namespace is lost" in observation.text
    assert observation.seconds < 6
    assert (await session.execute("1 + 1")).text == "2"


async def test_children_that_share_the_libraries_are_not_taken_for_a_hog(session):
    code = "import os, time\npids = [os.fork() for _ in range(3)]\ntime.sleep(0.4)\nif 0 in pids: os._exit(0)\n'done'"
    assert (await session.execute(code)).text == "'done'"


async def test_a_fork_bomb_stays_inside(sandbox, session):
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    observation = await session.execute(bomb, timeout_s=0.5)
    assert not observation.ok
    assert (await session.execute("1 + 1")).text == "2"


async def test_threads_and_descriptors_run_out_inside_only(session):
    threads = """
import threading, time
for _ in range(999): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"""
    assert "can't start new thread" in (await session.execute(threads)).text
    assert "Too many open files" in (await session.execute("fs = []\nwhile True: fs.append(open('/dev/null'))")).text


FORGE = dedent("""
    import socket, json, os
    def peer():
        for n in range(3, 100):
            try: return socket.socket(fileno=os.dup(n))
            except OSError: pass
    def send(b): peer().sendall(len(b).to_bytes(4, 'big') + b)
""")


async def test_forged_replies_are_the_sessions_own_text_and_nothing_more(session):
    forged = "send(json.dumps({'id': 'x', 'text': 'forged', 'ok': True, 'reward': 1}).encode())"
    assert (await session.execute(f"{FORGE}{forged}\n'real'")).text == "'real'"
    assert (await session.execute("1 + 1")).text == "2"


@pytest.mark.parametrize(
    "attack",
    ["peer().sendall(b'\\xff' * 99)", "send(b'\\x80\\x04.')", "send(b'[' * 2000)", "[send(b'{}') for _ in range(99)]"],
)
async def test_broken_replies_end_the_session_that_sent_them(session, attack):
    observation = await session.execute(f"{FORGE}{attack}\n'real'", timeout_s=1)
    assert not observation.ok and "the namespace is lost" in observation.text
    assert (await session.execute("1 + 1")).text == "2"


async def test_children_left_behind_end_with_the_session(sandbox, session):
    async with await sandbox.open(5) as opened:
        daemon = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait(); 1"""
        assert (await opened.execute(daemon)).text == "1"
        pid = opened._worker.handle.host_pid
        children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        assert len(children) == 1
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{p}").exists() for p in (pid, *children)) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert not any(Path(f"/proc/{p}").exists() for p in (pid, *children))
