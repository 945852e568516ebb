"""What asynchrony buys: a run of RL whose rollouts go on while the learner trains, against one where they wait."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from biomni_lib.config import RunConfig
from biomni_lib.rl.train import train_rl
from biomni_lib.stages.bench.measured import Ratio, Side, conditions, take_turns
from biomni_lib.stages.build_data import load_instances
from biomni_lib.stages.paths import paths
from biomni_lib.tasks import Instance

RL_STEPS, RL_ROUNDS = 6, 2


def asynchronous_against_synchronous(config: RunConfig) -> Ratio:
    """Updates a minute of both, on the training split with the preset's sizes.

    Engine, sandbox and learner are the real ones, and the start of the processes is not counted.
    """
    instances = load_instances(config, "train")
    staleness = max(1, config.rl.max_staleness)
    sides = {
        f"asynchronous, max_staleness {staleness}": lambda: rl_seconds(config, instances, staleness),
        "synchronous, max_staleness 0": lambda: rl_seconds(config, instances, 0),
    }
    seconds = take_turns(sides, RL_ROUNDS, warm_up=False)
    rates = {name: 60 * RL_STEPS / s for name, s in seconds.items()}
    numerator, denominator = (Side(name, "updates per minute", rate) for name, rate in rates.items())
    sizes = {name: getattr(config.rl, name) for name in ("groups_per_step", "group_size")}
    return Ratio(numerator, denominator, {**conditions(config), **sizes, "updates": RL_STEPS})


def rl_seconds(config: RunConfig, instances: Sequence[Instance], max_staleness: int) -> float:
    """Seconds of the steps of a run in a folder that is thrown away."""
    changes = {"steps": RL_STEPS, "checkpoint_every": RL_STEPS, "max_staleness": max_staleness}
    changed = config.model_copy(update={"rl": config.rl.model_copy(update=changes)})
    with tempfile.TemporaryDirectory(prefix="bench-", dir=config.run_dir) as folder:
        result = train_rl(changed, instances, paths(config).sft_model, Path(folder))
    return float(sum(row["time/step"] for row in result.metrics))
