"""Reading what is secret and writing what is shared: the host's files, other sessions, the lake, the libraries."""

import hashlib
import os
from pathlib import Path

import biomni_lib
from tests.attacks.arena import EPERM, SECRET, SYSCALL, TOKEN, attack


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
