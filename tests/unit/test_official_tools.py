"""Functions of the official package in the prompt; a package of the same layout stands in, as it cannot be had here."""

import importlib
import sys
from pathlib import Path

import pytest

from biomni_lib.agent.prompt import system_prompt, system_prompts
from biomni_lib.config import load_config
from biomni_lib.errors import ConfigError
from biomni_lib.provenance import config_hash
from biomni_lib.tools import official_tools

DESCRIPTION = """description = [
    {
        "description": "Perform liftover of genomic coordinates.",
        "name": "liftover",
        "optional_parameters": [{"default": 64, "description": "Chunk", "name": "size", "type": "int"}],
        "required_parameters": [{"default": None, "description": "1 or X", "name": "chromosome", "type": "str"}],
    },
    {"description": "Count.", "name": "count", "optional_parameters": [], "required_parameters": []},
]
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `biomni` with one field; the function itself needs what is not installed."""
    described = tmp_path / "biomni" / "tool" / "tool_description"
    described.mkdir(parents=True)
    for folder in (described, described.parent, described.parent.parent):
        (folder / "__init__.py").touch()
    (described / "genetics.py").write_text(DESCRIPTION)
    (described.parent / "genetics.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the package of another."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "biomni"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("installed")
def test_functions_are_listed_as_much_as_the_tools() -> None:
    assert official_tools(["genetics"], "names") == ["biomni.tool.genetics: liftover, count"]
    signatures = official_tools(["genetics"], "signatures")
    assert signatures == [
        "biomni.tool.genetics.liftover(chromosome: str, size: int = 64)",
        "biomni.tool.genetics.count()",
    ]
    assert "Perform liftover" in official_tools(["genetics"], "docs")[0]
    prompt = system_prompts("names", ["genetics"])("lab_bench_seqqa")
    assert (
        prompt
        == system_prompts("names")("lab_bench_seqqa") + "\nTools to import: biomni.tool.genetics: liftover, count"
    )
    with pytest.raises(ConfigError, match=r"'chemistry': there is no module biomni\.tool\.tool_description\.chemistry"):
        system_prompts("names", ["chemistry"])


@pytest.mark.skipif(importlib.util.find_spec("biomni") is not None, reason="the official package is installed")
def test_without_the_package_one_line_refuses() -> None:
    with pytest.raises(ConfigError, match=r"prompt\.biomni_tools = 'genetics': there is no module biomni; install"):
        system_prompts("names", ["genetics"])
    assert "import" not in system_prompt("names")


def test_the_setting_is_empty_and_leaves_keys_as_they_were() -> None:
    config = load_config("cpu")
    assert config.prompt.biomni_tools == () and "biomni_tools" not in config.prompt.model_dump()
    other = load_config("cpu", prompt={"biomni_tools": ["genetics"]})
    assert config_hash(other, "sft") != config_hash(config, "sft")
