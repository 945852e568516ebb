"""One session's Python: a namespace that lasts, blocks of code in, text out.

Runs inside the session's process. An observation is what was printed, the last expression's value, and a traceback cut
to the user's own frames. When the time is up the block is interrupted and its names are kept.
"""

import ast
import fcntl
import io
import linecache
import os
import random
import signal
import sys
import tempfile
import traceback
import types
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from biomni_lib.sandbox.languages import BlockFailed, LanguageUnavailable, run_foreign, split_language
from biomni_lib.sandbox.output import BoundedOutput, collect_raw

_BLOCK_NAME = "<block {}>"
_BLOCK_PREFIX = "<block "
_FRAMES_MAX = 200
_REPEAT_S = 0.25
"""An interrupt that the code swallowed comes again after this time."""


class TimeLimit(KeyboardInterrupt):
    """The block ran out of time. Not an `Exception`, so that `except Exception` does not catch it."""


@dataclass(frozen=True)
class Outcome:
    """What one block left behind."""

    text: str
    ok: bool
    truncated: bool


class Interpreter:
    """A namespace and the way to run blocks in it.

    Args:
        names: what user code finds defined.
        seed: of Python's and NumPy's global generators.
        output_chars: characters of one block's text.
    """

    def __init__(self, names: Mapping[str, Any], seed: int, output_chars: int) -> None:
        self._module = types.ModuleType("__main__")
        self._module.__dict__.update(names)
        sys.modules["__main__"] = self._module
        self._output = BoundedOutput(output_chars)
        self._output_chars = output_chars
        self._blocks = 0
        self._timeout_s = 0.0
        with tempfile.TemporaryFile() as file:
            self._raw = os.dup(file.fileno())
        fcntl.fcntl(self._raw, fcntl.F_SETFL, os.O_APPEND)
        _seed_generators(seed)

    def run(self, code: str, timeout_s: float) -> Outcome:
        """Run one block; whatever it does short of killing the process is in the outcome."""
        self._blocks += 1
        self._timeout_s = timeout_s
        self._prepare_streams()
        failure = ""
        try:
            self._run_guarded(code, _BLOCK_NAME.format(self._blocks))
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            failure = _describe(error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        collect_raw(self._raw, self._output, self._output_chars)
        self._output.write(failure)
        text, truncated = self._output.text().removesuffix("\n"), self._output.truncated
        return Outcome(text, not failure, truncated)

    def _prepare_streams(self) -> None:
        self._output.clear()
        sys.stdout = sys.stderr = self._output  # type: ignore[assignment]
        sys.stdin = io.StringIO()
        os.dup2(self._raw, 1)
        os.dup2(self._raw, 2)

    def _run_guarded(self, code: str, name: str) -> None:
        """Everything that an interrupt may stop; `_on_alarm` raises only below this frame."""
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s, _REPEAT_S)
        marker, rest = split_language(code)
        if marker:
            run_foreign(marker, rest)
            return
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        names = self._module.__dict__
        exec(compile(tree, name, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)
            if value is not None:
                names["_"] = value
                collect_raw(self._raw, self._output, self._output_chars)
                self._output.write(f"{value!r}\n")

    def _on_alarm(self, _signal: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is Interpreter._run_guarded.__code__:
                raise TimeLimit(f"the block was stopped after {self._timeout_s:g} s; names defined so far are kept")
            frame = frame.f_back


def _seed_generators(seed: int) -> None:
    """Seed Python's global generator and, where NumPy is loaded, its own and those that are made without a seed."""
    random.seed(seed)
    if "numpy" in sys.modules:
        numpy_random = sys.modules["numpy"].random
        numpy_random.seed(seed % (1 << 32))
        numpy_random.bit_generator.randbits = random.Random(seed).getrandbits


def _describe(error: BaseException) -> str:
    """The error's traceback, cut to the lines of user code, or its bare name when even that fails.

    A line is shown once, however many comprehensions it holds, and without marks below it: the same on every Python.
    """
    if isinstance(error, BlockFailed | LanguageUnavailable):
        return f"{type(error).__name__}: {error}\n"
    try:
        trace = error.__traceback__
        summary = traceback.TracebackException(type(error), error, trace, limit=-_FRAMES_MAX, compact=True)
        lines_of_code = {
            (frame.filename, frame.lineno): (frame.filename, frame.lineno or 0, frame.name, frame.line)
            for frame in reversed(summary.stack)
            if frame.filename.startswith(_BLOCK_PREFIX)
        }
        frames = list(lines_of_code.values())[::-1]
        summary.stack = traceback.StackSummary.from_list(frames)
        lines = summary.format(chain=False) if frames else summary.format_exception_only()
        return "".join(lines).replace("biomni_lib.sandbox.interpreter.", "")
    except BaseException:  # noqa: BLE001 - the error's own methods are user code
        return f"{type(error).__name__}\n"
