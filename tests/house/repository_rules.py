"""What no tracked file may say: a path of one machine, or the host of a package registry.

`python -m tests.house.repository_rules` prints every line that does.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "a path of one machine": re.compile(r"/(?:home|Users)/\w+/|(?<![\w.])/(?:work|root)/\w+"),
    "the host of a package registry": re.compile(r"\b(?:pypi|pythonhosted|anaconda|npmjs|debian)\.(?:org|com)\b"),
}


def check(name: str, text: str) -> Iterator[str]:
    """One line for every forbidden thing in a file's text."""
    for number, line in enumerate(text.splitlines(), 1):
        for what, pattern in FORBIDDEN.items():
            found = pattern.search(line)
            if found:
                yield f"{name}:{number}: {what}: {found.group()}"


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Name and text of every tracked text file."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, done.stdout.split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content[:8000]:
            yield name, content.decode(errors="replace")


def main() -> int:
    faults = [fault for name, text in tracked_texts() for fault in check(name, text)]
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
