"""The command that exports: which weights it takes, and what the card says of them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from biomni_lib.config import ModelConfig, RunConfig
from biomni_lib.engines.pretrained import take_model
from biomni_lib.errors import DataError, RunError
from biomni_lib.rl.checkpoints import identity, save_checkpoint
from biomni_lib.rl.learner_ranks import LearnerSpec
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.weights import save_weights
from biomni_lib.sft.model import save_model
from biomni_lib.stages import export
from biomni_lib.stages.__main__ import app
from biomni_lib.stages.paths import paths
from tests.acting_toy import model, tokenizer


@pytest.fixture
def trained(config: RunConfig) -> RunConfig:
    """An RL run with a checkpoint after three steps, from a model whose positions are stretched."""
    here, recipe = paths(config), load_recipe("default")
    save_model(model(), tokenizer(), config.run_dir / "pretrained")
    sizes = {"context": 700, "yarn_factor": 2.0, "yarn_positions": 400}
    take_model(ModelConfig(kind="pretrained", path=config.run_dir / "pretrained", **sizes), here.sft_model)
    learner = LearnerSpec(config, recipe, here.sft_model).load()
    learner.version = 3
    with torch.no_grad():
        learner.model.model.norm.weight.mul_(2)
    told = identity(config, recipe, "sft")
    save_checkpoint(here.rl / "checkpoints", learner, scheduler={}, seconds=0, identity=told)
    return config


def test_a_checkpoint_is_exported_with_a_card_that_says_so(trained: RunConfig) -> None:
    out = export.run(trained, checkpoint=True)
    assert out == trained.run_dir / "export"
    start, exported = (load_file(folder / "model.safetensors") for folder in (paths(trained).sft_model, out))
    assert {name for name in exported if not torch.equal(exported[name], start[name])} == {"model.norm.weight"}
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: transformers\n")
    said = [f"after 3 of {trained.rl.steps} steps of RL", "Nobody has evaluated", "YaRN x2 from 400"]
    assert all(part in card for part in said)
    assert json.loads((out / "config.json").read_text())["rope_parameters"]["rope_type"] == "yarn"


def test_the_command_exports_a_trained_model(trained: RunConfig) -> None:
    here, other = paths(trained), trained.run_dir / "elsewhere"
    with pytest.raises(DataError, match=r"no weights to export; run notebook 03"):
        export.run(trained)
    here.rl_model.mkdir()
    save_weights(model(seed=5), here.rl_model / "model.safetensors")
    options = ["--preset", "smoke", "--runs-root", str(trained.runs_root), "--to", str(other)]
    done = CliRunner().invoke(app, ["export", *options], catch_exceptions=False)
    assert done.exit_code == 0 and done.output.strip().endswith("elsewhere")
    exported = load_file(other / "model.safetensors")
    assert torch.equal(exported["model.embed_tokens.weight"], model(seed=5).model.embed_tokens.weight)


def test_a_run_without_a_checkpoint_says_so(config: RunConfig) -> None:
    with pytest.raises(RunError, match="no checkpoint yet"):
        export.run(config, checkpoint=True)
    with pytest.raises(DataError, match="sft/model: no model that RL began with; run `make reproduce PRESET=smoke`"):
        export.run(config)
