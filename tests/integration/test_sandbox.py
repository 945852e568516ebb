"""Sessions: what agent code may rely on."""

import asyncio
import contextlib
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biomni_lib.config import SandboxConfig
from biomni_lib.errors import DataError, SandboxError
from biomni_lib.sandbox import Sandbox
from biomni_lib.sandbox.watchdog import tree_pids

OUTPUT_CHARS = 1000
CONFIG = SandboxConfig(output_chars=OUTPUT_CHARS, memory_mb=256, sessions_max=64)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a namespace is Linux's")
in_module_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox():
    async with await Sandbox.start(CONFIG, None) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def session(sandbox):
    async with await sandbox.open(seed=7) as opened:
        yield opened


@in_module_loop
async def test_names_last_between_blocks(session):
    await session.execute("import numpy as np\nx = np.arange(3)\ndef double(v):\n    return 2 * v")
    observation = await session.execute("double(x).sum()")
    assert (observation.text, observation.ok, observation.truncated) == ("np.int64(6)", True, False)


@in_module_loop
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1 + 1", "2"),
        ("x = 1", ""),
        ("None", ""),
        ("print('a'); 'b'", "a\n'b'"),
        ("", ""),
        ("# only a comment", ""),
        ("for i in range(2):\n    i", ""),
        ("import sys; print('e', file=sys.stderr)", "e"),
        ("'\\ud800'.encode('utf-8', 'surrogatepass')", "b'\\xed\\xa0\\x80'"),
        ("print('\\ud800')", "?"),
        ("import subprocess; print('p'); subprocess.run(['echo', 'child']).returncode", "p\nchild\n0"),
        ("import os; os.system('echo to-stderr >&2')", "to-stderr\n0"),
        ("import sys; sys.stdout.buffer.write(b'bytes'); None", "bytes"),
    ],
)
async def test_observation_is_what_was_printed_and_the_last_value(session, code, text):
    observation = await session.execute(code)
    assert (observation.text, observation.ok) == (text, True)


@in_module_loop
async def test_traceback_shows_the_users_frames_only(session):
    await session.execute("import pandas as pd\ndef look(frame):\n    return frame['missing']")
    observation = await session.execute("look(pd.DataFrame({'a': [1]}))")
    assert not observation.ok
    lines = observation.text.splitlines()
    assert [line.strip() for line in lines if "File" in line] == [
        'File "<block 2>", line 1, in <module>',
        'File "<block 1>", line 3, in look',
    ]
    assert lines[-1] == "KeyError: 'missing'" and "return frame['missing']" in observation.text


@in_module_loop
@pytest.mark.parametrize(
    ("code", "last_line"),
    [
        ("1 +", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys; sys.exit()", "SystemExit"),
        ("exit()", "SystemExit"),
        ("input()", "EOFError: EOF when reading a line"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): return f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E: <exception str() failed>"),
        ("'\ud800'", "surrogates not allowed"),
    ],
)
async def test_failures_are_observations_and_the_namespace_stays(session, code, last_line):
    await session.execute("kept = 41")
    observation = await session.execute(code)
    assert not observation.ok and last_line in observation.text.splitlines()[-1]
    assert (await session.execute("kept + 1")).text == "42"


@in_module_loop
async def test_printed_text_comes_before_the_traceback(session):
    observation = await session.execute("print('before')\n1 / 0")
    assert observation.text.startswith("before\nTraceback") and observation.text.endswith("division by zero")


@in_module_loop
async def test_a_traceback_names_each_line_of_user_code_once_and_nothing_else(session):
    observation = await session.execute("def f(x):\n    return max(1 / y for y in [x])\nprint([f(x) for x in (1, 0)])")
    kept = [
        "Traceback (most recent call last):",
        '  File "<block 1>", line 3, in <module>',
        "    print([f(x) for x in (1, 0)])",
        '  File "<block 1>", line 2, in f',
        "    return max(1 / y for y in [x])",
        "ZeroDivisionError: division by zero",
    ]
    assert observation.text.splitlines() == kept


@in_module_loop
@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)"])
async def test_a_block_that_takes_too_long_is_interrupted_and_names_are_kept(session, code):
    observation = await session.execute(f"kept = 1\n{code}", timeout_s=0.3)
    assert not observation.ok and "TimeLimit: the block was stopped after 0.3 s" in observation.text
    assert 0.3 <= observation.seconds < 1.2
    assert (await session.execute("kept")).text == "1"


@in_module_loop
async def test_an_interrupt_swallowed_once_comes_again(session):
    code = "import time\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\ntime.sleep(60)"
    observation = await session.execute(code, timeout_s=0.2)
    assert "TimeLimit" in observation.text
    assert (await session.execute("time.__name__")).text == "'time'"


SWALLOW = "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"
IN_C = "sum(iter(int, 1))"
IGNORE = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass"


@in_module_loop
@pytest.mark.parametrize("code", [SWALLOW, IN_C, IGNORE])
async def test_a_block_that_cannot_be_interrupted_is_killed_and_the_loss_stated(session, code):
    await session.execute("kept = 1")
    observation = await session.execute(code, timeout_s=0.1)
    assert not observation.ok and "was killed; the namespace is lost" in observation.text
    fresh = await session.execute("'kept' in globals()")
    assert (fresh.text, fresh.ok) == ("False", True)


@in_module_loop
@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.abort()",
        "import os; os.closerange(0, 100)",
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr([self])\nA()",
    ],
)
async def test_a_crash_of_the_interpreter_is_an_observation_and_the_next_block_runs(session, code):
    observation = await session.execute(code, timeout_s=3)
    assert not observation.ok
    assert (await session.execute("1 + 1")).text == "2"


@in_module_loop
@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.stdout.close(); sys.stderr.close(); sys.stdin.close()",
        "import sys; sys.stdout = sys.stderr = None",
        "import os; [os.close(n) for n in (0, 1, 2)]",
    ],
)
async def test_closing_the_standard_streams_hurts_one_block_only(session, code):
    await session.execute(f"kept = 5\n{code}")
    assert (await session.execute("print(kept)")).text == "5"
    assert (await session.execute("import os; os.system('echo again')")).text == "again\n0"


@in_module_loop
@pytest.mark.parametrize(
    "code", ["while True: print('spam' * 100)", "import os; os.system('yes')", "print('x' * 10**7)"]
)
async def test_endless_output_is_cut_and_the_cut_stated(session, code):
    observation = await session.execute(code, timeout_s=0.3)
    assert len(observation.text) <= OUTPUT_CHARS and "characters cut ...]" in observation.text and observation.truncated
    assert (await session.execute("1")).text == "1"


@in_module_loop
async def test_seeds_repeat_by_session(sandbox):
    code = "import random, numpy as np\n(random.random(), float(np.random.rand()))"
    texts = []
    for seed in (1, 1, 2, 2**100, -1):
        async with await sandbox.open(seed) as session:
            texts.append((await session.execute(code)).text)
    assert texts[0] == texts[1] and len(set(texts)) == 4


@in_module_loop
async def test_generators_made_without_a_seed_repeat_by_session_too(sandbox):
    code = "import numpy as np\n[float(np.random.default_rng().random()) for _ in range(2)]"
    texts = []
    for seed in (1, 1, 2):
        async with await sandbox.open(seed) as session:
            texts.append((await session.execute(code)).text)
    assert texts[0] == texts[1] != texts[2] and len(set(texts[0].strip("[]").split(", "))) == 2


@in_module_loop
async def test_libraries_are_loaded_before_the_first_block(sandbox, session):
    for module in ("numpy", "pandas", "scipy.stats", "scipy.sparse", "scipy.optimize"):
        assert (await session.execute(f"import sys; {module!r} in sys.modules")).text == "True"
    installed = importlib.util.find_spec("Bio") is not None
    assert (await session.execute("'Bio.SeqIO' in sys.modules")).text == str(installed)
    assert ("module Bio.SeqIO" in sandbox.protection.missing) is not installed


@in_module_loop
async def test_shell_blocks_share_the_sessions_files_and_tell_their_status(session):
    await session.execute("open('table', 'w').write('b\\na\\n')")
    observation = await session.execute("#!BASH\nsort table | tee sorted\necho done >&2")
    assert (observation.text, observation.ok) == ("a\nb\ndone", True)
    assert (await session.execute("open('sorted').read()")).text == "'a\\nb\\n'"
    failed = await session.execute("#!BASH\necho before\nexit 3")
    assert (failed.text, failed.ok) == ("before\nBlockFailed: bash ended with status 3", False)


def running_children(pid: int) -> list[int]:
    """Descendants of a process that have neither ended nor become zombies."""
    running = []
    for child in list(tree_pids(pid))[1:]:
        with contextlib.suppress(FileNotFoundError):
            if "Z (zombie)" not in Path(f"/proc/{child}/status").read_text():
                running.append(child)
    return running


@in_module_loop
async def test_a_shell_block_that_takes_too_long_ends_with_its_children_and_names_are_kept(session):
    await session.execute("kept = 1")
    observation = await session.execute("#!BASH\necho before; (sleep 60; echo late > late) & sleep 60", timeout_s=0.3)
    assert observation.text.startswith("before\nTimeLimit: the block was stopped after 0.3 s") and not observation.ok
    deadline = time.monotonic() + 10
    while living := running_children(session._worker.handle.host_pid):
        assert time.monotonic() < deadline, living
        await asyncio.sleep(0.02)
    assert (await session.execute("import os; kept, os.path.exists('late')")).text == "(1, False)"


@in_module_loop
async def test_r_blocks_run_where_r_is_installed_and_else_say_so(session):
    observation = await session.execute("#!R\ncat(sum(1:4))", timeout_s=30)
    if shutil.which("Rscript", path="/usr/local/bin:/usr/bin:/bin"):
        assert (observation.text, observation.ok) == ("10", True)
    else:
        text = "LanguageUnavailable: this machine has no Rscript; write the block in Python"
        assert (observation.text, observation.ok) == (text, False)


@in_module_loop
async def test_sixty_four_sessions_at_once_keep_to_themselves(sandbox):
    sessions = [await sandbox.open(seed) for seed in range(64)]
    await asyncio.gather(*(session.execute(f"mine = {seed}") for seed, session in enumerate(sessions)))
    observations = await asyncio.gather(*(session.execute("mine") for session in sessions))
    assert [observation.text for observation in observations] == [str(seed) for seed in range(64)]
    late = await sandbox.open(64)
    waiting = asyncio.create_task(late.execute("'place'"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await sessions[0].close()
    assert (await waiting).text == "'place'"
    await asyncio.gather(*(session.close() for session in [*sessions, late]))


@in_module_loop
async def test_an_observation_tells_queue_start_and_run_apart(sandbox):
    async with await sandbox.open(1) as session:
        first = await session.execute("import time; time.sleep(0.2)")
        second = await session.execute("1")
    assert first.start_s > 0 and first.seconds >= 0.2 and first.queue_s < first.seconds
    assert second.start_s == 0 and second.seconds < first.seconds


async def test_blocks_beyond_the_limit_of_their_class_queue_and_keep_their_time_limit():
    config = CONFIG.model_copy(update={"python_at_once": 1})
    async with await Sandbox.start(config, None, preload=()) as sandbox:
        sessions = [await sandbox.open(seed) for seed in range(4)]
        await asyncio.gather(*(session.execute("import time") for session in sessions))
        found = await asyncio.gather(*(session.execute("time.sleep(0.4)", timeout_s=1.0) for session in sessions))
    assert all(observation.ok for observation in found)
    waits = [observation.queue_s for observation in found]
    assert waits == sorted(waits) and waits[-1] >= 1.0  # longer than the limit, which counts the run alone


@linux_only
def test_more_sessions_than_descriptors_are_refused_with_the_setting():
    code = (
        "import asyncio, resource\n"
        "from biomni_lib.config import SandboxConfig\nfrom biomni_lib.sandbox import Sandbox\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 400))\n"
        "asyncio.run(Sandbox.start(SandboxConfig(sessions_max={}), None, preload=()))\n"
    )
    refused, taken = (
        subprocess.run([sys.executable, "-c", code.format(count)], capture_output=True, text=True)
        for count in (500, 64)
    )
    assert "sandbox.sessions_max = 500: needs 1256 open files, this machine allows 400" in refused.stderr
    assert taken.returncode == 0, taken.stderr


@in_module_loop
async def test_classes_defined_in_blocks_pickle_and_multiprocessing_works(session):
    await session.execute("import pickle, multiprocessing\nclass P:\n    pass\ndef square(x): return x * x")
    assert (await session.execute("type(pickle.loads(pickle.dumps(P()))) is P")).text == "True"
    observation = await session.execute("with multiprocessing.Pool(2) as pool: r = pool.map(square, [1, 2])\nr")
    assert observation.text == "[1, 4]"


@in_module_loop
async def test_misuse_raises(sandbox, session):
    running = asyncio.create_task(session.execute("import time; time.sleep(0.3)"))
    await asyncio.sleep(0.1)
    with pytest.raises(SandboxError, match="running a block"):
        await session.execute("1")
    await running
    for timeout_s in (0, -1, float("inf"), float("nan")):
        with pytest.raises(SandboxError, match="timeout_s"):
            await session.execute("1", timeout_s)
    closed = await sandbox.open(1)
    await closed.close()
    await closed.close()
    with pytest.raises(SandboxError, match="closed"):
        await closed.execute("1")


@in_module_loop
async def test_a_cancelled_block_leaves_a_usable_session(session):
    for wait_s in (0.0, 0.002, 0.2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.execute("import time; time.sleep(60)"), wait_s)
        assert (await session.execute("1 + 1")).text == "2"


def provided_names(lake_dir):
    """A provider of names, as the zygote finds it."""
    return {"answer": lambda: 42, "folder": lake_dir}


def failing_names(lake_dir):
    """A provider whose data are missing."""
    raise DataError("no lake there")


@in_module_loop
async def test_names_come_from_the_provider_and_the_lake_is_readable(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "table.txt").write_text("rows")
    sandbox = await Sandbox.start(CONFIG, tmp_path, provider=f"{__name__}:provided_names", preload=())
    async with sandbox, await sandbox.open(0) as session:
        assert (await session.execute("answer(), (folder / 'table.txt').read_text()")).text == "(42, 'rows')"


@in_module_loop
async def test_a_providers_own_error_is_raised_at_start(tmp_path):
    with pytest.raises(DataError, match="no lake there"):
        await Sandbox.start(CONFIG, tmp_path, provider=f"{__name__}:failing_names", preload=())
    with pytest.raises(SandboxError, match="nowhere"):
        await Sandbox.start(CONFIG, tmp_path, provider="nowhere:names", preload=())


FRAGMENTS = st.sampled_from(
    ["#!BASH", "#!R", "echo $((1/0))",
     "x = 1", "def f(", "  pass", "while x:", "f()", "del x", "print(x)", "raise", "import os", "}", '"""', "await x",
     "lambda: (yield)", "return", "\x00", "\ud800", "x" * 5000, "(" * 300, "x\\", "[0] * 10**5", "break"]
)  # fmt: skip


def test_any_text_as_code_gives_an_observation_within_the_limit():
    with asyncio.Runner() as runner:
        sandbox = runner.run(Sandbox.start(CONFIG, None, preload=()))
        session = runner.run(sandbox.open(0))

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.one_of(st.text(alphabet=st.characters(codec=None)), st.lists(FRAGMENTS).map("\n".join)))
        def check(code):
            started = time.monotonic()
            observation = runner.run(session.execute(code, timeout_s=0.2))
            assert isinstance(observation.text, str) and len(observation.text) <= OUTPUT_CHARS
            assert time.monotonic() - started < 10
            observation.text.encode("utf-8")

        try:
            check()
        finally:
            runner.run(sandbox.close())


@in_module_loop
async def test_temporary_files_have_a_place(session):
    await session.execute("import tempfile, os\nwith tempfile.NamedTemporaryFile('w', delete=False) as f: f.write('t')")
    assert (await session.execute("open(f.name).read(), os.getcwd()")).text == "('t', '/sandbox')"


async def test_a_session_asks_the_genome_beside_the_lake(public_lake_dir: Path) -> None:
    started = await Sandbox.start(SandboxConfig(), public_lake_dir, preload=())
    async with started as sandbox, await sandbox.open(1) as session:
        assert (await session.execute('gene_info("TP53")["start"]')).text == "7661779"
        assert (await session.execute('restriction_sites("AAGAATTCTT", "EcoRI")')).text == "[4]"
