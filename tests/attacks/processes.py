"""Reaching other processes and the network, keeping rights, outliving the session."""

import os
import resource
import secrets
import socket
from pathlib import Path

from tests.attacks.arena import SYSCALL, attack, until


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
