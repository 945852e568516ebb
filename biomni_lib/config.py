"""Settings of a run: one frozen object from the notebook to the last worker process.

A preset is a TOML file in `biomni_lib/presets/` that changes sizes, engines and placement, never logic. The defaults
below are the preset `cpu`; a preset's file states only what differs. Unknown presets, unknown settings, values out of
range and settings that contradict each other are refused at start with one line.

`python -m biomni_lib.config cpu` prints a preset in full, with what each setting means.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from biomni_lib.errors import ConfigError

PRESETS_DIR = Path(__file__).parent / "presets"
RECIPES_DIR = Path(__file__).parent / "rl" / "recipes"
UNCORRECTED = "none"
"""The `correction` of an RL recipe that is synchronous by its definition: it takes every sample for a fresh one."""
IGNORED = "ignored"
"""The same for a recipe that is allowed stale samples all the same, to measure what a correction buys."""

AT_MOST = (
    ("agent.max_turn_tokens", "agent.max_tokens"),
    ("agent.max_tokens", "model.context"),
    ("agent.max_tokens", "rl.micro_batch_tokens"),
    ("agent.turn_timeout_s", "agent.trajectory_timeout_s"),
    ("sandbox.execute_timeout_s", "agent.turn_timeout_s"),
    ("teacher.instances", "data.train_instances"),
    ("teacher.cap_per_instance", "teacher.samples_per_instance"),
    ("evaluate.instances", "data.heldout_instances"),
)
"""Pairs of settings of which the first must not exceed the second."""


def _require(condition: bool, setting: str, rule: str) -> None:
    if not condition:
        raise ConfigError(f"{setting}: {rule}")


class Section(BaseModel):
    """Base of every group of settings: frozen, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DataConfig(Section):
    """The tasks, and the simulated patients of two of them; every count is per task."""

    tasks: tuple[str, ...] = Field(
        ("rare_disease_diagnosis", "patient_gene_detection"),
        min_length=1,
        description="Tasks that are trained on and evaluated; those whose data are not built are left out by name.",
    )
    train_instances: int = Field(2000, ge=1, description="Training instances per task.")
    dev_instances: int = Field(300, ge=1, description="Development instances per task, for tuning.")
    heldout_instances: int = Field(300, ge=1, description="Held-out instances per task, opened once, for the results.")
    terms_min: int = Field(5, ge=1, description="Fewest phenotype terms of a patient, noise terms included.")
    terms_max: int = Field(5, ge=1, description="Most phenotype terms of a patient, noise terms included.")
    excluded_min: int = Field(2, ge=0, description="Fewest excluded findings told of a patient, if there are as many.")
    excluded_max: int = Field(2, ge=0, description="Most excluded findings told of a patient.")
    imprecision: float = Field(0.4, ge=0, le=1, description="Chance that a term is replaced by one of its ancestors.")
    noise_terms_max: int = Field(
        1, ge=0, description="Most of a patient's terms that have nothing to do with the disease."
    )
    candidates: int = Field(6, ge=2, description="Candidate genes shown, the right one included.")
    names: bool = Field(
        False, description="Whether questions on the lake name genes, diseases and terms beside their ids."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _require(
            self.terms_min <= self.terms_max,
            f"data.terms_min = {self.terms_min}",
            f"must be at most data.terms_max = {self.terms_max}",
        )
        _require(
            self.excluded_min <= self.excluded_max,
            f"data.excluded_min = {self.excluded_min}",
            f"must be at most data.excluded_max = {self.excluded_max}",
        )
        return self


class ModelConfig(Section):
    """The language model: a tiny Qwen3-architecture one trained from scratch, or a pretrained one."""

    kind: Literal["tiny", "pretrained"] = Field(
        "tiny", description="`tiny` is built from the sizes below, `pretrained` is read from `path`."
    )
    path: Path | None = Field(None, description="Folder of the pretrained model; only for kind `pretrained`.")
    hidden: int = Field(128, ge=8, description="Width of the residual stream.")
    layers: int = Field(3, ge=1, description="Number of transformer layers.")
    heads: int = Field(8, ge=1, description="Attention heads.")
    kv_heads: int = Field(4, ge=1, description="Heads of keys and values, shared by groups of attention heads.")
    head_dim: int = Field(
        32,
        ge=2,
        multiple_of=2,
        description="Width of a head; all together may be wider than `hidden`, as in Qwen3.",
    )
    intermediate: int = Field(256, ge=8, description="Width of the feed-forward layer.")
    vocab: int = Field(
        3072, ge=512, description="Vocabulary size of the tokenizer that is trained on the training split."
    )
    context: int = Field(1024, ge=64, description="Longest sequence in tokens, prompt included.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kv_heads = f"model.kv_heads = {self.kv_heads}"
        _require(self.heads % self.kv_heads == 0, f"model.heads = {self.heads}", f"must be a multiple of {kv_heads}")
        if self.kind == "pretrained":
            _require(self.path is not None, "model.kind = 'pretrained'", "needs model.path, the model's folder")
        else:
            _require(self.path is None, f"model.path = '{self.path}'", "is only for model.kind = 'pretrained'")
        return self


class PromptConfig(Section):
    """What the agent is told before its task."""

    tools: Literal["names", "signatures", "docs"] = Field(
        "names", description="How much of each tool the prompt shows."
    )


class AgentConfig(Section):
    """Limits of one trajectory."""

    max_turns: int = Field(6, ge=1, description="Most assistant turns.")
    max_turn_tokens: int = Field(256, ge=8, description="Most tokens the model writes in one turn.")
    max_tokens: int = Field(1000, ge=32, description="Most tokens of a trajectory, prompt and observations included.")
    observation_chars: int = Field(
        1200, ge=16, description="Characters of an observation that the model sees; the rest is cut and said so."
    )
    turn_timeout_s: float = Field(60, gt=0, description="Seconds for one turn, generation and code together.")
    trajectory_timeout_s: float = Field(300, gt=0, description="Seconds for a whole trajectory.")


class EngineConfig(Section):
    """Who generates tokens."""

    kind: Literal["transformers"] = Field("transformers", description="Engine that serves the rollouts.")
    slots: int = Field(64, ge=1, description="Trajectories decoded together.")
    parked: int = Field(
        192, ge=0, description="Conversations in their tools whose KV cache is put aside while others use their slots."
    )
    threads: int = Field(1, ge=1, description="Threads of the engine's arithmetic.")
    prefill_chunk: int = Field(
        128, ge=8, description="Tokens read at once when a prompt or an observation enters a slot."
    )


class SandboxConfig(Section):
    """Where the agent's code runs."""

    isolation: Literal["strict", "process"] = Field(
        "strict",
        description="`strict` is the strongest that this machine offers (namespaces, else Landlock, else a refusal); "
        "`process` a plain child process that protects nothing.",
    )
    sessions_max: int = Field(64, ge=1, description="Sessions open at the same time.")
    python_at_once: int = Field(64, ge=1, description="Blocks of Python that run at the same time; others queue.")
    shell_at_once: int = Field(8, ge=1, description="Blocks of shell or R that run at the same time; others queue.")
    execute_timeout_s: float = Field(10, gt=0, description="Seconds for one block of code.")
    memory_mb: int = Field(512, ge=64, description="Memory of one session in MiB.")
    tool_cache: bool = Field(True, description="Whether a session keeps the results of the tool calls it made.")
    output_chars: int = Field(4000, ge=16, description="Characters of output kept of one block of code.")


class EnvironmentConfig(Section):
    """Who runs the sandbox: this process, a server or Ray actors; and a server's own limits, which are an actor's too.

    Where code runs decides no number, so that no stage is run again when this changes.
    """

    url: str | None = Field(
        None,
        pattern=r"^(https?://|ray:)\S+$",
        description="`http://HOST:PORT` of an environment server, or `ray:ADDRESS` for actors on every node of a Ray "
        "cluster (`ray:local` starts one here); none for sessions of this process.",
    )
    running_max: int = Field(64, ge=1, description="Blocks of code that a server runs at the same time; more wait.")
    queue_max: int = Field(512, ge=0, description="Blocks of code that wait; one more is refused.")
    idle_s: float = Field(1800, gt=0, description="Seconds without a call after which a session is closed.")
    lease_s: float = Field(
        180, gt=0, description="The same for sessions of a client that says by itself, every quarter, that it lives."
    )
    body_max_kb: int = Field(1024, ge=1, description="Largest body of a request in KiB.")
    heartbeat_s: float = Field(5, gt=0, description="Seconds between signs of life while a block waits or runs.")
    patience_s: float = Field(
        600, ge=0, description="Seconds that a client waits for a place, or for a server that restarts."
    )


class TeacherConfig(Section):
    """The scripted teacher and what is kept of its trajectories."""

    instances: int = Field(1200, ge=1, description="Training instances per task that the teacher tries.")
    samples_per_instance: int = Field(3, ge=1, description="Trajectories sampled per instance.")
    cap_per_instance: int = Field(2, ge=1, description="Most accepted trajectories kept per instance.")


class PretrainingConfig(Section):
    """Teaching a model from scratch to copy identifiers; a pretrained model skips it."""

    documents: int = Field(4000, ge=1, description="Short documents of identifiers, each seen once.")
    lr_muon: float = Field(0.02, gt=0, description="Learning rate of Muon; everything else is as in fine-tuning.")


class SftConfig(Section):
    """Supervised fine-tuning on accepted trajectories."""

    epochs: int = Field(1, ge=1, description="Passes over the accepted trajectories.")
    batch_size: int = Field(16, ge=1, description="Trajectories per optimizer step.")
    lr_muon: float = Field(0.01, gt=0, description="Learning rate of Muon, which trains the matrices.")
    lr_adamw: float = Field(3e-3, gt=0, description="Learning rate of AdamW, which trains everything else.")
    warmup_steps: int = Field(20, ge=0, description="Steps over which the learning rates rise from zero.")
    threads: int = Field(2, ge=1, description="Threads of the training arithmetic.")


class RlConfig(Section):
    """Asynchronous reinforcement learning."""

    recipe: str = Field(
        "default",
        description="Loss, correction and advantage: a recipe's name (default is ours), or the path of a TOML file.",
    )
    steps: int = Field(16, ge=1, description="Learner steps.")
    groups_per_step: int = Field(16, ge=1, description="Groups, one instance each, per learner step.")
    group_size: int = Field(8, ge=2, description="Trajectories per group.")
    max_staleness: int = Field(
        1, ge=0, description="Most learner versions between sampling a token and training on it; 0 is synchronous."
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="`muon` trains the hidden matrices with Muon and the rest with AdamW; `adamw` everything."
    )
    learning_rate: float = Field(3e-4, gt=0, description="Learning rate of AdamW.")
    lr_muon: float = Field(2e-3, gt=0, description="Learning rate of Muon, where rl.optimizer is `muon`.")
    warmup_steps: int = Field(0, ge=0, description="Learner steps over which the learning rates rise from zero.")
    lora_rank: int | None = Field(
        None, ge=1, description="Rank of a LoRA adapter that is trained in place of the weights; none trains them all."
    )
    lora_alpha: int = Field(32, ge=1, description="The adapter's product counts lora_alpha / lora_rank.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of the rollouts.")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    micro_batch_tokens: int = Field(
        8192, ge=32, description="Most tokens, of trajectories laid end to end, of one forward and backward pass."
    )
    gradient_checkpointing: bool = Field(
        False, description="Whether layers are computed again in the backward pass, which saves memory and costs time."
    )
    agents: int | None = Field(
        None, ge=1, description="Trajectories under way at once; as many as the engine has slots when not given."
    )
    replace_members: int = Field(
        1, ge=0, description="Failed members of a group rolled out anew before the group is lost; 0 loses it at once."
    )
    kv_on_update: Literal["keep", "recompute"] = Field(
        "keep", description="What becomes of the KV cache of trajectories under way when new weights arrive."
    )
    checkpoint_every: int = Field(5, ge=1, description="Steps between checkpoints.")
    threads: int = Field(1, ge=1, description="Threads of the learner's arithmetic.")

    @model_validator(mode="after")
    def _corrected(self) -> Self:
        correcting = [name for name in recipe_names() if recipe_correction(name) not in (UNCORRECTED, IGNORED)]
        _require(
            recipe_correction(self.recipe) != UNCORRECTED or self.max_staleness == 0,
            f"rl.max_staleness = {self.max_staleness}",
            f"rl.recipe = {self.recipe!r} does not correct for stale samples; set 0, or a recipe that does: "
            + ", ".join(correcting),
        )
        return self


class EvaluateConfig(Section):
    """Evaluation on the held-out split."""

    instances: int = Field(150, ge=1, description="Held-out instances per task, or all where there are fewer.")
    samples: int = Field(1, ge=1, description="Trajectories per instance.")
    temperature: float = Field(0.6, ge=0, description="Sampling temperature; 0 is greedy.")
    bootstrap: int = Field(2000, ge=10, description="Resamples behind each interval.")


class SchedulingConfig(Section):
    """The simulated runs of notebook 06."""

    steps: int = Field(24, ge=3, description="Learner steps of a simulated run.")
    tool_ratio: float = Field(
        1.0, ge=0, description="Median latency of a simulated tool, in recorded generation times of a turn."
    )
    engines_max: int = Field(1000, ge=8, description="Most engines of a simulated run.")
    agents_per_engine: int = Field(100, ge=1, description="Trajectories under way for each of so many engines.")
    scale_steps: int = Field(4, ge=3, description="Learner steps of the runs with many engines.")


class AblationsConfig(Section):
    """The runs of `make ablations`, each the RL run with one thing changed."""

    steps: int = Field(12, ge=2, description="Learner steps of a run.")
    groups_per_step: int = Field(8, ge=1, description="Groups per learner step.")
    instances: int = Field(
        100, ge=1, description="Development instances per task that each trained model answers, if there are as many."
    )


class TrackingConfig(Section):
    """Where metrics go beside the run folder."""

    wandb: bool = Field(False, description="Also write a Weights & Biases run; offline unless WANDB_API_KEY is set.")


class RunConfig(Section):
    """Every setting of a run."""

    preset: str = Field("cpu", description="Name of the preset that these settings started from.")
    seed: int = Field(0, ge=0, description="Root of all randomness.")
    runs_root: Path = Field(
        Path("runs"), description="Folder of all runs; a relative one lies in the project's folder."
    )
    data: DataConfig = Field(DataConfig(), description="Simulated patients.")
    model: ModelConfig = Field(ModelConfig(), description="The language model.")
    prompt: PromptConfig = Field(PromptConfig(), description="What the agent is told.")
    agent: AgentConfig = Field(AgentConfig(), description="Limits of a trajectory.")
    engine: EngineConfig = Field(EngineConfig(), description="Who generates tokens.")
    sandbox: SandboxConfig = Field(SandboxConfig(), description="Where the agent's code runs.")
    environment: EnvironmentConfig = Field(EnvironmentConfig(), description="Who runs the sandbox.")
    teacher: TeacherConfig = Field(TeacherConfig(), description="The scripted teacher.")
    pretraining: PretrainingConfig = Field(default_factory=PretrainingConfig, description="Copying, from scratch.")
    sft: SftConfig = Field(SftConfig(), description="Supervised fine-tuning.")
    rl: RlConfig = Field(default_factory=RlConfig, description="Reinforcement learning.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Evaluation.")
    scheduling: SchedulingConfig = Field(SchedulingConfig(), description="Simulated runs.")
    ablations: AblationsConfig = Field(AblationsConfig(), description="Runs that leave one thing out.")
    tracking: TrackingConfig = Field(TrackingConfig(), description="Metrics.")

    @property
    def run_dir(self) -> Path:
        """Folder of this run: one for each preset and seed."""
        name = self.preset if self.seed == 0 else f"{self.preset}-seed{self.seed}"
        return self._root / name

    @property
    def agents(self) -> int:
        """Trajectories of RL under way at once."""
        return self.rl.agents or min(self.engine.slots, self.sandbox.sessions_max)

    @property
    def lake_dir(self) -> Path:
        """Folder of the data lake, shared by all presets."""
        return self._root / "lake"

    @property
    def _root(self) -> Path:
        return project_root() / self.runs_root

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for small, large in AT_MOST:
            low, high = _value(self, small), _value(self, large)
            _require(low <= high, f"{small} = {low}", f"must be at most {large} = {high}")
        agents, sessions = self.agents, self.sandbox.sessions_max
        places = self.engine.slots + self.engine.parked
        _require(agents <= sessions, f"rl.agents = {agents}", f"must be at most sandbox.sessions_max = {sessions}")
        _require(  # a conversation that loses its cache is read anew, in other bits, and when that happens is chance
            self.rl.max_staleness > 0 or agents <= places,
            f"rl.agents = {agents}",
            f"must be at most engine.slots + engine.parked = {places} in a synchronous run, which repeats bit for bit",
        )
        return self


def project_root() -> Path:
    """The folder that holds the project: the checkout, or the working folder where the package is installed apart."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def recipe_names() -> list[str]:
    """Names of the shipped RL recipes, sorted."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))


def recipe_file(name: str) -> Path:
    """The file of an RL recipe: a shipped one by name, or a path ending in .toml (from the project's folder).

    Raises: ConfigError for an unknown name or a file that is not there.
    """
    path = project_root() / name if name.endswith(".toml") else RECIPES_DIR / f"{name}.toml"
    known = path.is_file() if name.endswith(".toml") else name in recipe_names()
    _require(known, f"rl.recipe = {name!r}", f"unknown recipe; allowed: {', '.join(recipe_names())}, a .toml file")
    return path


def recipe_correction(name: str) -> str:
    """What a recipe's loss does about samples of an older policy, as its file says; checked in `rl.recipe`."""
    try:
        stated = tomllib.loads(recipe_file(name).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"rl.recipe = {name!r}: not TOML: {error}") from None
    return str(stated.get("correction", UNCORRECTED))


def preset_names() -> list[str]:
    """Names that `load_config` accepts."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.toml"))


def load_config(preset: str = "cpu", **overrides: Any) -> RunConfig:
    """Settings of a preset with overrides on top.

    Args:
        preset: one of `preset_names()`.
        overrides: nested (`rl={"steps": 5}`) or dotted (`**{"rl.steps": 5}`) values.
    Raises: ConfigError, one line that names the setting, its value and what is allowed.
    """
    if preset not in preset_names():
        raise ConfigError(f"preset = {preset!r}: unknown preset; allowed: {', '.join(preset_names())}")
    values = tomllib.loads((PRESETS_DIR / f"{preset}.toml").read_text(encoding="utf-8"))
    values["preset"] = preset
    for name, value in overrides.items():
        _merge(values, _nested(name, value))
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def parse_setting(text: str) -> tuple[str, Any]:
    """`rl.steps=5` as a name and a value, for command lines; a value that is not JSON is text. Raises: ConfigError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: must be NAME=VALUE, such as rl.steps=5")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _value(config: RunConfig, name: str) -> float:
    section, field = name.split(".")
    return cast(float, getattr(getattr(config, section), field))


def _nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return cast(dict[str, Any], value)


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _one_line(error: ValidationError) -> str:
    first, *rest = error.errors(include_url=False)
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section, fields = _fields_of(first["loc"][:-1])
        said = f"{name}: unknown setting; allowed in {section}: {', '.join(fields)}"
    else:
        said = f"{name} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return said + (f" (and {len(rest)} more)" if rest else "")


def _fields_of(location: tuple[int | str, ...]) -> tuple[str, list[str]]:
    section: type[BaseModel] = RunConfig
    for part in location:
        section = cast(type[BaseModel], section.model_fields[str(part)].annotation)
    return f"[{'.'.join(map(str, location))}]" if location else "the top level", list(section.model_fields)


def describe(config: RunConfig) -> str:
    """The settings as TOML, each with its sentence; loading the text gives the same settings."""
    top, sections = [], []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            sections += ["", f"[{name}]  # {field.description}", *_lines(value)]
        else:
            top += _lines(config, only=name)
    return "\n".join([*top, *sections])


def _lines(section: Section, only: str | None = None) -> list[str]:
    values = section.model_dump(mode="json")
    names = [only] if only else list(values)
    fields = type(section).model_fields
    return [f"{n} = {json.dumps(values[n])}  # {fields[n].description}" for n in names if values[n] is not None]


def main() -> int:
    """Print a preset's settings; 2 when there is no such preset."""
    parser = argparse.ArgumentParser(prog="python -m biomni_lib.config", description="Print a preset's settings.")
    parser.add_argument("preset", nargs="?", default="cpu")
    try:
        print(describe(load_config(parser.parse_args().preset)))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
