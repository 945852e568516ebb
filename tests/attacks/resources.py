"""Using up what is shared: memory, processes, processor, disk, descriptors."""

from pathlib import Path

from biomni_lib.sandbox import Observation
from biomni_lib.sandbox.watchdog import tree_pids
from tests.attacks.arena import MEMORY_MB, Arena, attack, until


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


@attack
async def exhaust_descriptors(arena):
    observation = await arena.run("files = []\nwhile True: files.append(open('/dev/null'))")
    assert "Too many open files" in observation.text
    assert (await arena.run("del files; 1")).text == "1"


@attack
async def exhaust_threads(arena):
    start = "threading.Thread(target=time.sleep, args=(3,), daemon=True).start()"
    code = f"import threading, time\nfor _ in range(999): {start}"
    observation = await arena.run(code)
    assert "can't start new thread" in observation.text or "32 processes and was killed" in observation.text


@attack
async def burn_the_processor(arena):
    code = "import os\nfor _ in range(3):\n    if os.fork() == 0:\n        while True: pass"
    async with await arena.sandbox.open(5) as opened:
        await opened.execute(code)
        burning = list(tree_pids(opened._worker.handle.host_pid))
        assert len(burning) == 4
        assert (await arena.neighbour.execute("alive")).text == "'alive'"
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in burning))
