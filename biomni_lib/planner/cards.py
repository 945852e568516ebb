"""GPUs: those that are here, or those that a user names."""

from __future__ import annotations

import dataclasses
import re

from biomni_lib.errors import ConfigError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Card:
    """One GPU: memory in bytes, dense bfloat16 operations a second, bytes of memory read a second."""

    name: str
    memory: float
    flops: float
    bandwidth: float


def _card(name: str, memory_gib: float, tflops: float, gb_a_second: float) -> Card:
    return Card(name, memory_gib * GIB, tflops * 1e12, gb_a_second * 1e9)


KNOWN = {
    card.name: card
    for card in (
        _card("A100-40GB", 39.4, 312, 1555),
        _card("A100-80GB", 79.1, 312, 2039),
        _card("L40S-48GB", 44.4, 362, 864),
        _card("H100-80GB", 79.1, 989, 3350),
        _card("H200-141GB", 139.7, 989, 4800),
        _card("B200-180GB", 178.3, 2250, 8000),
    )
}
"""Speeds of the SXM variants by NVIDIA's data sheets, dense; memory as PyTorch reports it."""
ASSUMED = "A100-80GB"
"""Whose speeds stand for a card that is named by its memory alone, or is not known."""


def parse_cards(text: str) -> tuple[Card, int]:
    """`H100-80GB x8`, or GiB of memory as in `80 x8`, as a card and how many of it; `x1` may be left out.

    Raises: ConfigError that names what is allowed.
    """
    told = re.fullmatch(r"\s*([\w.-]+?)(?:\s*[x*]\s*(\d+)|\s+(\d+))?\s*", text)
    allowed = f"--gpu {text!r}: must be NAME xCOUNT or GIB xCOUNT; names: {', '.join(KNOWN)}"
    if told is None or (count := int(told[2] or told[3] or 1)) < 1:
        raise ConfigError(allowed)
    by_name = {name.lower(): card for name, card in KNOWN.items()}
    if told[1].lower() in by_name:
        return by_name[told[1].lower()], count
    memory = re.fullmatch(r"(\d+(?:\.\d+)?)(?:gib)?", told[1].lower())
    if memory is None or float(memory[1]) <= 0:
        raise ConfigError(allowed)
    return dataclasses.replace(KNOWN[ASSUMED], name=f"{memory[1]} GiB card", memory=float(memory[1]) * GIB), count


def find_cards() -> tuple[Card, int] | None:
    """The GPUs that PyTorch sees on this machine, taken to be alike; None without any."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return None
    found = torch.cuda.get_device_properties(0)
    words = found.name.replace("-", " ").split()
    alike = [card for card in KNOWN.values() if card.name.split("-")[0] in words]
    like = min(alike or [KNOWN[ASSUMED]], key=lambda card: abs(card.memory - found.total_memory))
    return dataclasses.replace(like, name=found.name, memory=float(found.total_memory)), count
