"""The place that attacks are run in."""

import asyncio
import contextlib
import errno
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

from biomni_lib.sandbox import Observation, Sandbox

OUTPUT_CHARS, MEMORY_MB = 2000, 256
SECRET = "gold-4711"
TOKEN = "SANDBOX_TEST_TOKEN"
NO_NAMES = "tests.attacks:no_names"
REFUSED = ("FileNotFoundError", "PermissionError", "ModuleNotFoundError", "OSError: [Errno 18] Invalid cross-device",
           "OSError: [Errno 30] Read-only file system")  # fmt: skip
EPERM, ENOSYS = errno.EPERM, errno.ENOSYS
SYSCALL = dedent("""
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    def errno(r): return ctypes.get_errno() if r == -1 else r
""")


def config(tier: str) -> SimpleNamespace:
    """Sandbox settings; a stand-in for `SandboxConfig`, which knows `strict` and `process` and needs pydantic."""
    return SimpleNamespace(
        isolation=tier,
        sessions_max=16,
        python_at_once=16,
        shell_at_once=16,
        execute_timeout_s=10,
        memory_mb=MEMORY_MB,
        output_chars=OUTPUT_CHARS,
        tool_cache=False,
    )


class Arena:
    """A sandbox with what is worth attacking around it: a gold file, a lake, a victim process, a neighbour."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder, self.sandbox = folder, sandbox
        self.lake, self.gold = folder / "lake", folder / "gold.json"
        self.tier = sandbox.protection.tier
        self.victim = subprocess.Popen(["sleep", "3600"])

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, tier: str) -> AsyncIterator["Arena"]:
        """Build everything and start a sandbox of one tier in it."""
        os.environ[TOKEN] = SECRET
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            (folder / "lake").mkdir()
            (folder / "lake" / "table.txt").write_text("rows")
            (folder / "gold.json").write_text(SECRET)
            async with await Sandbox.start(config(tier), folder / "lake", provider=NO_NAMES, preload=()) as sandbox:
                arena = cls(folder, sandbox)
                try:
                    await arena.open_sessions()
                    yield arena
                finally:
                    arena.victim.kill()
                    arena.victim.wait()

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


async def until(holds: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.05)
