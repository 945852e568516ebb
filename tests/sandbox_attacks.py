"""What hostile code tries from inside a session, each with its own proof that the harm did not happen.

`python -m tests.sandbox_attacks TIER` starts a sandbox and runs the attacks named on its standard input, one a line,
each answered by one line of JSON: null, or the failure. After each the neighbour session and the zygote must still
work. No test library is imported, so that any Python of any user can run it.
"""

import asyncio
import errno
import gc
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import biomni_lib
from biomni_lib.sandbox import Observation, Sandbox
from biomni_lib.sandbox.watchdog import tree_pids

OUTPUT_CHARS, MEMORY_MB = 2000, 256
SECRET = "gold-4711"
TOKEN = "SANDBOX_TEST_TOKEN"
REFUSED = ("FileNotFoundError", "PermissionError", "OSError: [Errno 30] Read-only file system", "ModuleNotFoundError")
EPERM, EACCES, ESRCH, ENOSYS = errno.EPERM, errno.EACCES, errno.ESRCH, errno.ENOSYS
CALLS = {
    "mount a file system": "libc.mount(b'none', b'.', b'tmpfs', 0, None)",
    "remount the libraries writable": "libc.mount(None, b'/usr', None, 32 | 4096, None)",
    "unmount the scratch": "libc.umount2(b'.', 2)",
    "unshare the user namespace": "libc.unshare(0x10000000)",
    "unshare the mount namespace": "libc.unshare(0x00020000)",
    "enter a namespace": "libc.setns(0, 0)",
    "clone into namespaces": "libc.syscall(56, 0x10000011, None, None, None, None)",
    "chroot": "libc.chroot(b'.')",
    "make a device": "libc.mknod(b'disk', 0o60666, 0xFE00)",
    "trace a process": "libc.ptrace(16, VICTIM, 0, 0)",
    "read a process's memory": "libc.process_vm_readv(VICTIM, None, 0, None, 0, 0)",
    "become root": "libc.setuid(0)",
    "become root's group": "libc.setgid(0)",
    "rename the host": "libc.sethostname(b'x', 1)",
    "use io_uring": "libc.syscall(425, 8, None)",
    "use clone3": "libc.syscall(435, None, 0)",
    "load a BPF program": "libc.syscall(321, 0, None, 0)",
    "count events of processes": "libc.syscall(298, None, 0, -1, -1, 0)",
    "open by handle": "libc.syscall(304, -100, None, 0)",
    "use the key ring": "libc.syscall(250, 0, 0)",
    "make anonymous files": "libc.memfd_create(b'm', 0)",
    "share System V memory": "libc.shmget(1, 4096, 0o1600)",
    "take another's descriptor": "libc.syscall(438, 0, 0, 0)",
}
SYSCALL = dedent("""
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    def errno(r): return ctypes.get_errno() if r == -1 else r
""")
FORGE = dedent("""
    import socket, json, os
    def peer():
        for n in range(3, 100):
            try: return socket.socket(fileno=os.dup(n))
            except OSError: pass
    def send(b): peer().sendall(len(b).to_bytes(4, 'big') + b)
""")


def no_names(lake_dir):
    """Nothing is defined in these sessions."""
    return {}


class Arena:
    """A sandbox with what is worth attacking around it: a gold file, a lake, a victim process, a neighbour."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder, self.sandbox = folder, sandbox
        self.lake, self.gold = folder / "lake", folder / "gold.json"
        self.tier = sandbox.protection.tier
        self.victim = subprocess.Popen(["sleep", "3600"])

    async def open_sessions(self) -> None:
        self.neighbour, self.session = await self.sandbox.open(1), await self.sandbox.open(2)
        await self.neighbour.execute("alive = 'alive'")

    async def run(self, code: str, timeout_s: float = 10) -> Observation:
        return await self.session.execute(dedent(code), timeout_s)

    async def refused(self, code: str) -> None:
        """Run a block that must end in one of the kernel's refusals."""
        observation = await self.run(code)
        last = observation.text.splitlines()[-1]
        assert not observation.ok and last.startswith(REFUSED) and SECRET not in observation.text, (code, last)

    async def require_all_well(self) -> None:
        """The neighbour kept its namespace, the victim lives, the attacker and a newcomer can work."""
        assert (await self.neighbour.execute("alive")).text == "'alive'"
        assert self.victim.poll() is None
        assert (await self.run("6 * 7")).text.endswith("42")
        async with await self.sandbox.open(3) as newcomer:
            assert (await newcomer.execute("1 + 1")).text == "2"


Attack = Callable[[Arena], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}


def attack(run: Attack) -> Attack:
    ATTACKS[run.__name__] = run
    return run


@attack
async def read_the_shadow_file(arena):
    await arena.refused("open('/etc/shadow').read()")
    await arena.refused("open('/etc/hostname').read()")


@attack
async def read_the_gold_file(arena):
    assert (await arena.run(f"open({str(arena.lake / 'table.txt')!r}).read()")).text == "'rows'"
    await arena.refused(f"open({str(arena.gold)!r}).read()")
    await arena.refused(f"import os\nos.chdir({str(arena.lake)!r})\ntry: open('../gold.json').read()\n"
                        "finally: os.chdir(os.environ['HOME'])")  # fmt: skip
    await arena.refused(f"import os; os.link({str(arena.gold)!r}, 'mine'); open('mine').read()")
    await arena.run(f"import os; os.symlink({str(arena.gold)!r}, 'link')")
    await arena.refused("open('link').read()")
    walk = """
        import os
        found = set()
        for top, folders, names in os.walk('/'):
            folders[:] = [folder for folder in folders if folder not in ('usr', 'lib')]
            found.update(names)
        'gold.json' in found"""
    assert (await arena.run(walk)).text == "False"


@attack
async def find_the_tasks_the_seed_and_the_rewards(arena):
    package = Path(biomni_lib.__file__).parent
    for room in ("tasks/__init__.py", "rewards.py", "config.py", "provenance.py", "presets/cpu.toml"):
        assert (package / room).exists()
        await arena.refused(f"open({str(package / room)!r}).read()")
    await arena.refused("import biomni_lib.tasks")
    await arena.refused("import biomni_lib.rewards")
    await arena.refused(f"open({str(package.parent / 'Makefile')!r}).read()")


@attack
async def read_another_sessions_files(arena):
    async with await arena.sandbox.open(4) as other:
        place = (await other.execute("open('private', 'w').write('theirs')\nimport os; print(os.getcwd())")).text
        assert (await other.execute("os.listdir()")).text == "['private']"
        attempt = f"import os; open({place + '/private'!r}).read()"
        assert "theirs" not in (await arena.run(attempt)).text
        assert "private" not in (await arena.run(f"os.listdir({place!r}), os.listdir('/dev/shm')")).text
        assert (await other.execute("open('private').read()")).text == "'theirs'"


@attack
async def read_another_sessions_memory(arena):
    async with await arena.sandbox.open(4) as other:
        await other.execute(f"secret = bytearray({SECRET!r}, 'ascii')")
        address = (await other.execute("import ctypes\nctypes.addressof(ctypes.c_char.from_buffer(secret))")).text
        pid = other._worker.handle.host_pid
        await arena.refused(f"f = open('/proc/{pid}/mem', 'rb'); f.seek({address}); f.read(9)")
        await arena.refused(f"open('/proc/{pid}/maps').read()")
        peek = (f"{SYSCALL}class V(ctypes.Structure): _fields_ = [('b', ctypes.c_void_p), ('n', ctypes.c_size_t)]\n"
                f"into = ctypes.create_string_buffer(9)\nmine, theirs = V(ctypes.addressof(into), 9), V({address}, 9)\n"
                f"r = libc.process_vm_readv({pid}, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)\n"
                "r, errno(r), into.raw[:9]")  # fmt: skip
        assert (await arena.run(peek)).text == f"(-1, {EPERM}, {bytes(9)!r})"
        for number in range(1, 5):
            await arena.refused(f"open('/proc/{number}/mem', 'rb').read(1)")


@attack
async def read_the_parents_environment(arena):
    assert os.environ[TOKEN] == SECRET
    assert (await arena.run(f"import os; os.environ.get({TOKEN!r})")).text == ""
    for pid in ("self", 1, os.getpid(), os.getppid()):
        await arena.refused(f"open('/proc/{pid}/environ', 'rb').read()")
    assert SECRET not in (await arena.run("#!BASH\nenv; set")).text


@attack
async def connect_to_loopback(arena):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0sandbox-test-" + arena.tier)
        local.listen()
        for listener in (server, local):
            listener.setblocking(False)
        port = server.getsockname()[1]
        await arena.refused(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
        await arena.refused(f"socket.socket(socket.AF_UNIX).connect('\\0sandbox-test-{arena.tier}')")
        await arena.run(f"#!BASH\necho > /dev/tcp/127.0.0.1/{port}")
        for listener in (server, local):
            try:
                listener.accept()
            except BlockingIOError:
                continue
            raise AssertionError("a session connected")


@attack
async def connect_to_the_outside(arena):
    for kind in ("AF_INET, socket.SOCK_DGRAM", "AF_INET6, socket.SOCK_STREAM", "AF_NETLINK, socket.SOCK_RAW"):
        await arena.refused(f"import socket; socket.socket(socket.{kind})")
    observation = await arena.run("import urllib.request; urllib.request.urlopen('http://192.0.2.1', timeout=1)")
    assert not observation.ok and "Operation not permitted" in observation.text


@attack
async def send_datagrams_through_a_socketpair(arena):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract, socket.socket(socket.AF_UNIX, 2) as named:
        abstract.bind("\0sandbox-datagram-" + arena.tier)
        named.bind(str(arena.lake / "log"))
        for target in (f"'\\0sandbox-datagram-{arena.tier}'", f"{str(arena.lake / 'log')!r}"):
            await arena.refused(
                f"import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'x', {target})"
            )
        (arena.lake / "log").unlink()
        for listener in (abstract, named):
            listener.setblocking(False)
            try:
                listener.recv(1)
            except BlockingIOError:
                continue
            raise AssertionError("a session reached a socket of the host")


@attack
async def signal_host_processes(arena):
    pids = [arena.victim.pid, os.getpid(), arena.sandbox._zygote._process.pid, arena.neighbour._worker.handle.host_pid]
    code = f"""
        import os, signal
        def hit(send):
            try: send(); return 1
            except (ProcessLookupError, PermissionError, AttributeError): return 0
        hits = 0
        for pid in {pids}:
            hits += hit(lambda: os.kill(pid, 9)) + hit(lambda: os.killpg(pid, 9))
            hits += hit(lambda: signal.pidfd_send_signal(os.pidfd_open(pid), 9))
        hits"""
    assert (await arena.run(code)).text == "0"
    if arena.tier == "namespaces":
        assert (await arena.run("os.getpid(), os.getppid()")).text == "(1, 0)"
    await arena.run("import os; os.kill(-1, 9)")
    assert arena.victim.poll() is None


@attack
async def signal_through_file_owners(arena):
    code = f"""
        import os, fcntl
        r, w = os.pipe()
        fcntl.fcntl(r, fcntl.F_SETOWN, {arena.victim.pid})
        fcntl.fcntl(r, 10, 9)
        fcntl.fcntl(r, fcntl.F_SETFL, fcntl.fcntl(r, fcntl.F_GETFL) | os.O_ASYNC)
        os.write(w, b'x')"""
    assert not (await arena.run(code)).ok
    assert arena.victim.poll() is None


@attack
async def change_limits_and_priority_of_host_processes(arena):
    import resource

    before = resource.prlimit(arena.victim.pid, resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, os.getpid())
    affinity = os.sched_getaffinity(arena.victim.pid)
    for call in (
        f"import resource; resource.prlimit({arena.victim.pid}, resource.RLIMIT_NOFILE, (1, 1))",
        f"import os; os.setpriority(os.PRIO_PROCESS, {arena.victim.pid}, 19)",
        f"os.sched_setaffinity({arena.victim.pid}, [0])",
    ):
        assert not (await arena.run(call)).ok
    after = resource.prlimit(arena.victim.pid, resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, os.getpid())
    assert before == after and os.sched_getaffinity(arena.victim.pid) == affinity


@attack
async def see_host_processes(arena):
    await arena.refused("import os; os.listdir('/proc')")
    await arena.refused(f"open('/proc/{arena.victim.pid}/cmdline').read()")
    assert (await arena.run("#!BASH\nps aux | wc -l")).text.splitlines()[-1:] in (["0"], ["1"])


@attack
async def fork_bomb(arena):
    observation = await arena.run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", 0.5)
    assert not observation.ok
    await arena.run("0", 5)
    await no_more_than(arena, 32)


@attack
async def shell_fork_bomb(arena):
    assert not (await arena.run("#!BASH\nb() { b | b & }; b; sleep 9", 0.5)).ok
    await no_more_than(arena, 32)


async def no_more_than(arena: Arena, processes: int) -> None:
    zygote = arena.sandbox._zygote._process.pid
    await until(lambda: len(list(tree_pids(zygote))) <= 2 + processes + 2)


async def until(holds: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.05)


@attack
async def take_8_gb_at_once(arena):
    observation = await arena.run("kept = 1\nb'x' * (8 << 30)")
    assert observation.text.splitlines()[-1] == "MemoryError"
    assert (await arena.run("kept")).text == "1"


MEMORY_MESSAGE = f"{MEMORY_MB} MiB of memory and was killed; the namespace is lost"


@attack
async def take_8_gb_spread_over_children(arena):
    code = """
        import os, time
        for _ in range(30):
            if os.fork() == 0:
                b = bytearray(180 << 20)
                for i in range(0, len(b), 4096): b[i] = 1
                time.sleep(30)
        time.sleep(30)"""
    assert MEMORY_MESSAGE in (await arena.run(code, 20)).text


@attack
async def take_memory_shared_with_nobody(arena):
    code = """
        import mmap, time
        m = mmap.mmap(-1, 900 << 20)
        for i in range(0, len(m), 4096): m[i] = 1
        time.sleep(20)"""
    assert MEMORY_MESSAGE in (await arena.run(code, 20)).text


@attack
async def be_taken_for_a_hog(arena):
    """No attack: children that share the libraries' pages use little, and must be let live."""
    code = "import os, time\npids = [os.fork() for _ in range(3)]\ntime.sleep(0.4)\nif 0 in pids: os._exit(0)\n'done'"
    assert (await arena.run(code)).text == "'done'"


SCRATCH_MESSAGES = ("No space left", "File too large", "of scratch space and was killed")


def says_full(observation: Observation) -> bool:
    return any(message in observation.text for message in SCRATCH_MESSAGES)


@attack
async def fill_the_disk(arena):
    code = "import time\nfor i in range(9):\n    open(str(i), 'wb').write(b'x' * (10 << 20)); time.sleep(0.1)"
    assert says_full(await arena.run(code, 20))
    assert says_full(await arena.run("open('one', 'wb').write(b'x' * (40 << 20))"))


@attack
async def fill_the_disk_with_removed_files(arena):
    code = """
        import tempfile, time
        files = []
        for _ in range(12):
            files.append(tempfile.TemporaryFile()); files[-1].write(b'x' * (10 << 20)); files[-1].flush()
            time.sleep(0.1)"""
    assert says_full(await arena.run(code, 20))


@attack
async def fill_the_disk_with_mapped_files(arena):
    code = """
        import mmap, os, time
        maps = []
        for i in range(12):
            with open('m', 'w+b') as f:
                f.write(b'x' * (10 << 20)); f.flush()
                maps.append(mmap.mmap(f.fileno(), 10 << 20))
            os.remove('m'); time.sleep(0.1)"""
    assert says_full(await arena.run(code, 20))


@attack
async def exhaust_inodes(arena):
    observation = await arena.run("for i in range(10**6):\n    open(str(i), 'w').close()", 60)
    assert says_full(observation)


@attack
async def leave_a_deep_and_locked_folder(arena):
    deep = "import os\nfor _ in range(300):\n    os.mkdir('d' * 100); os.chdir('d' * 100)\nos.mkdir('locked', 0)"
    async with await arena.sandbox.open(6) as other:
        await other.execute(deep)
    await until(lambda: len(list(arena.sandbox._zygote.scratch_dir.iterdir())) <= 2)


def digest(folder: Path) -> str:
    found = [(path.name, path.stat().st_mode, path.stat().st_mtime_ns, path.stat().st_uid) for path in folder.iterdir()]
    return hashlib.sha256(repr((found, (folder / "table.txt").read_bytes())).encode()).hexdigest()


@attack
async def write_to_the_lake(arena):
    before, table = digest(arena.lake), str(arena.lake / "table.txt")
    for code in (
        f"open({table!r}, 'w')",
        f"open({table!r}, 'a')",
        f"import os; os.open({table!r}, os.O_RDONLY | os.O_TRUNC)",
        f"import os; os.truncate({table!r}, 0)",
        f"import os; os.remove({table!r})",
        f"import os; os.rename({table!r}, 'x')",
        f"open({str(arena.lake / 'planted')!r}, 'w')",
        f"open({str(arena.folder / 'planted')!r}, 'w')",
        f"import os; os.chmod({table!r}, 0)",
        f"import os; os.chmod(os.open({table!r}, 0), 0)",
        f"import os; os.utime({table!r}, (0, 0))",
        f"import os; os.setxattr({table!r}, 'user.x', b'x')",
        f"import os; os.chown({table!r}, 1000, 1000)",
    ):
        assert not (await arena.run(code)).ok, code
    await arena.run(f"#!BASH\n: > {table}; rm -rf {arena.lake}; touch {table}; chmod 777 {table}")
    assert digest(arena.lake) == before and not (arena.folder / "planted").exists()


@attack
async def write_to_the_libraries(arena):
    library = os.__file__.rpartition("/")[0]
    package = str(Path(biomni_lib.__file__).parent / "sandbox")
    for folder in ("/", "/usr/bin", "/etc", library, package):
        assert not (await arena.run(f"open({folder!r} + '/planted.py', 'w')")).ok
        assert not Path(folder, "planted.py").exists()
    before = os.stat(os.__file__)
    for call in (f"chmod({os.__file__!r}, 0)", f"remove({os.__file__!r})", f"truncate({os.__file__!r}, 0)"):
        assert not (await arena.run(f"import os; os.{call}")).ok
    after = os.stat(os.__file__)
    assert (before.st_mode, before.st_size, before.st_ctime) == (after.st_mode, after.st_size, after.st_ctime)


@attack
async def use_privileges_left_over(arena):
    bounding = "[libc.prctl(23, c, 0, 0, 0) for c in range(41)].count(1)"
    held = await arena.run(f"{SYSCALL}libc.prctl(39, 0, 0, 0, 0), libc.prctl(21, 0, 0, 0, 0), {bounding}")
    assert held.text.startswith("(1, 2, ")
    assert os.geteuid() != 0 or held.text == "(1, 2, 0)"
    assert "uid=0" not in (await arena.run("#!BASH\nid -u; su -c id; sudo -n id")).text
    assert (await arena.run("import os; 0 in os.getresuid() + os.getresgid()")).text == "False"
    assert (await arena.run("os.getgroups()")).text in ("[]", "[1000]", repr(os.getgroups()))
    code = f"{SYSCALL}header = (ctypes.c_uint32 * 2)(0x20080522, 0)\nsets = (ctypes.c_uint32 * 6)()\n"
    assert (await arena.run(f"{code}libc.capget(header, sets), list(sets)")).text == "(0, [0, 0, 0, 0, 0, 0])"


@attack
async def swallow_interrupts(arena):
    code = "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"
    assert "was killed; the namespace is lost" in (await arena.run(code, 0.2)).text


@attack
async def ignore_signals(arena):
    code = """
        import signal
        for n in range(1, 65):
            try: signal.signal(n, signal.SIG_IGN)
            except (OSError, ValueError): pass
        while True: pass"""
    assert "was killed; the namespace is lost" in (await arena.run(code, 0.2)).text


def processes_called(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


DAEMON = """
import os, subprocess
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0:
        os.execvp('sleep', ['sleep', '86399.{marker}'])
    os._exit(0)
os.wait()
"""


@attack
async def daemonise_and_survive(arena):
    for ending in ("", "\nos._exit(0)"):
        marker = str(secrets.randbelow(10**9))
        async with await arena.sandbox.open(5) as opened:
            await opened.execute(DAEMON.format(marker=marker) + "import time; time.sleep(0.3)" + ending)
            assert ending or len(processes_called(marker)) == 1
        await until(lambda marker=marker: not processes_called(marker))


@attack
async def leave_shell_jobs_behind(arena):
    marker = str(secrets.randbelow(10**9))
    async with await arena.sandbox.open(5) as opened:
        await opened.execute(f"#!BASH\nnohup setsid sleep 86399.{marker} &\nsleep 0.3; sleep 86399.{marker}", 1)
    await until(lambda: not processes_called(marker))


@attack
async def flood_the_output(arena):
    before = peak_mb()
    for code in (
        "line = 'x' * (1 << 20)\nfor _ in range(1024): print(line)",
        "import os\nblock = b'x' * (1 << 20)\nfor _ in range(1024): os.write(1, block)",
        "#!BASH\nhead -c 1073741824 /dev/zero",
        "print('\\u20ac' * 10**8)",
    ):
        observation = await arena.run(code, 20)
        assert len(observation.text) <= OUTPUT_CHARS
    assert peak_mb() - before < 64


def peak_mb() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@attack
async def forge_replies(arena):
    forged = "send(json.dumps({'id': 'x', 'text': 'forged', 'ok': True, 'reward': 1}).encode())"
    assert (await arena.run(f"{FORGE}{forged}\n'real'")).text == "'real'"


@attack
async def break_the_reply_protocol(arena):
    for broken in ("peer().sendall(b'\\xff' * 99)", "send(b'[' * 2000)", "[send(b'{}') for _ in range(99)]",
                   "send(b'{\"id\": 1}' * 9)", "peer().close(); os.closerange(3, 99)"):  # fmt: skip
        observation = await arena.run(f"{FORGE}{broken}\n'real'", 1)
        assert not observation.ok and "the namespace is lost" in observation.text, broken


@attack
async def send_a_pickle(arena):
    evil = f"pickle.dumps(type('E', (), {{'__reduce__': lambda s: (open, ({str(arena.folder / 'planted')!r}, 'w'))}})())"
    observation = await arena.run(f"{FORGE}import pickle\nsend({evil})\n'real'", 1)
    assert not observation.ok and not (arena.folder / "planted").exists()


@attack
async def play_unicode_tricks(arena):
    for text in ("'\\ud800' * 99", "'\\x00\\x1b[2J\\u202e'", "'\\U0010ffff' * 9999", "'e' + '\\u0301' * 9999"):
        observation = await arena.run(f"print({text})")
        assert observation.ok and len(observation.text) <= OUTPUT_CHARS
        observation.text.encode("utf-8")
    wild = await arena.run(f"{FORGE}send(b'{{\"id\": \"\\\\ud800\", \"text\": \"\\\\ud800\"}}')\n'real'")
    assert wild.text == "'real'"


@attack
async def exhaust_descriptors(arena):
    observation = await arena.run("files = []\nwhile True: files.append(open('/dev/null'))")
    assert "Too many open files" in observation.text
    assert (await arena.run("del files; 1")).text == "1"


@attack
async def exhaust_threads(arena):
    code = "import threading, time\nfor _ in range(999): threading.Thread(target=time.sleep, args=(3,), daemon=True).start()"
    observation = await arena.run(code)
    assert "can't start new thread" in observation.text or "32 processes and was killed" in observation.text


@attack
async def recurse_deeply(arena):
    assert "RecursionError" in (await arena.run("def f(): return f()\nf()")).text
    for code in (
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr([self])\nA()",
        "(" * 5000 + ")" * 5000,
        "x = []\nfor _ in range(10**6): x = [x]\nx",
        "import json; json.loads('[' * 10**6)",
    ):
        assert not (await arena.run(code, 5)).ok, code[:40]


@attack
async def crash_the_interpreter(arena):
    for code in ("import ctypes; ctypes.string_at(0)", "import os; os.abort()", "import os; os._exit(0)",
                 "import os; os.kill(os.getpid(), 9)", "import ctypes; ctypes.memset(id(None), 0, 64)"):  # fmt: skip
        observation = await arena.run(code, 3)
        assert not observation.ok, code
        assert (await arena.run("1 + 1")).text.endswith("2")


@attack
async def close_the_standard_streams(arena):
    for code in (
        "import sys; sys.stdout.close(); sys.stderr.close(); sys.stdin.close()",
        "import sys; sys.stdout = sys.stderr = sys.stdin = None",
        "import os; [os.close(n) for n in (0, 1, 2)]",
    ):
        await arena.run(f"kept = 5\n{code}")
        assert (await arena.run("print(kept)")).text == "5"


@attack
async def burn_the_processor(arena):
    code = "import os\nfor _ in range(3):\n    if os.fork() == 0:\n        while True: pass"
    async with await arena.sandbox.open(5) as opened:
        await opened.execute(code)
        burning = list(tree_pids(opened._worker.handle.host_pid))
        assert len(burning) == 4
        assert (await arena.neighbour.execute("alive")).text == "'alive'"
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in burning))


def kernel_call(name: str, call: str) -> None:
    async def refused(arena: Arena) -> None:
        observation = await arena.run(f"{SYSCALL}errno({call.replace('VICTIM', str(arena.victim.pid))})")
        allowed = {str(EPERM), str(ENOSYS)} | ({"22"} if "libc.set" in call else set())
        assert observation.text in allowed, observation.text

    ATTACKS[name.replace(" ", "_").replace("'", "")] = refused


for _name, _call in CALLS.items():
    kernel_call(_name, _call)


async def open_and_drop(arena: Arena, count: int) -> None:
    """Sessions that are opened, used and dropped, some in the middle of a block, leave nothing behind."""
    zygote = arena.sandbox._zygote._process.pid
    await until(lambda: len(list(tree_pids(zygote))) <= 4)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(count):
        session = await arena.sandbox.open(number)
        if number % 3:
            await session.execute("open('left', 'w').write('x')")
        else:
            block = asyncio.create_task(session.execute("import time; time.sleep(60)"))
            await asyncio.sleep(0.001 * (number % 7))
            block.cancel()
        await session.close()
    await until(lambda: len(list(tree_pids(zygote))) <= 4)
    await until(lambda: len(list(arena.sandbox._zygote.scratch_dir.iterdir())) <= 2)
    gc.collect()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def run_attack(arena: Arena, name: str, count: int) -> str | None:
    try:
        await (open_and_drop(arena, count) if count else ATTACKS[name](arena))
        await arena.require_all_well()
    except Exception:  # noqa: BLE001 - the test that asked reports it
        return traceback.format_exc()
    finally:
        await arena.session.close()
        arena.session = await arena.sandbox.open(2)
    return None


async def main(tier: str) -> None:
    os.environ[TOKEN] = SECRET
    config = SimpleNamespace(
        isolation=tier, sessions_max=16, execute_timeout_s=10, memory_mb=MEMORY_MB, output_chars=OUTPUT_CHARS
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "lake").mkdir()
        (folder / "lake" / "table.txt").write_text("rows")
        (folder / "gold.json").write_text(SECRET)
        sandbox = await Sandbox.start(config, folder / "lake", provider=f"{__spec__.name}:no_names", preload=())
        async with sandbox:
            arena = Arena(folder, sandbox)
            await arena.open_sessions()
            print(json.dumps(sandbox.protection.describe()), flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                attack_name, _, count = line.strip().partition(" ")
                print(json.dumps(await run_attack(arena, attack_name, int(count or 0))), flush=True)
            arena.victim.kill()
            arena.victim.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
