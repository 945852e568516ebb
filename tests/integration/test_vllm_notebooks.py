"""The notebooks up to RL, unchanged, with vLLM as the engine: `make test-vllm`."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from biomni_lib.agent.ledger import load_trajectories
from biomni_lib.config import RunConfig, recipe_file
from biomni_lib.provenance import stage_done
from biomni_lib.stages import rl, runner
from biomni_lib.stages.paths import paths

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]
SIZES = {
    "data": {"train_instances": 64, "dev_instances": 8, "heldout_instances": 8},
    "teacher": {"instances": 48, "samples_per_instance": 2},
    "evaluate": {"instances": 8},
}


def test_notebook_03_runs_unchanged_with_vllm(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """A model of so little training earns nothing, so an entropy bonus is what changes its weights."""
    recipe = tmp_path / "entropy.toml"
    recipe.write_text(recipe_file("default").read_text() + "entropy_coefficient = 0.1\n")
    rl_settings = {"recipe": str(recipe), "learning_rate": 3e-3, "max_staleness": 0}
    config = make_config(**SIZES, engine={"kind": "vllm"}, model={"head_dim": 32}, rl=rl_settings)
    assert runner.parameters(config)["OVERRIDES"]["engine"] == {"kind": "vllm"}
    runner.run_notebooks(config, last="rl")
    assert all(stage_done(config, stage) for stage in ("build_data", "sft", "rl"))

    here = paths(config)
    assert "vllm" in (here.rl / "rollouts.log").read_text().lower()
    metrics = rl.metrics_table(config)
    assert len(metrics) == config.rl.steps == 2
    assert metrics["policy/fresh_abs_diff_max"].max() < 1e-3  # beyond parity_max the run would have stopped

    start, end = (load_file(folder / "model.safetensors") for folder in (here.sft_model, here.rl_model))
    assert metrics["optim/grad_norm"].min() > 0
    assert any(not torch.equal(start[name], tensor) for name, tensor in end.items())

    table = pq.read_table(here.rl / "trajectories").to_pandas()
    assert list(table.groupby("step").size()) == [config.rl.groups_per_step * config.rl.group_size] * config.rl.steps
    assert (table["staleness"] == 0).all()  # synchronous: each step's rows are by the weights just sent
    for step in range(config.rl.steps):
        ledgers = load_trajectories(here.rl / "ledgers" / f"step-{step:05d}.parquet")
        assert {int(v) for one in ledgers for v in one.policy_versions[one.loss_mask]} == {step}
