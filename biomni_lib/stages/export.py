"""The trained model of a run, or its last checkpoint, as a Hugging Face folder with its card."""

import json
from pathlib import Path
from typing import Any

from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError, RunError
from biomni_lib.provenance import stage_state
from biomni_lib.rl.checkpoints import last_checkpoint
from biomni_lib.rl.export import export_model
from biomni_lib.stages.cards import NEEDED, model_card
from biomni_lib.stages.citation import citation
from biomni_lib.stages.paths import paths
from biomni_lib.stages.summary import summary


def run(config: RunConfig, target: Path | None = None, *, checkpoint: bool = False) -> Path:
    """Export the reinforced model.

    Args:
        target: the folder; `export` in the run's folder when not given.
        checkpoint: take the weights of the last checkpoint of an RL run that may still go on.
    Returns: the folder.
    Raises: RunError when there is no checkpoint; DataError when there is no trained model.
    """
    here, target = paths(config), target or paths(config).run_dir / "export"
    weights, what = here.rl_model / "model.safetensors", f"after {config.rl.steps} steps of RL"
    if checkpoint:
        found = last_checkpoint(here.rl / "checkpoints")
        if found is None:
            raise RunError(f"{here.rl / 'checkpoints'}: no checkpoint yet; wait for one, or run notebook 03_async_rl")
        weights, what = found.weights, f"after {found.step} of {config.rl.steps} steps of RL"
    if not (here.sft_model / "config.json").is_file():
        raise DataError(f"{here.sft_model}: no model that RL began with; run `make reproduce PRESET={config.preset}`")
    finished = not checkpoint and all(stage_state(config, stage) == "done" for stage in NEEDED)
    body = model_card(config, summary(config)) if finished else _unevaluated(config, what)
    parts = [_front(config), "", body.rstrip(), "", "## Serving it", "", *_serving(config, here.sft_model), ""]
    card, temperature = "\n".join(parts), config.evaluate.temperature
    export_model(weights, here.sft_model, target, card=card, temperature=temperature)
    return target


def _front(config: RunConfig) -> str:
    """What the hub reads."""
    base = [f"base_model: {config.model.path.name}"] if config.model.path else []
    told = [f"license: {str(citation()['license']).lower()}", "library_name: transformers"]
    return "\n".join(["---", *told, "pipeline_tag: text-generation", *base, "---"])


def _unevaluated(config: RunConfig, what: str) -> str:
    return (
        f"# The agent of preset {config.preset}, seed {config.seed}, {what}\n\n"
        "Nobody has evaluated these weights: the run had not finished when they were exported.\n"
    )


def _serving(config: RunConfig, model_dir: Path) -> list[str]:
    told: dict[str, Any] = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    rope: dict[str, Any] = told.get("rope_parameters") or {}
    context = f"- *Context:* trained with up to {config.agent.max_tokens:,} tokens a trajectory; positions "
    if rope.get("rope_type") == "yarn":
        known = rope["original_max_position_embeddings"]
        context += f"stretched by YaRN x{rope['factor']:g} from {known:,}, as `rope_parameters` in config.json says"
    else:
        context += "as the model knows them"
    return [
        context,
        "- *Messages:* the chat template is the framing of training. A turn ends with `</execute>` or `</solution>`; "
        "what the code printed comes back as the user's message `<observation>\\n...\\n</observation>`",
        f"- *Temperature:* {config.evaluate.temperature:g}, as evaluated",
    ]
