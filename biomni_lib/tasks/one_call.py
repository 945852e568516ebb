"""The one-call baseline: how often the first result of a single tool call is already the answer.

Every tool that the task's prompt lists is called with what the prompt states: ids, symbols, positions, texts, their
words, sequences, and the lists of them that stand in one line. A call is known by its tool, by the lines that its
arguments come from, and by the part of the result that is read (a field of each row, a key).
Two rates are told. `rate`: the first result is the answer, as it stands. `offered`: of up to 100 results the first that
the prompt offers as an option or a candidate is, which takes a look through the list beside the call.
A call that could be made with each of several entries, such as each candidate, counts by its mean over them: nothing in
the prompt says which entry to take, and a call that only repeats its argument must not count as a find.
Not covered: computing with a result (its length, a maximum over several calls), arguments that are no fact of the
prompt (a window around a position, a tissue), and combinations of lines other than those a tool asks for.
"""

import inspect
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from biomni_lib.lake import Lake
from biomni_lib.tasks.base import Instance, Task
from biomni_lib.tasks.choices import read_options
from biomni_lib.tools import domains_for, tool_functions, tool_names
from biomni_lib.tools.sequences import FRAMES

EASY_ABOVE = 0.5
"""A task that one call answers more often than this must be made harder: most of its reward would teach a lookup. The
best-known shortcut of the field, the nearest gene, lies below it (47% of curated loci)."""
LOOKUPS = ("lab_bench_dbqa", "lab_bench_seqqa")
"""Tasks in which one call may be the answer, as in the benchmark that they are twins of."""
TOP = 100
"""Most results of one call."""
CALLS_KEPT = 50_000
"""Questions share words, terms and genes; the results of a call are kept for the next."""
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9-]{3,}")
_DNA = re.compile(r"\b[ACGT]{8,}\b")
_PLACE = re.compile(
    r"(?:chromosome (?=\w+, )|chr(?=\w+:)|rs\d+ \()(\w+)(?:, (?:around )?(?:position )?|:)(\d+)(?:(?: to |-)(\d+))?"
)
_KINDS = {
    "term": re.compile(r"HP:\d{7}"),
    "disease": re.compile(r"OMIM:(\d{6})"),
    "ensg": re.compile(r"ENSG\d{11}"),
    "variant": re.compile(r"\brs\d+\b"),
    "enzyme": re.compile(r"\b[A-Z][a-z]{2}[A-Z0-9a-z]*[IVX]+\b"),
}
_SYMBOL = re.compile(r"[A-Za-z][\w.:-]*")
_ID = re.compile(r"(?:HP:|OMIM:|ENSG|rs)\d+|chr\w+:\d+(?:-\d+)?")
_BRACKET = re.compile(r" \((?:HP|OMIM|ENSG)[:\d]+\)")


Facts = dict[str, dict[str, list[Any]]]
"""Kind of fact to line to the values in it."""


class Call(NamedTuple):
    """One way to call a tool: where its arguments come from, and all arguments that may come from there."""

    tool: str
    source: str
    arguments: list[dict[str, Any]]


@dataclass(frozen=True)
class Rate:
    """How often a tool's first result is the answer, and its first that the prompt offers; `n` questions were asked.

    `source` and `part` are those of the call with the best `rate`, and with the best `offered` where none has a rate.
    """

    tool: str
    source: str
    part: str
    rate: float
    offered: float
    n: int


def one_call_rates(task: Task, lake: Lake, instances: Sequence[Instance]) -> list[Rate]:
    """The best way to call each tool that the task's prompt lists, best tool first.

    Args:
        task: grades the results. lake: what the tools read; those whose data are not built are left out.
        instances: of that task.
    Returns: one rate a tool, over all instances the mean share of calls that score 1. A tool that is never called with
        facts of the prompts, or never gives an answer, has rate 0 and no source.
    """
    tools = tool_functions(lake)
    names = [
        name for name in tool_names(domains_for(task.name)) if lake.has_genome or name not in tool_names(["genes"])
    ]
    hits: dict[str, dict[tuple[str, str], np.ndarray]] = {name: defaultdict(lambda: np.zeros(2)) for name in names}
    for instance in instances:
        as_answer = _answers(instance)
        for call in calls(instance.prompt, {name: tools[name] for name in names}):
            for part, shares in _shares(tools[call.tool], call, task, instance, as_answer).items():
                hits[call.tool][call.source, part] += shares
    rates = [_best(name, hits[name], len(instances)) for name in names]
    return sorted(rates, key=lambda rate: (-rate.rate, -rate.offered, rate.tool))


def _best(tool: str, hits: Mapping[tuple[str, str], np.ndarray], n: int) -> Rate:
    """The rates of the best calls of a tool."""
    ranked = sorted(hits, key=lambda way: (*-hits[way], way))
    if not ranked or not n:
        return Rate(tool, "", "", 0.0, 0.0, n)
    first, offered = np.max(list(hits.values()), axis=0) / n
    return Rate(tool, *ranked[0], float(first), float(offered), n)


def is_too_easy(task: str, rate: float) -> bool:
    """Whether a task's best single call answers too much; never for the twins of lookups."""
    return task not in LOOKUPS and rate > EASY_ABOVE


def calls(prompt: str, tools: Mapping[str, Callable]) -> Iterator[Call]:
    """Every way to call the tools with the facts of a prompt.

    Args:
        tools: bound functions by name.
    """
    facts = read_facts(prompt)
    for name, tool in tools.items():
        parameters = inspect.signature(tool).parameters
        if any(one.default is one.empty and key not in _FACTS_FOR for key, one in parameters.items()):
            continue
        wanted = [parameter for parameter in parameters if parameter in _FACTS_FOR]
        if "chromosome" in wanted:
            wanted = [one for one in wanted if one not in _OF_PLACES]
            wanted.append("region" if "start" in parameters else "place")
        rest = {"top": TOP} if "top" in parameters else {}
        if "circular" in parameters:
            rest["circular"] = "circular" in prompt
        sources = [[*_sources(one, facts)] for one in wanted]
        for chosen in product(*sources) if wanted else ():
            label = ", ".join(dict.fromkeys(label for label, _ in chosen))
            arguments = [_merged(combined) | rest for combined in product(*(values for _, values in chosen))]
            yield Call(name, label, [one for one in arguments if _distinct(one)])


def read_facts(prompt: str) -> Facts:
    """What a prompt states: kind of fact to line to the values in it, in order.

    Kinds: term, disease, ensg, variant, enzyme, dna, gene (Ensembl ids and symbols), place, region, text, word, number.
    Lines are known by what stands before their colon; all options are one line.
    """
    facts: Facts = defaultdict(dict)
    for label, value in _lines(prompt):
        found: dict[str, list[Any]] = {kind: pattern.findall(value) for kind, pattern in _KINDS.items()}
        found["dna"] = _DNA.findall(value)
        found["gene"] = found["ensg"] + _symbols(value)
        found["place"], found["region"] = _places(value)
        found["number"] = [int(number) for number in re.findall(r"\b\d{1,3}\b", value)] if label == "Task" else []
        text = _BRACKET.sub("", value)
        if label not in ("Task", "Options") and not _is_list(value) and not _ID.fullmatch(text):
            found["text"], found["word"] = [text], list(dict.fromkeys(_WORD.findall(text)))
        for kind, values in found.items():
            if values:
                facts[kind][label] = values
    return facts


_FACTS_FOR: dict[str, tuple[str, ...]] = {
    "id": ("term", "variant"),
    "ids": ("term",),
    "text": ("text", "word"),
    "omim": ("disease",),
    "ensg": ("ensg",),
    "entity": ("disease", "ensg"),
    "gene": ("gene",),
    "name": ("gene",),
    "chromosome": (),
    "position": (),
    "start": (),
    "end": (),
    "place": ("place",),
    "region": ("region",),
    "dna": ("dna",),
    "template": ("dna",),
    "motif": ("dna",),
    "primer": ("dna",),
    "forward": ("dna",),
    "reverse": ("dna",),
    "enzyme": ("enzyme",),
    "enzymes": ("enzyme",),
    "frame": (),
    "min_length": ("number",),
}
"""Parameter of a tool to the kinds of fact that it takes; other parameters keep their default."""
_LISTS = ("ids", "enzymes")
_OF_PLACES = ("chromosome", "position", "start", "end")


def _sources(
    parameter: str, facts: Mapping[str, Mapping[str, list[Any]]]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Where a parameter's value may come from, with the values."""
    if parameter == "frame":
        yield "each frame", [{"frame": frame} for frame in FRAMES]
        return
    if parameter == "min_length":
        yield "default", [{}]
    for kind in _FACTS_FOR[parameter]:
        for line, values in facts.get(kind, {}).items():
            if parameter in _LISTS:
                yield line, [{parameter: values}]
            if kind in ("place", "region"):
                yield line, values
            elif parameter not in _LISTS or len(values) > 1:
                each = f"each {'word' if kind == 'word' else 'entry'} of {line}" if len(values) > 1 else line
                yield each, [{parameter: value} for value in values]


def _merged(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _distinct(arguments: dict[str, Any]) -> bool:
    """No sequence is its own primer or motif."""
    sequences = [arguments[name] for name in ("dna", "template", "motif", "forward", "reverse") if name in arguments]
    return len(set(sequences)) == len(sequences)


def _lines(prompt: str) -> Iterator[tuple[str, str]]:
    """Label and value of each line; the options together, the format of the answer left out."""
    options = _options(prompt)
    for line in prompt.splitlines():
        label, colon, value = line.partition(": ")
        if colon and label not in options and label != "Output format":
            yield label, value
    if options:
        yield "Options", " | ".join(options.values())


def _options(prompt: str) -> dict[str, str]:
    return read_options(prompt) or dict(re.findall(r"^([a-f])\. (.+)$", prompt, re.MULTILINE))


def _symbols(value: str) -> list[str]:
    """Symbols of a line that lists genes: `A, B, C`, or `A (ENSG...)`."""
    beside = re.findall(r"([\w.-]+) \(ENSG\d{11}\)", value)
    listed = value.split(", ") if _is_list(value) else []
    return beside or [one for one in listed if not re.match(r"ENSG\d|HP:\d", one)]


def _is_list(value: str) -> bool:
    """Whether a line lists ids or symbols and nothing else."""
    listed = value.split(", ")
    return len(listed) > 1 and all(_SYMBOL.fullmatch(one) for one in listed)


def _places(value: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Positions, and regions from first to last base (of one base where a position is all that is stated)."""
    places, regions = [], []
    for chromosome, start, end in _PLACE.findall(value):
        if not end:
            places.append({"chromosome": chromosome, "position": int(start)})
        regions.append({"chromosome": chromosome, "start": int(start), "end": int(end or start)})
    return places, regions


def _shares(
    tool: Callable, call: Call, task: Task, instance: Instance, as_answer: Callable[[object], str | None]
) -> dict[str, np.ndarray]:
    """Part of the result to the share of a call's arguments with which its first value, and its first that can be an
    answer, is right."""
    right: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for arguments in call.arguments:
        try:
            result = tool(**arguments)
        except ValueError:
            continue
        for part, values in parts(result):
            given = (values[:1], values)
            answers = [next(filter(None, map(as_answer, some)), None) for some in given]
            right[part] += [answer is not None and task.grade(instance, answer) == 1.0 for answer in answers]
    return {part: count / len(call.arguments) for part, count in right.items() if count.any()}


def parts(result: object, name: str = "") -> Iterator[tuple[str, list[object]]]:
    """The parts of a result that can be read as an answer, each a ranked list of plain values.

    A list of plain values is also one part as a whole; of rows, each field is a part; of a dict, each key.
    """
    if isinstance(result, dict):
        for key, value in result.items():
            yield from parts(value, f"{name}[{key!r}]")
    elif isinstance(result, tuple):
        for place, value in enumerate(result):
            yield from parts(value, f"{name}[{place}]")
    elif isinstance(result, list) and result and isinstance(result[0], tuple | dict):
        keys: Iterable[Any] = result[0] if isinstance(result[0], dict) else range(len(result[0]))
        for key in keys:
            column = [row[key] for row in result]
            yield (
                f"{name}[i][{key!r}]",
                [one for value in column for one in (value if isinstance(value, list) else [value])],
            )
    elif isinstance(result, list):
        yield f"{name}[i]", result
        yield name or "all", [", ".join(map(str, result))]
    else:
        yield name or "all", [result]


def _answers(instance: Instance) -> Callable[[object], str | None]:
    """From a plain value to the answer that it is, or None when it can be none."""
    if options := _options(instance.prompt):
        return lambda value: next((letter for letter, option in options.items() if _is_option(value, option)), None)
    if instance.task == "rare_disease_diagnosis":
        return lambda value: json.dumps({"OMIM_ID": value}) if re.fullmatch(r"\d{6}", str(value)) else None
    facts = read_facts(instance.prompt)
    if instance.task == "patient_gene_detection":
        offered = {one for values in facts.get("ensg", {}).values() for one in values}
        return lambda value: json.dumps({"causal_gene": [value]}) if value in offered else None
    kind = "variant" if instance.task == "gwas_variant_prioritization" else "gene"
    offered = {one for values in facts.get(kind, {}).values() for one in values}
    return lambda value: value if isinstance(value, str) and value in offered else None


def _is_option(value: object, option: str) -> bool:
    """A text is the option, the name before its bracket or the id in it; a number is what the option says, rounded."""
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, int | float):
        return option.isdigit() and round(value) == int(option)
    name, _, id = option.removesuffix(")").rpartition(" (")
    return str(value).lower() in {option.lower(), name.lower(), id.lower().removeprefix("omim:")} - {""}
