"""What the paper's source may not hold: a result typed by hand, or a work that was not looked up.

`python -m tests.house.paper_rules` prints every line that does. A number, in digits or in words, is allowed in the text
only as a formula's or a definition's, in `const[...]` or `const(...)`; every entry of the bibliography says, in its
field `lookedup`, where its title, authors and identifier were read.
"""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "paper" / "paper.typ"
REFERENCES = ROOT / "paper" / "references.bib"

NOT_TEXT = (
    re.compile(r"(?m)(?:^|(?<=\s))//.*$"),  # comments
    re.compile(r"const(?:\[[^\[\]]*\]|\([^()]*\))"),
    re.compile(r"@[\w-]+|<[a-z][\w-]*>"),  # references, labels
    re.compile(r"\b[A-Za-z_][\w-]*\d[\w-]*"),  # names: R0, r0_8b; a number begins with a digit
    re.compile(r"\b\d+fr\b"),  # widths of columns
    re.compile(r"(?<==> if x )(?:==|<) \d\b|(?<=\.len\(\) )(?:==|>) \d\b|(?<=#let )\w+ = [\w.]+ > \d\b"),  # code
)
NUMBER = re.compile(
    r"\d[\d.,]*|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|sixty|seventy"
    r"|eighty|ninety|hundred|thousand|million|half|quarter|twice|thrice)\b",
    re.IGNORECASE,
)
ENTRY = re.compile(r"(?ms)^@\w+\{(?P<key>[\w-]+),(?P<fields>.*?)^\}")
FIELDS = ("title", "year", "lookedup")
IDENTIFIERS = ("url", "doi")


def typed_numbers(text: str) -> Iterator[str]:
    """One line for every number in a Typst source that is neither marked as a constant nor code."""
    for pattern in NOT_TEXT:
        text = pattern.sub(lambda found: " " * len(found.group()), text)
    for number, line in enumerate(text.splitlines(), 1):
        for found in NUMBER.finditer(line):
            yield f"{number}: the number {found.group()!r} is typed by hand; read it from numbers.json, or mark it"


def unread_works(bibliography: str, source: str) -> Iterator[str]:
    """One line for every work that was not looked up, has no identifier, or is cited and not there (or the reverse)."""
    entries = {match["key"]: match["fields"] for match in ENTRY.finditer(bibliography)}
    for key, fields in entries.items():
        for field in FIELDS:
            if not re.search(rf"(?m)^\s*{field} = \{{.*[\w/].*\}},$", fields):
                yield f"{key}: no field {field}"
        if not any(re.search(rf"(?m)^\s*{field} = ", fields) for field in IDENTIFIERS):
            yield f"{key}: no {' or '.join(IDENTIFIERS)}"
    cited = {
        key for key in re.findall(r"@([a-z][\w-]*)", source) if not key.startswith(("tab-", "fig-", "sec-", "eq-"))
    }
    yield from (f"{key}: cited, and not in the bibliography" for key in sorted(cited - set(entries)))
    yield from (f"{key}: in the bibliography, and never cited" for key in sorted(set(entries) - cited))


def main() -> int:
    source = SOURCE.read_text(encoding="utf-8")
    faults = [f"{SOURCE.name}:{fault}" for fault in typed_numbers(source)]
    faults += [f"{REFERENCES.name}: {fault}" for fault in unread_works(REFERENCES.read_text(encoding="utf-8"), source)]
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
