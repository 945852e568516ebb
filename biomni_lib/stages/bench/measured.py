"""What a measurement gives, and how its sides take turns.

`A_vs_B` is a `Ratio` of two sides measured within one run; where a number means something alone, such as memory, it is
a `Reading`. Peers stand beside either; one that cannot run here is named with the reason instead of a number.
"""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

from biomni_lib.config import RunConfig
from biomni_lib.provenance import hardware


@dataclasses.dataclass(frozen=True)
class Side:
    """One side: what was measured, in which unit, and its median over the rounds."""

    name: str
    unit: str
    value: float

    def __str__(self) -> str:
        return f"{_number(self.value)} {self.unit} ({self.name})"


@dataclasses.dataclass(frozen=True)
class Missing:
    """A peer that could not be measured here, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"not available ({self.name}: {self.reason})"


Peer = Side | Missing


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How often the denominator goes into the numerator, under which conditions, and what stands beside them."""

    numerator: Side
    denominator: Side
    conditions: dict[str, Any]
    beside: tuple[Peer, ...] = ()

    @property
    def ratio(self) -> float:
        """Above 1 when the numerator is the faster."""
        return self.numerator.value / self.denominator.value

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"ratio": self.ratio, **_record(self)}

    def __str__(self) -> str:
        return f"{self.ratio:.2f} = {self.numerator} / {self.denominator}{_beside(self.beside)}"


@dataclasses.dataclass(frozen=True)
class Reading:
    """One side that stands for itself, under which conditions, and its peers."""

    side: Side
    conditions: dict[str, Any]
    beside: tuple[Peer, ...] = ()

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**dataclasses.asdict(self.side), **_record(self, without="side")}

    def __str__(self) -> str:
        return f"{self.side}{_beside(self.beside)}"


Measured = Ratio | Reading


def take_turns(sides: dict[str, Callable[[], float]], rounds: int, *, warm_up: bool = True) -> dict[str, float]:
    """Median of each side over the rounds, so that a busy moment of the machine falls on all of them.

    Args:
        sides: name to measurement, usually seconds.
        rounds: how often each is measured.
        warm_up: whether a first round runs that does not count.
    """
    measured = [{name: measure() for name, measure in sides.items()} for _ in range(rounds + warm_up)][int(warm_up) :]
    return {name: statistics.median(values[name] for values in measured) for name in sides}


def conditions(config: RunConfig) -> dict[str, Any]:
    """What every measurement is recorded with: the preset and the machine."""
    machine = {name: hardware()[name] for name in ("processor", "cores")}
    return {"preset": config.preset, "engine_threads": config.engine.threads, **machine}


def _record(measured: Measured, without: str = "") -> dict[str, Any]:
    """The fields; `beside` only where something stands there."""
    fields = dataclasses.asdict(measured)
    return {name: value for name, value in fields.items() if name != without and (name != "beside" or value)}


def _beside(peers: tuple[Peer, ...]) -> str:
    return f"; beside: {', '.join(map(str, peers))}" if peers else ""


def _number(value: float) -> str:
    """One decimal; more where the number is small."""
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
