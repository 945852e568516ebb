"""Other ways to run a block of Python, for side-by-side numbers: what they cost, not what they protect from.

Each `..._start_seconds` ends when the libraries of `READY` are imported and usable there.
"""

import contextlib
import io
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any, cast

READY = "import numpy, pandas"
"""What a session has at hand without import cost, and every peer must have imported before its start counts."""
KERNEL_WAIT_S = 120
_BUBBLEWRAP = (
    *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
    *("--unshare-all", "--die-with-parent", "--new-session"),
)
_FORKER = f"""
{READY}
import gc, os, sys, time
gc.collect(); gc.freeze()
for _ in sys.stdin:
    read, write = os.pipe()
    began = time.perf_counter()
    if os.fork() == 0:
        os.write(write, b"1")
        os._exit(0)
    os.read(read, 1)
    print(time.perf_counter() - began, flush=True)
    os.wait(); os.close(read); os.close(write)
"""


class Kernel:
    """A Jupyter kernel of this Python, through jupyter_client."""

    def __init__(self) -> None:
        from jupyter_client.manager import KernelManager

        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._client: Any = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=KERNEL_WAIT_S)

    def execute(self, code: str) -> None:
        """Run a block and wait for its last message."""
        reply = self._client.execute_interactive(code, timeout=KERNEL_WAIT_S, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok", reply["content"]

    def close(self) -> None:
        """Kill the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def kernel_start_seconds() -> float:
    """From nothing to a Jupyter kernel that has imported the libraries."""
    began = time.perf_counter()
    with contextlib.closing(Kernel()) as kernel:
        kernel.execute(READY)
        return time.perf_counter() - began


class Repl:
    """As Biomni runs code: `exec` in one dictionary of its own process, in a thread, with stdout caught.

    Nothing is shut in, and a block that hangs keeps its thread.
    """

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}

    def execute(self, code: str) -> str:
        """Run a block; what it printed."""
        answers: queue.Queue[str] = queue.Queue()
        thread = threading.Thread(target=self._run, args=(code, answers), daemon=True)
        thread.start()
        thread.join()
        return answers.get_nowait()

    def _run(self, code: str, answers: "queue.Queue[str]") -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, self._names)
        answers.put(out.getvalue())


def repl_start_seconds() -> float:
    """A new dictionary in this process, which has the libraries loaded."""
    began = time.perf_counter()
    Repl().execute(READY)
    return time.perf_counter() - began


def interpreter_start_seconds(*prefix: str) -> float:
    """From nothing to a fresh interpreter that has imported the libraries; `prefix` is the command that shuts it in.

    Raises: CalledProcessError when the command fails.
    """
    began = time.perf_counter()
    code = f"{READY}\nprint(1, flush=True)\nimport sys; sys.stdin.read()"
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        answer = cast(IO[bytes], process.stdout).readline()
        seconds = time.perf_counter() - began
    if not answer:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return seconds


def bubblewrap_start_seconds(program: str) -> float:
    """A fresh interpreter in namespaces of its own; `program` is bwrap's path."""
    return interpreter_start_seconds(program, *_BUBBLEWRAP)


class Forker:
    """A plain process with the libraries loaded that forks on request: the floor under any start by fork."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", _FORKER], stdin=pipe, stdout=pipe, text=True)

    def start_seconds(self) -> float:
        """From fork to the child's first byte, as that process measures it."""
        requests, answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        requests.write("\n")
        requests.flush()
        return float(answers.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextlib.contextmanager
def forker() -> Iterator[Forker]:
    """A `Forker` for the block."""
    with contextlib.closing(Forker()) as made:
        made.start_seconds()  # it is loaded
        yield made
