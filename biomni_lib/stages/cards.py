"""The model card and the data card of a finished run, as Markdown: from its manifests, its settings and its results.

Nothing is written of what was not measured; a part that a run lacks is said to be absent.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError, RunError
from biomni_lib.lake.cards import data_cards
from biomni_lib.lake.manifest import lake_version
from biomni_lib.provenance import Manifest, read_manifest, stage_state
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.stages.citation import SHOWN_LETTERS, bibtex_code, citation, cite_code, cite_data
from biomni_lib.stages.paths import paths
from biomni_lib.stages.results import TRAINED, results_dir
from biomni_lib.tasks.phenotypes import PATIENT_TASKS

OF_ONE_RUN = ("Where the files are", "How it was run")
"""Parts of the model card that tell of one run and its machine; the others follow from settings and results."""
NEEDED = ("build_data", "sft", "rl", "evaluate")
CARD_FIELDS = ("what", "version", "licence", "citation", "rows", "known limits")


def model_card_file(config: RunConfig) -> Path:
    """The published model card of a preset."""
    return results_dir() / f"model-card-{config.preset}.md"


def data_card_file(config: RunConfig) -> Path:
    """The published data card of a preset."""
    return results_dir() / f"data-card-{config.preset}.md"


def model_card(config: RunConfig, found: Mapping[str, Any]) -> str:
    """What the run's models are, how they were made, what they score, and what they are not for.

    Args:
        found: the run's summary, as `summary.summary` gives it.
    Raises: RunError when a stage that the card speaks of has not finished or its files are no longer those of its
        manifest; DataError when the weights cannot be read.
    """
    manifests = {stage: _finished(config, stage) for stage in NEEDED}
    return _page(
        f"Model card: the agents of preset {config.preset}, seed {config.seed}",
        {
            "What they are": _about(config, manifests),
            "What they are for, and what not": _use(config),
            "How they were made": _training(config, manifests),
            "What they score": _scores(found),
            "Limits": _limits(config, found),
            "Where the files are": _files(config, manifests),
            "How it was run": _run(manifests),
            "How to cite": _cite_code(found["code"]),
        },
    )


def data_card(config: RunConfig) -> str:
    """What the run's data are: the sources of its lake, and the instances made from them.

    Raises: RunError when the data stage has not finished; DataError when there is no lake.
    """
    manifest = _finished(config, "build_data")
    version = lake_version(config.lake_dir)
    cards = data_cards(config.lake_dir)
    parts: dict[str, Iterator[str] | list[str]] = {"Instances": _instances(config, manifest)}
    parts |= {f"Source: {card['source']}": [f"- *{name}:* {card[name]}" for name in CARD_FIELDS] for card in cards}
    cited = citation()
    parts["How to cite"] = [cite_data(cited, version), "", "The sources' own citations stand with each above."]
    return _page(f"Data card: the lake {version[:SHOWN_LETTERS]} and the instances of preset {config.preset}", parts)


def parameters(model_dir: Path) -> int:
    """Numbers in a model's weights, read from the header of its safetensors file.

    Raises: DataError when there is no such file, or it is none.
    """
    file = model_dir / "model.safetensors"
    try:
        with file.open("rb") as opened:
            header = json.loads(opened.read(struct.unpack("<Q", opened.read(8))[0]))
    except (OSError, ValueError, struct.error) as error:
        raise DataError(f"{file}: cannot be read as weights ({type(error).__name__}); run the stage again") from None
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _finished(config: RunConfig, stage: str) -> Manifest:
    manifest, state = read_manifest(config, stage), stage_state(config, stage)
    if manifest is None or state != "done":
        raise RunError(
            f"{config.run_dir}: stage {stage}: {state}; run `make reproduce PRESET={config.preset}` before its cards"
        )
    return manifest


def _about(config: RunConfig, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    here, model = paths(config), config.model
    kind = "trained from scratch" if model.kind == "tiny" else f"started from {model.path}"
    told = json.loads((here.rl_model / "config.json").read_text(encoding="utf-8"))
    architecture = told["model_type"].capitalize()
    yield f"- *Architecture:* {architecture}, {parameters(here.rl_model):,} parameters, {kind}; float32 safetensors"
    if model.kind == "tiny":
        sizes = f"width {model.hidden}, {model.layers} layers, {model.heads} heads"
        yield f"- *Sizes:* {sizes}, vocabulary of at most {model.vocab:,}"
    yield f"- *Context:* {model.context:,} tokens; a trajectory of at most {config.agent.max_turns} turns"
    yield "- *Models:* `sft` (fine-tuned on accepted trajectories) and `rl` (reinforced from it)"
    yield f"- *Licence:* {citation()['license']}"


def _use(config: RunConfig) -> Iterator[str]:
    yield "For studying the recipe: what each part of it does at a size at which runs are cheap."
    yield ""
    tiny = config.model.kind == "tiny"
    known = "know the layout of these prompts and nothing else of biology" if tiny else "were trained on these alone"
    yield (
        f"Not for any medical use, and not for questions other than the tasks below: the models {known}. "
        "Their code is to be run in the sandbox alone."
    )


def _training(config: RunConfig, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    sft, rl, recipe = manifests["sft"].results, config.rl, load_recipe(config.rl.recipe)
    yield f"- *Tasks:* {', '.join(config.data.tasks)}"
    teacher, kept = sft.get("sampled"), sft.get("kept")
    if teacher and kept:
        yield f"- *Teacher:* a script; {kept:,} of {teacher:,} trajectories accepted (right and well-formed)"
    yield f"- *SFT:* passes: {config.sft.epochs}; {config.sft.batch_size} conversations a batch"
    yield (
        f"- *RL:* {rl.steps} steps of {rl.groups_per_step} groups of {rl.group_size}, recipe `{recipe.name}` "
        f"(correction {recipe.correction}, aggregation {recipe.aggregation}), {rl.optimizer} at {rl.learning_rate:g}, "
        f"staleness at most {rl.max_staleness}"
    )
    yield "- *Never trained on:* development and held-out instances, Biomni-Eval1, LAB-Bench"


def _scores(found: Mapping[str, Any]) -> Iterator[str]:
    yield "| task | model | score | 95% interval | format | tokens | n | seeds |"
    yield "|---|---|---|---|---|---|---|---|"
    for task, models in found["tasks"].items():
        for name, row in models.items():
            form = "–" if row["format"] is None else f"{row['format']:.3f}"
            tokens = "–" if row["format"] is None else f"{row['mean_tokens']:.0f}"
            score, interval = f"{row['score']:.3f}", f"{row['ci_low']:.3f} to {row['ci_high']:.3f}"
            yield f"| {task} | {name} | {score} | {interval} | {form} | {tokens} | {row['n']} | {row['seeds']} |"


def _limits(config: RunConfig, found: Mapping[str, Any]) -> Iterator[str]:
    for task, models in found["tasks"].items():
        rules = {name: row["score"] for name, row in models.items() if row["format"] is None and name not in TRAINED}
        if task != "all" and rules and "rl" in models:
            best = max(rules, key=lambda name: rules[name])
            way = "above" if rules[best] > models["rl"]["score"] else "not above"
            yield f"- In {task} the heuristic `{best}` scores {way} the RL model."
    yield "- The teacher is a script, so lengths and habits of the models are those that it was written with."
    yield "- Intervals are over the instances of one run; another seed gives other weights."
    yield f"- Scores hold for instances that this project made with these settings (preset {config.preset})."


def _files(config: RunConfig, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    yield "Weights are not in the repository; `make reproduce` makes them again. sha256 of this run's:"
    yield ""
    outputs = manifests["sft"].outputs | manifests["rl"].outputs
    for name, sha256 in sorted(outputs.items()):
        if name.endswith("model.safetensors"):
            yield f"- `{name}`: {sha256}"


def _run(manifests: Mapping[str, Manifest]) -> Iterator[str]:
    yield "| stage | seconds | machine | code | commit |"
    yield "|---|---|---|---|---|"
    for stage, manifest in manifests.items():
        machine, commit = manifest.hardware, str(manifest.git.get("commit", "none"))[:SHOWN_LETTERS]
        changed = ", changed" if manifest.git.get("dirty") else ""
        told = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB"
        code = manifest.code_hash[:SHOWN_LETTERS]
        yield f"| {stage} | {manifest.seconds:,.0f} | {told} | {code} | {commit}{changed} |"
    if len({manifest.code_hash for manifest in manifests.values()}) > 1:
        yield ""
        yield "The stages were made by more than one state of the code, as the table says."
    packages = manifests["evaluate"].packages
    yield ""
    yield "Packages: " + ", ".join(f"{name} {version}" for name, version in packages.items())


def _instances(config: RunConfig, manifest: Manifest) -> Iterator[str]:
    counts = manifest.results.get("instances", {})
    yield "- *Tasks:* " + ", ".join(config.data.tasks)
    yield "- *Instances:* " + ", ".join(f"{split} {count:,}" for split, count in counts.items())
    if simulated := set(PATIENT_TASKS) & set(config.data.tasks):
        yield f"- *Splits of {', '.join(sorted(simulated))}:* no disease and no gene is in two of them"
    if others := set(config.data.tasks) - set(PATIENT_TASKS):
        yield f"- *Splits of {', '.join(sorted(others))}:* as the docstring of each task says"
    yield "- *Seeds:* training instances differ by seed; development and held-out instances do not"
    yield "- *Use:* the held-out split is for results alone; tuning looked at the development split"
    if simulated:
        yield "- *People:* patients are simulated from published annotations; none is a record of a person"


def _cite_code(code: str) -> list[str]:
    cited = citation()
    return [cite_code(cited, code), "", "```bibtex", bibtex_code(cited, code), "```"]


def _page(title: str, parts: Mapping[str, Iterator[str] | list[str]]) -> str:
    sections = ["\n".join([f"## {heading}", "", *lines]) for heading, lines in parts.items()]
    return "\n\n".join([f"# {title}", *sections]) + "\n"
