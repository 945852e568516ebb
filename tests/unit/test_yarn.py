"""Positions stretched by YaRN: recorded once, in the model's folder, and the same for engine, learner and export."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import ModelConfig, load_config
from biomni_lib.engines.base import Sampling
from biomni_lib.engines.pretrained import take_model
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.rl.export import export_model
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.learner_ranks import LearnerSpec
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.samples import to_sample
from biomni_lib.rl.weights import save_weights
from biomni_lib.sft.model import save_model
from tests.acting_toy import model, renderer, token_ids, tokenizer

TRAINED, FACTOR, CONTEXT = 48, 4.0, 180
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says of itself that it knows 64 positions."""
    made, folder = model(), tmp_path_factory.mktemp("yarn") / "pretrained"
    made.config.max_position_embeddings = 64
    save_model(made, tokenizer(), folder)
    return folder


@pytest.fixture
def stretched(source: Path, tmp_path: Path) -> Path:
    take_model(settings(source), tmp_path / "base")
    return tmp_path / "base"


def settings(source: Path, **changes: float | None) -> ModelConfig:
    values = {"yarn_factor": FACTOR, "yarn_positions": TRAINED, "context": CONTEXT, **changes}
    return ModelConfig(kind="pretrained", path=source, **values)


def learner(model_dir: Path) -> Learner:
    return LearnerSpec(load_config("smoke"), load_recipe("default"), model_dir).load()


async def long_trajectory(model_dir: Path) -> Trajectory:
    """Turns of the engine far past the positions that the model was trained at."""
    served, made = TransformersEngine.load(model_dir, slots=2, context=CONTEXT), Trajectory("toy", "long")
    for turn in range(3):
        made.append(token_ids(turn, 40), sampled=False)
        reply = await served.generate(made.token_ids.tolist(), Sampling(1.0, 1.0, 16, (), turn), session="long")
        made.append(reply.ids, sampled=True, logprobs=reply.logprobs, policy_versions=reply.policy_versions)
    await served.close()
    assert len(made.token_ids) > 3 * TRAINED
    return made


async def test_learner_and_engine_agree_past_the_trained_positions(source: Path, stretched: Path) -> None:
    sample = to_sample(await long_trajectory(stretched), 1.0)
    told = json.loads((stretched / "config.json").read_text())
    yarn = {"rope_type": "yarn", "factor": FACTOR, "original_max_position_embeddings": TRAINED}
    assert yarn.items() <= told["rope_parameters"].items() and told["max_position_embeddings"] == 4 * TRAINED
    (read,), _ = learner(stretched).logprobs([sample])
    assert (read - sample.rollout).abs().max() < TOLERANCE
    (plain,), _ = learner(source).logprobs([sample])
    assert (plain - sample.rollout).abs().max() > 100 * TOLERANCE  # without the stretching they would be others


def test_a_context_beyond_the_positions_is_refused_and_the_factor_named(source: Path, tmp_path: Path) -> None:
    for factor, positions, known, least in ((None, None, 64, 180 / 64), (2.0, TRAINED, 96, 180 / 48)):
        told = rf"model\.context = 180: beyond the {known} positions .* model\.yarn_factor to at least {least:g}"
        with pytest.raises(ConfigError, match=told):
            take_model(settings(source, yarn_factor=factor, yarn_positions=positions), tmp_path / "base")
    with pytest.raises(ConfigError, match=r"no model there"):
        take_model(settings(tmp_path / "none"), tmp_path / "base")


async def test_an_exported_model_is_the_learners_and_keeps_the_stretching(stretched: Path, tmp_path: Path) -> None:
    """What transformers loads from the folder has the log-probs of the learner that trained."""
    trained, sample = learner(stretched), to_sample(await long_trajectory(stretched), 1.0)
    with torch.no_grad():
        trained.model.model.layers[0].mlp.up_proj.weight.mul_(20)
        save_weights(trained.model, tmp_path / "trained.safetensors")
        (expected,), _ = trained.logprobs([sample])
    out = tmp_path / "export"
    export_model(tmp_path / "trained.safetensors", stretched, out, card="# A card\n", temperature=0.6)
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    with torch.no_grad():
        everything = torch.log_softmax(loaded(sample.ids[None]).logits[0], dim=-1)
    positions = sample.mask.nonzero().squeeze(1)
    assert (everything[positions - 1, sample.ids[positions]] - expected).abs().max() < TOLERANCE
    assert (expected - sample.rollout).abs().max() > 100 * TOLERANCE  # other weights than those of the start
    assert json.loads((out / "config.json").read_text())["rope_parameters"]["factor"] == FACTOR
    sampling = GenerationConfig.from_pretrained(out)
    assert (sampling.temperature, sampling.do_sample) == (0.6, True)
    assert sampling.eos_token_id == renderer().end_of_turn
    assert (out / "README.md").read_text() == "# A card\n"
    assert not list(out.glob("*.index.json")) and not (out / "model.safetensors").is_symlink()


def test_the_exported_template_is_the_framing_of_training(stretched: Path, tmp_path: Path) -> None:
    save_weights(learner(stretched).model, tmp_path / "w.safetensors")
    export_model(tmp_path / "w.safetensors", stretched, tmp_path / "export", card="", temperature=0)
    turn = "<think>\nI look.\n</think>\n<execute>\nprint(1)\n</execute>"
    told = [("system", "Be brief."), ("user", "HP:0001250?"), ("assistant", turn)]
    messages = [{"role": role, "content": text} for role, text in told]
    messages.append({"role": "user", "content": "<observation>\n1\n</observation>"})
    framed = renderer().prompt("Be brief.", "HP:0001250?") + renderer().assistant(turn) + renderer().observation("1")
    exported = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert exported.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == renderer().decode(
        framed
    )
    assert GenerationConfig.from_pretrained(tmp_path / "export").do_sample is False
    with pytest.raises(DataError, match="no weights to export"):
        export_model(tmp_path / "none", stretched, tmp_path / "other", card="", temperature=0)
