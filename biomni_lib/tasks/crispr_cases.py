"""The written cases of crispr_delivery: six methods of delivery, and for each case the one that its facts call for.

Read from `data/crispr_delivery.toml`, written for this project by hand (see the README beside it), and checked as they
are read: a case never names a method, and no pair of cells and goal lies in two splits.
Not covered: methods outside the six (adenovirus, virus-like particles, transposons), plants, bacteria; and no second
expert has reviewed the cases.
"""

import re
import tomllib
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from biomni_lib.errors import DataError

CASES_FILE = Path(__file__).parent / "data" / "crispr_delivery.toml"


class Method(NamedTuple):
    """A method of delivery: `option` is the text shown, `names` a pattern of the words that would give it away."""

    option: str
    names: str


METHODS = {
    "plasmid": Method("transfection of plasmid DNA with a lipid or polymer reagent", r"plasmid|transfect|lipofect"),
    "lentivirus": Method("transduction with an integrating lentiviral vector", r"lentivir|transduc"),
    "electroporation": Method(
        "electroporation of editor RNP or mRNA with guide RNA", r"electropor|nucleofect|\bRNPs?\b|ribonucleoprotein"
    ),
    "microinjection": Method("microinjection of editor RNP or mRNA with guide RNA", r"inject"),
    "lnp": Method("lipid nanoparticles (LNP) with editor mRNA and guide RNA", r"nanoparticle|\bLNPs?\b|\blipids?\b"),
    "aav": Method(
        "adeno-associated viral (AAV) vector that encodes editor, guide or donor", r"\bAAV|adeno-?associated"
    ),
}


def _flat(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text; write some")
    return " ".join(value.split())


Text = Annotated[str, BeforeValidator(_flat)]
"""Text in which a line break is a blank."""
MethodName = Literal["plasmid", "lentivirus", "electroporation", "microinjection", "lnp", "aav"]
Goal = Literal[
    "guide testing",
    "knock-out",
    "knock-in",
    "excision",
    "base or prime editing",
    "expression control",
    "imaging",
    "screen",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reference(_Record):
    """A publication that was looked up: as it was found, where, when, and what the passage that was read says."""

    title: Text
    identifier: Text
    found_at: str = Field(pattern=r"^https?://\S+$")
    found_on: date
    says: Text


class Case(_Record):
    """A wish to deliver a CRISPR system.

    Attributes:
        cells, goal: the situation, by which the splits are divided. text: the facts, shown to the agent.
        right: the method that fits best. second: one that would also do, by the facts given.
        reason: why, in two sentences; never shown to the agent. reference: only if one was looked up.
    """

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    split: Literal["train", "dev", "heldout"]
    cells: Text
    goal: Goal
    text: Text
    right: MethodName
    second: MethodName | None = None
    reason: Text
    reference: Reference | None = None

    @model_validator(mode="after")
    def _gives_nothing_away(self) -> Self:
        if self.second == self.right:
            raise ValueError(f"second is the right method {self.right!r} itself; leave it out")
        for name, method in METHODS.items():
            if found := re.search(method.names, self.text, re.IGNORECASE):
                raise ValueError(f"the text says {found.group()!r}, which names the method {name}; describe it instead")
        return self


def load_cases(path: Path = CASES_FILE) -> list[Case]:
    """All cases, in the file's order.

    Raises: DataError that names the case, the field and the remedy when the file cannot be read or breaks a rule.
    """
    try:
        with path.open("rb") as file:
            rows = tomllib.load(file).get("case", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it from the repository") from None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} has no [[case]]; restore it from the repository")
    cases = [_case(row, f"{path.name}, case {number}") for number, row in enumerate(rows, 1)]
    _check_apart(cases, path.name)
    return cases


def _case(row: Any, where: str) -> Case:
    try:
        return Case.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = row.get("id", "without id") if isinstance(row, dict) else "no table"
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise DataError(f"{where} ({name}): {field}: {first['msg']}") from None


def _check_apart(cases: Iterable[Case], where: str) -> None:
    """Ids are unique, and a situation lies in one split."""
    ids: set[str] = set()
    split_of: dict[tuple[str, str], str] = {}
    for case in cases:
        if case.id in ids:
            raise DataError(f"{where}: id {case.id} comes twice; give one of them another")
        ids.add(case.id)
        split = split_of.setdefault((case.cells, case.goal), case.split)
        if split != case.split:
            raise DataError(
                f"{where} ({case.id}): {case.goal} in {case.cells} is in {split} and in {case.split}; keep it in one"
            )
