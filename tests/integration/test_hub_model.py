"""A model fetched from a hub: whole, interrupted and gone on with, not there, and without a network."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from biomni_lib.config import ModelConfig, project_root
from biomni_lib.engines.hub_model import FILES
from biomni_lib.engines.packaged_model import SOURCE
from biomni_lib.engines.pretrained import model_source, take_model
from biomni_lib.sft.model import save_model
from tests.acting_toy import model, tokenizer
from tests.hub_server import COMMIT, Hub, serving

EARLY, LATE = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
BULK = 24 << 20
"""Bytes of a weights file that is long enough to be cut: the hub's library writes 10 MB at once."""
FETCH = """
import sys
from pathlib import Path
from biomni_lib.engines.hub_model import fetch_model
from biomni_lib.errors import run_command
run_command(lambda: fetch_model(sys.argv[1], sys.argv[2] or None, Path(sys.argv[3])))
"""
START = """
import sys
from biomni_lib.config import load_config
from biomni_lib.errors import run_command
from biomni_lib.stages.plan import before_start
changed = {"path": sys.argv[1], "repository": "toy/model", "revision": "main"}
run_command(lambda: before_start(load_config("gpu-8b", model=changed, engine={"kind": "transformers"})))
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library keeps what it has seen by repository and commit, which here are always the same."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as its makers would publish it, with weights in another format beside."""
    folder = tmp_path_factory.mktemp("published")
    save_model(model(), tokenizer(), folder)
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    (folder / "LICENSE").write_text("MIT\n")
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[Hub]:
    with serving(published) as hub:
        yield hub


@pytest.fixture
def bulky(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "bulky"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / EARLY).write_bytes(os.urandom(1000))
    (folder / LATE).write_bytes(os.urandom(BULK))
    with serving(folder) as hub:
        yield hub


def begin(url: str, code: str, *arguments: str, offline: bool = False) -> subprocess.Popen[str]:
    """A process with a network: the tests' own is told to keep off the hub."""
    environment = os.environ | {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=project_root(), stdout=pipe, stderr=pipe, text=True)


def fetch(url: str, target: Path, repository: str = "toy/model", revision: str = "", *, offline: bool = False) -> str:
    """What a process that fetches says at its end: nothing, or one error."""
    process = begin(url, FETCH, repository, revision, str(target), offline=offline)
    _, said = process.communicate(timeout=100)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in said and len(errors) == process.returncode, said
    return errors[0] if errors else ""


def test_a_run_fetches_its_model_plans_with_it_and_says_which_it_was(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "models" / "toy"
    process = begin(hub.url, START, str(target))
    told, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert "plan of preset gpu-8b: toy" in told and f"model: {target}" in told
    arrived = {path.name: path.read_bytes() for path in target.iterdir() if path.name != SOURCE}
    wanted = {path.name: path.read_bytes() for path in hub.files if path.suffix != ".bin"}
    assert arrived == wanted and all(any(Path(name).match(p) for p in FILES) for name in arrived)
    source = json.loads((target / SOURCE).read_text())
    assert source == {"repository": "toy/model", "revision": "main", "commit": COMMIT, "licence": "mit"}
    assert not [path for path in target.parent.iterdir() if path.is_dir() and path != target]
    take_model(ModelConfig(kind="pretrained", path=target, context=64), tmp_path / "base")
    assert f"commit {COMMIT}" in model_source(tmp_path / "base")
    asked = len(hub.seen)
    assert fetch(hub.url, target) == "" and len(hub.seen) == asked  # what is there is not asked for


def test_an_interrupted_fetch_goes_on_where_it_was(bulky: Hub, tmp_path: Path) -> None:
    target, beside = tmp_path / "models" / "toy", tmp_path / "models" / ".toy.fetching"
    bulky.stall = LATE
    process = begin(bulky.url, FETCH, "toy/model", "", str(target))
    assert bulky.stalled.wait(60)
    deadline = time.monotonic() + 30
    while not ((beside / EARLY).is_file() and (beside / "config.json").is_file()):
        assert time.monotonic() < deadline, "nothing else arrived"
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not target.exists() and list(beside.rglob("*.incomplete"))
    bulky.stall, bulky.lost = None, True  # the hub is lost after it has been asked for the model
    for listing in beside.rglob(f"{COMMIT}.json"):
        listing.unlink()
    assert f"1 of 3 files did not arrive whole, {LATE}" in fetch(bulky.url, target) and not target.exists()
    bulky.lost = False
    (beside / "of-another-commit.json").write_text("{}")
    bulky.seen.clear()
    assert fetch(bulky.url, target) == ""
    assert [path.rpartition("/")[2] for path, _ in bulky.seen if "resolve" in path] == [LATE]
    arrived = {path.name: path.read_bytes() for path in target.iterdir() if path.name != SOURCE}
    assert arrived == {path.name: path.read_bytes() for path in bulky.files} and not beside.exists()


def test_a_connection_that_breaks_off_is_taken_up_in_the_middle_of_a_file(bulky: Hub, tmp_path: Path) -> None:
    bulky.cut = LATE
    assert fetch(bulky.url, tmp_path / "toy") == ""
    asked = [part for path, part in bulky.seen if path.endswith(LATE)]
    assert len(asked) == 2 and asked[0] is None and asked[1] is not None and asked[1] > "bytes=0-"
    assert (tmp_path / "toy" / LATE).read_bytes() == (bulky.folder / LATE).read_bytes()


@pytest.mark.parametrize(
    ("repository", "revision", "told"),
    [
        ("toy/other", "", "error: model.repository = 'toy/other': not at http://127.0.0.1"),
        ("toy/model", "v9", "error: model.revision = 'v9': no branch, tag or commit of toy/model"),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path, repository: str, revision: str, told: str) -> None:
    assert fetch(hub.url, tmp_path / "m" / "toy", repository, revision).startswith(told)
    assert not (tmp_path / "m" / "toy").exists()


def test_a_repository_without_a_model_and_a_folder_in_the_way(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with serving(tmp_path / "empty") as other:
        assert "has no config.json" in fetch(other.url, tmp_path / "toy")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    assert "holds files but no config.json" in fetch(hub.url, tmp_path / "taken")
    assert (tmp_path / "taken" / "notes.txt").read_text() == "mine"


def test_without_a_network_one_line_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    with serving(tmp_path) as gone:
        nowhere = gone.url
    for url, offline, why in ((nowhere, False, "refused"), (hub.url, True, "HF_HUB_OFFLINE is set")):
        said = fetch(url, tmp_path / "toy", offline=offline)
        assert said.startswith(f"error: toy/model cannot be fetched from {url} (") and why in said
        assert said.endswith(f"or put its folder at {tmp_path / 'toy'}")
