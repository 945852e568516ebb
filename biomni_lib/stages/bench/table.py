"""What `bench.json` holds, as a page for readers."""

from collections.abc import Mapping
from typing import Any

from biomni_lib.stages.bench.measured import Missing, Side

NOTED = ("processor", "cores", "preset", "curve")
"""Conditions that the page tells apart from those of a single measurement."""


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown page: the machine, a row a measurement, what it was made under, and the curves that belong to it.

    Args:
        records: key of the measurement to its `record()`.
    """
    machines = {f"{r['conditions']['processor']}, {r['conditions']['cores']} cores" for r in records.values()}
    presets = {r["conditions"]["preset"] for r in records.values()}
    lines = [
        "# Benchmarks",
        "",
        f"Made by `make bench` with the preset {', '.join(sorted(presets))} on: {'; '.join(sorted(machines))}.",
        "Sides of a ratio were measured within one run; short ones took turns, and the number is a median.",
        "",
        "| key | result | measured | against | beside |",
        "|---|---|---|---|---|",
        *(_row(key, record) for key, record in records.items()),
        "",
        "## Conditions",
        "",
        *(f"- `{key}`: {_conditions(record['conditions'])}" for key, record in records.items()),
    ]
    curves: dict[str, list[str]] = {}
    for key, record in records.items():
        if curve := record["conditions"].get("curve"):
            curves.setdefault("\n".join(_curve(curve)), []).append(f"`{key}`")
    for curve, keys in curves.items():
        lines += ["", f"## The curve of {' and '.join(keys)}", "", curve]
    return "\n".join(lines) + "\n"


def _row(key: str, record: Mapping[str, Any]) -> str:
    beside = "; ".join(str(_peer(peer)) for peer in record.get("beside", ()))
    if "ratio" in record:
        ours, theirs = (Side(**record[side]) for side in ("numerator", "denominator"))
        return f"| `{key}` | **{record['ratio']:.2f}** | {ours} | {theirs} | {beside} |"
    side = Side(record["name"], record["unit"], record["value"])
    return f"| `{key}` | **{str(side).partition(' (')[0]}** | {side.name} | | {beside} |"


def _peer(peer: Mapping[str, Any]) -> Side | Missing:
    return Missing(**peer) if "reason" in peer else Side(**peer)


def _conditions(conditions: Mapping[str, Any]) -> str:
    told = (f"{name.replace('_', ' ')} {_short(value)}" for name, value in conditions.items() if name not in NOTED)
    return ", ".join(told)


def _curve(rows: list[Mapping[str, float]]) -> list[str]:
    names = list(rows[0])
    body = ["| " + " | ".join(_short(row[name]) for name in names) + " |" for row in rows]
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *body]


def _short(value: Any) -> str:
    if isinstance(value, str):
        return "`" + " ".join(value.split()) + "`"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
