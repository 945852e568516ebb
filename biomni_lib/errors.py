"""The named failures of the library.

Each message is one clear line that names the thing, its value and the remedy. A rollout that goes wrong is not an
error but a typed ending in its ledger; programming errors propagate as themselves.
"""

import sys
from collections.abc import Callable


class BiomniError(Exception):
    """Base of every failure that the library raises on purpose."""


class ConfigError(BiomniError):
    """A setting, preset or parameter that is unknown, out of range or in conflict with another."""


class DataError(BiomniError):
    """A lake table or data file that is missing, corrupt or not the one that was built."""


class RunError(BiomniError):
    """A run that cannot go on: a locked folder, no disk space, an interrupted or unfinished stage."""


class SandboxError(BiomniError):
    """The sandbox cannot be started or is used wrongly; what the agent's code does is an observation instead."""


class EngineError(BiomniError):
    """An engine cannot serve: weights that do not fit, a request beyond its context, a closed engine."""


class EngineLostError(EngineError):
    """The engine that a call was with is gone and is being replaced: the call may be made again."""


class EngineDiedError(RunError):
    """An engine's own process has ended by itself: an engine on Ray is replaced then, any other ends the run."""


class LedgerError(BiomniError):
    """A trajectory whose columns or turns contradict each other, or a file of trajectories that cannot be read."""


class ShapeError(BiomniError):
    """An array or tensor whose shape does not fit the operation."""


class TrainingError(BiomniError):
    """Training cannot go on: a loss that is not finite, no usable group, a checkpoint that does not fit."""


def run_command(command: Callable[[], object]) -> None:
    """Run a command line: a failure raised on purpose is its message on stderr and exit status 1."""
    try:
        command()
    except BiomniError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
