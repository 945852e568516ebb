"""The rules of the notebooks: they narrate and the library computes.

`python -m tests.house.notebook_rules [NOTEBOOK ...]` prints what breaks a rule, one line each; without names it reads
every notebook below notebooks/.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biomni_lib.provenance import notebook_source_sha256

CELL_LINES_MAX = 15
CODE_CELLS_MAX = 25
COMPARED_CELLS_MIN = 5
PRESET = "cpu"
IN_LIBRARY = {
    ast.For: "a loop",
    ast.AsyncFor: "a loop",
    ast.While: "a loop",
    ast.FunctionDef: "a function",
    ast.AsyncFunctionDef: "a function",
    ast.ClassDef: "a class",
}
ABSOLUTE_PATH = re.compile(r"^(/[A-Za-z]|~/|[A-Za-z]:[\\/])")
MACHINE_PATH = re.compile(r"/(?:home|root|Users|tmp|work)/\w+")


def check(notebook: dict[str, Any]) -> Iterator[str]:
    """What breaks a rule in a notebook (nbformat 4, as a dictionary)."""
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    if not cells or cells[0]["cell_type"] != "markdown":
        yield "the first cell is not markdown that says what this is"
    if len(code) > CODE_CELLS_MAX:
        yield f"{len(code)} code cells, at most {CODE_CELLS_MAX}"
    tagged = sum("parameters" in cell["metadata"].get("tags", []) for cell in code)
    if tagged != 1:
        yield f"{tagged} cells are tagged `parameters`, one must be"
    for number, cell in enumerate(code, 1):
        yield from (f"code cell {number}: {fault}" for fault in _source_faults("".join(cell["source"])))
        yield from (f"code cell {number}: {fault}" for fault in _output_faults(cell, number))
    yield from _provenance_faults(notebook, code)


def _source_faults(source: str) -> Iterator[str]:
    lines = source.splitlines()
    if len(lines) > CELL_LINES_MAX:
        yield f"{len(lines)} lines, at most {CELL_LINES_MAX}"
    if any(line.lstrip().startswith(("%", "!")) for line in lines):
        yield "a magic or a shell command"
        return
    try:
        # notebooks await at the top level
        tree = compile(source, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        yield f"not Python: {error.msg}"
        return
    for node in ast.walk(tree):
        if type(node) in IN_LIBRARY:
            yield f"{IN_LIBRARY[type(node)]} (line {node.lineno}) belongs in biomni_lib"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ABSOLUTE_PATH.match(node.value):
            yield f"an absolute path: {node.value!r}"


def _output_faults(cell: dict[str, Any], number: int) -> Iterator[str]:
    if cell["execution_count"] != number:
        yield f"executed as {cell['execution_count']}; all cells must be executed once, from first to last"
    for output in cell["outputs"]:
        if output["output_type"] == "error":
            yield f"stored an error: {output['ename']}"
        found = MACHINE_PATH.search(json.dumps(output))
        if found:
            yield f"the output names a path of one machine: {found.group()}"


def _provenance_faults(notebook: dict[str, Any], code: list[dict[str, Any]]) -> Iterator[str]:
    compared = sum(_is_compared(cell) for cell in code)
    if compared < COMPARED_CELLS_MIN:
        yield f"{compared} cells have text output that a re-run is compared with, at least {COMPARED_CELLS_MIN}"
    record = notebook["metadata"].get("biomni", {})
    if record.get("preset") != PRESET:
        yield f"stored outputs are of preset {record.get('preset')!r}, must be {PRESET!r}"
    if record.get("source_sha256") != notebook_source_sha256(notebook):
        yield "stored outputs are not of this source; run `make reproduce` and commit the notebooks it leaves"


def _is_compared(cell: dict[str, Any]) -> bool:
    """True when nbval compares the cell: text output, and no tag or comment that tells it not to."""
    ignored = "nbval-ignore-output" in cell["metadata"].get("tags", []) or "NBVAL_IGNORE_OUTPUT" in "".join(
        cell["source"]
    )
    texts = (o.get("name") == "stdout" or "text/plain" in o.get("data", {}) for o in cell["outputs"])
    return not ignored and any(texts)


def main(names: list[str]) -> int:
    paths = [Path(name) for name in names] or sorted(Path("notebooks").glob("*.ipynb"))
    faults = [f"{path}: {fault}" for path in paths for fault in check(json.loads(path.read_text(encoding="utf-8")))]
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
