"""Settings of a run: one frozen object from the notebook to the last worker process.

A preset is a TOML file in `biomni_lib/presets/` that changes sizes, engines and placement, never logic. The defaults
below are the preset `cpu`; a preset's file states only what differs. Unknown presets, unknown settings, values out of
range and settings that contradict each other are refused at start with one line.

The groups of settings are in `biomni_lib.settings` and `biomni_lib.world_settings`. `python -m biomni_lib.config cpu`
prints a preset in full, with what each setting means.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from pydantic import BaseModel, Field, ValidationError, model_validator

from biomni_lib.errors import ConfigError
from biomni_lib.section import Section, require
from biomni_lib.settings import (
    IGNORED,
    RECIPES_DIR,
    UNCORRECTED,
    ApiConfig,
    EngineConfig,
    ModelConfig,
    PlacementConfig,
    PretrainingConfig,
    RlConfig,
    SftConfig,
    TeacherConfig,
    project_root,
    recipe_correction,
    recipe_file,
    recipe_names,
)
from biomni_lib.world_settings import (
    AblationsConfig,
    AgentConfig,
    DataConfig,
    EnvironmentConfig,
    EvaluateConfig,
    LengthConfig,
    PromptConfig,
    SandboxConfig,
    SchedulingConfig,
    TrackingConfig,
)

PRESETS_DIR = Path(__file__).parent / "presets"
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

__all__ = [
    "AT_MOST",
    "AblationsConfig",
    "AgentConfig",
    "ApiConfig",
    "DataConfig",
    "EngineConfig",
    "EnvironmentConfig",
    "EvaluateConfig",
    "IGNORED",
    "LengthConfig",
    "ModelConfig",
    "PRESETS_DIR",
    "PlacementConfig",
    "PretrainingConfig",
    "PromptConfig",
    "RECIPES_DIR",
    "RlConfig",
    "RunConfig",
    "SandboxConfig",
    "SchedulingConfig",
    "Section",
    "SftConfig",
    "TeacherConfig",
    "TrackingConfig",
    "UNCORRECTED",
    "describe",
    "load_config",
    "main",
    "parse_setting",
    "preset_names",
    "project_root",
    "recipe_correction",
    "recipe_file",
    "recipe_names",
]


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
    teacher: TeacherConfig = Field(default_factory=TeacherConfig, description="The teacher.")
    api: ApiConfig = Field(ApiConfig(), description="Endpoints that cost money.")
    placement: PlacementConfig = Field(default_factory=PlacementConfig, description="Where it runs.")
    pretraining: PretrainingConfig = Field(default_factory=PretrainingConfig, description="Copying, from scratch.")
    sft: SftConfig = Field(SftConfig(), description="Supervised fine-tuning.")
    rl: RlConfig = Field(default_factory=RlConfig, description="Reinforcement learning.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Evaluation.")
    length: LengthConfig = Field(default_factory=LengthConfig, description="Answers under budgets.")
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
        return self.rl.agents or min(self.slots, self.sessions)

    @property
    def slots(self) -> int:
        """Trajectories decoded together, by all engines."""
        return self.placement.engines * self.engine.slots

    @property
    def sessions(self) -> int:
        """Sessions open at the same time, in all sandboxes."""
        return max(1, self.placement.sandbox_hosts) * self.sandbox.sessions_max

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
            require(low <= high, f"{small} = {low}", f"must be at most {large} = {high}")
        agents, sessions = self.agents, self.sessions
        places = self.placement.engines * (self.engine.slots + self.engine.parked)
        require(agents <= sessions, f"rl.agents = {agents}", f"must be at most sandbox.sessions_max = {sessions}")
        hosts = f"placement.sandbox_hosts = {self.placement.sandbox_hosts}"
        apart = self.placement.sandbox_hosts == 0 or self.environment.url is None
        require(apart, hosts, "must be 0 where environment.url says who runs the sandbox")
        require(  # a conversation that loses its cache is read anew, in other bits, and when that happens is chance
            self.rl.max_staleness > 0 or agents <= places,
            f"rl.agents = {agents}",
            f"must be at most engine.slots + engine.parked = {places} in a synchronous run, which repeats bit for bit",
        )
        return self


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
    return [f"{n} = {json.dumps(values[n])}  # {fields[n].description}" for n in names if values.get(n) is not None]


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
