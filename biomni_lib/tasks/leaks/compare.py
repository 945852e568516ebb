"""What splits and benchmarks have in common, sort by sort: counts, and the first thing that leaks.

`train` and `dev` are what a model is trained and tuned on; neither may share anything with what it is judged on, nor
with each other. The own `heldout` beside a benchmark is not compared: a model is judged on both.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from biomni_lib.lake import Lake
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.leaks.identifiers import SORTS, Reader, Sort, own_text
from biomni_lib.tasks.leaks.texts import near_duplicates, normalised, shingles, without_form

OWN_PAIRS = (("train", "dev"), ("train", "heldout"), ("dev", "heldout"))
BENCHMARKS = ("eval1", "lab-bench")
BENCHMARK_PAIRS = tuple((own, benchmark) for benchmark in BENCHMARKS for own in ("train", "dev"))
PROMPT, NEAR_TEXT = "prompt", "near-duplicate text"

LEAK, APART, COUNTED, NOT_AUDITED = "LEAK", "apart", "counted", "NOT AUDITED"

Asked = Mapping[str, Mapping[str, Sequence[Instance]]]
"""Split or benchmark to task to its instances."""


@dataclass(frozen=True)
class Finding:
    """What one task of a split shares with another split or a benchmark.

    Attributes:
        task, sort, one, other: what was compared. of_one, of_other: different identifiers, or texts, on either side.
        shared: how many are in both; None where the other side is not at hand.
        status: `LEAK` (shared and must not be), `apart`, `counted` (may be shared), `NOT AUDITED`.
        example: the first shared one, by name, with an instance of either side.
    """

    task: str
    sort: str
    one: str
    other: str
    of_one: int
    of_other: int | None
    shared: int | None
    status: str
    example: str = ""


def compare(asked: Asked, lake: Lake) -> list[Finding]:
    """Compare every task of the training and development splits with what they must not share.

    Args:
        asked: instances by split (`train`, `dev`, `heldout`) or benchmark, and task. A benchmark that is left out is
            not at hand: every comparison with it is `NOT AUDITED`.
        lake: tells which genes and diseases belong together.
    Returns: by task, pair and sort.
    """
    sets = _Sets(asked, lake)
    tasks = list(dict.fromkeys(task for split in ("train", "dev", "heldout") for task in asked.get(split, {})))
    return [
        finding
        for task in tasks
        for one, other in (*OWN_PAIRS, *BENCHMARK_PAIRS)
        if asked.get(one, {}).get(task) and _concerns(task, other)
        for finding in _of_pair(sets, task, one, other)
    ]


def overlapping(instances: Sequence[Instance], benchmarks: Mapping[str, Sequence[Instance]], lake: Lake) -> set[str]:
    """Ids of the instances that a training split must do without where benchmarks are to be run.

    Args:
        instances: of training or development. benchmarks: instances by name.
    """
    asked = {name: _by_task(some) for name, some in benchmarks.items()} | {"train": _by_task(instances)}
    sets, shared = _Sets(asked, lake), set[str]()
    for task, own in asked["train"].items():
        for name in benchmarks:
            for sort in SORTS[task]:
                if sort.asked and sort.apart:
                    theirs = sets.of_all(sort.name, name)
                    shared |= {one.id for one in own if not theirs.keys().isdisjoint(sort.asked(one, lake))}
            shared |= {
                one.id for one, _ in (*sets.equal_prompts(task, "train", name), *sets.alike(task, "train", name))
            }
    return shared


def _concerns(task: str, other: str) -> bool:
    """LAB-Bench has two of the tasks; what its answers name may be in the others, which share their sorts."""
    return other != "lab-bench" or any(
        sort.asked and sort.name in {own.name for twin in ("lab_bench_dbqa", "lab_bench_seqqa") for own in SORTS[twin]}
        for sort in SORTS[task]
    )


def _of_pair(sets: "_Sets", task: str, one: str, other: str) -> Iterator[Finding]:
    with_benchmark, here = other in BENCHMARKS, other in sets.asked
    for sort in SORTS[task]:
        if with_benchmark and not sort.asked:
            continue
        own = sets.of_task(sort, task, one, asked_only=with_benchmark)
        if not here:
            yield Finding(task, sort.name, one, other, len(own), None, None, NOT_AUDITED)
            continue
        theirs = sets.of_all(sort.name, other)
        shared = sorted(own.keys() & theirs.keys())
        example = f"{shared[0]} in {own[shared[0]]} and {theirs[shared[0]]}" if shared else ""
        status = COUNTED if not sort.apart else LEAK if shared else APART
        yield Finding(task, sort.name, one, other, len(own), len(theirs), len(shared), status, example)
    mine, yours = sets.instances(task, one), sets.instances(task, other)
    for name, pairs in ((PROMPT, sets.equal_prompts), (NEAR_TEXT, sets.alike)):
        if not here:
            yield Finding(task, name, one, other, len(mine), None, None, NOT_AUDITED)
        elif yours or not with_benchmark:
            found = pairs(task, one, other)
            example = f"that of {found[0][0].id} and {found[0][1].id}" if found else ""
            status = LEAK if found else APART
            yield Finding(task, name, one, other, len(mine), len(yours), len({a.id for a, _ in found}), status, example)


class _Sets:
    """Identifiers and texts by split, each read once."""

    def __init__(self, asked: Asked, lake: Lake) -> None:
        self.asked, self.lake = asked, lake
        self._read: dict[tuple[str, str, str, bool], dict[str, str]] = {}
        self._texts: dict[tuple[str, str], list[set[str]]] = {}

    def instances(self, task: str, split: str) -> Sequence[Instance]:
        return self.asked.get(split, {}).get(task, ())

    def of_task(self, sort: Sort, task: str, split: str, *, asked_only: bool) -> dict[str, str]:
        """Identifier to the id of the first instance that has it."""
        key = (sort.name, task, split, asked_only)
        if key not in self._read:
            reader: Reader | None = sort.asked if asked_only else sort.read
            found: dict[str, str] = {}
            for instance in self.instances(task, split) if reader else ():
                for identifier in reader(instance, self.lake):  # type: ignore[misc]
                    found.setdefault(identifier, instance.id)
            self._read[key] = found
        return self._read[key]

    def of_all(self, name: str, split: str) -> dict[str, str]:
        """The same over every task of a split or benchmark that has a sort of this name."""
        found: dict[str, str] = {}
        for task in self.asked.get(split, {}):
            for sort in SORTS[task]:
                if sort.name == name:
                    found = self.of_task(sort, task, split, asked_only=split in BENCHMARKS) | found
        return found

    def equal_prompts(self, task: str, one: str, other: str) -> list[tuple[Instance, Instance]]:
        """Pairs of instances whose prompts are the same words."""
        theirs = {normalised(instance.prompt): instance for instance in self.instances(task, other)}
        pairs = ((instance, theirs.get(normalised(instance.prompt))) for instance in self.instances(task, one))
        return [(mine, yours) for mine, yours in pairs if yours]

    def alike(self, task: str, one: str, other: str) -> list[tuple[Instance, Instance]]:
        """Pairs of instances whose own texts are near-duplicates."""
        mine, yours = self.instances(task, one), self.instances(task, other)
        pairs = near_duplicates(self._shingles(task, one), self._shingles(task, other))
        return [(mine[here], yours[there]) for here, there in pairs]

    def _shingles(self, task: str, split: str) -> list[set[str]]:
        key = (task, split)
        if key not in self._texts:
            texts = [shingles(own_text(instance)) for instance in self.instances(task, split)]
            self._texts[key] = without_form(texts) if split in BENCHMARKS else texts
        return self._texts[key]


def _by_task(instances: Sequence[Instance]) -> dict[str, list[Instance]]:
    found: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        found[instance.task].append(instance)
    return found
