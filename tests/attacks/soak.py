"""Many sessions with random faults: nothing of them may be left."""

import asyncio
import contextlib
import gc
import os
import random
from pathlib import Path

from biomni_lib.sandbox.watchdog import tree_pids
from tests.attacks.arena import Arena, until

AT_ONCE = 8
WARM_UP = 64
GROWTH_MB = 8
FAULTS = {
    "nothing": "kept = sum(range(1000)); kept",
    "files": "import os\nfor n in range(20): os.makedirs(f'{n}/{n}'); open(f'{n}/f', 'wb').write(b'x' * 5000)",
    "error": "1 / 0",
    "exit": "import os; os._exit(3)",
    "abort": "import os; os.abort()",
    "crash": "import ctypes; ctypes.string_at(0)",
    "endless": "while True: pass",
    "asleep": "import time; time.sleep(60)",
    "stubborn": "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass",
    "children": "import os, time\nfor _ in range(5): os.fork() or time.sleep(60)",
    "daemon": "import os, time\nif os.fork() == 0:\n    if os.fork() == 0: time.sleep(60)\n    os._exit(0)",
    "shell": "#!BASH\nsleep 60 & sleep 60 & echo x > left; head -c 100000 /dev/zero",
    "flood": "print('x' * 10**6)",
    "descriptors": "files = [open('/dev/null') for _ in range(50)]",
    "deaf": "import os; os.closerange(0, 99)",
}


def resident_mb(pid: int) -> float:
    """Private and shared memory of a process that is its own."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


class Census:
    """What a sandbox holds of the machine, taken when all but the arena's own sessions have ended."""

    def __init__(self, arena: Arena) -> None:
        launcher = arena.sandbox._zygote._process.pid
        groups = arena.sandbox._groups
        self.processes = len(list(tree_pids(launcher)))
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.of_zygote = len(os.listdir(f"/proc/{_zygote(arena)}/fd"))
        self.mounts = sum(len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) for pid in _own(arena))
        self.scratch = len(list(arena.sandbox._zygote.scratch_dir.iterdir()))
        self.groups = len(list(groups.folder.iterdir())) if groups else 0

    def within(self, earlier: "Census") -> bool:
        """Whether nothing is more than it was."""
        return all(value <= getattr(earlier, name) for name, value in vars(self).items())


def _zygote(arena: Arena) -> int:
    launcher = arena.sandbox._zygote._process.pid
    return int(Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()[0])


def _own(arena: Arena) -> list[int]:
    return [os.getpid(), _zygote(arena)]


async def _settled(arena: Arena, earlier: Census) -> None:
    gc.collect()
    try:
        await until(lambda: Census(arena).within(earlier))
    except AssertionError:
        raise AssertionError(f"left behind: {vars(Census(arena))}, before {vars(earlier)}") from None


async def open_and_drop(arena: Arena, count: int) -> None:
    """Sessions that are opened, used and dropped, some of them while they start."""
    before = Census(arena)
    for number in range(count):
        session = await arena.sandbox.open(number)
        if number % 3:
            await session.execute("open('left', 'w').write('x')")
        else:
            await _cancel_after(session.execute("import time; time.sleep(60)"), 0.001 * (number % 7))
        await session.close()
    await _settled(arena, before)


async def _cancel_after(block, wait_s: float) -> None:
    task = asyncio.ensure_future(block)
    await asyncio.sleep(wait_s)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def soak(arena: Arena, count: int) -> None:
    """Random faults in sessions of which some run at once, some are cancelled; memory must stay flat."""
    before = Census(arena)
    await _run_faults(arena, WARM_UP, seed=0)
    await _settled(arena, before)
    memory = [resident_mb(pid) for pid in _own(arena)]
    await _run_faults(arena, count - WARM_UP, seed=1)
    await _settled(arena, before)
    grown = [resident_mb(pid) - was for pid, was in zip(_own(arena), memory, strict=True)]
    assert max(grown) < GROWTH_MB, f"parent and zygote grew by {grown} MB over {count} sessions"


async def _run_faults(arena: Arena, count: int, seed: int) -> None:
    generator = random.Random(seed)
    plans = [(generator.choices(list(FAULTS.values()), k=2), generator.random()) for _ in range(count)]

    async def work() -> None:
        while plans:
            codes, chance = plans.pop()
            async with await arena.sandbox.open(len(plans)) as session:
                for code in codes:
                    block = session.execute(code, 0.05)
                    await (_cancel_after(block, chance / 50) if chance < 0.2 else block)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
