"""How models are named and coloured: as in the figures."""

from collections.abc import Iterable

from biomni_lib.figures.style import look, model_order


def looks(models: Iterable[str]) -> dict[str, dict[str, str]]:
    """Label and colour of each model, in the order of the story: teacher, untrained, SFT, RL."""
    return {name: {"label": look(name).label, "colour": look(name).colour} for name in model_order(sorted(models))}
