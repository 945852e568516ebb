"""What tests share: settings in a folder of their own, and quiet, offline surroundings."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Set before torch is imported anywhere: two busy processes on two cores must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
from hypothesis import settings

from biomni_lib.config import RunConfig, load_config

if TYPE_CHECKING:
    from biomni_lib.lake import Lake
    from tests.ray_nodes import Nodes

settings.register_profile("house", deadline=None, max_examples=50)
settings.load_profile("house")


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """`make_config(preset="smoke", **overrides)`: settings whose runs lie in the test's own folder."""

    def make(preset: str = "smoke", **overrides: Any) -> RunConfig:
        return load_config(preset, runs_root=tmp_path / "runs", **overrides)

    return make


@pytest.fixture
def config(make_config: Callable[..., RunConfig]) -> RunConfig:
    """The smoke preset in the test's own folder."""
    return make_config()


@pytest.fixture(scope="session")
def lake_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake built once for all tests; read only."""
    from biomni_lib.lake import build_lake

    folder = tmp_path_factory.mktemp("shared") / "lake"
    build_lake(folder)
    return folder


@pytest.fixture(scope="session")
def lake(lake_dir: Path) -> "Lake":
    """That lake, opened."""
    from biomni_lib.lake import Lake

    return Lake.open(lake_dir)


@pytest.fixture(scope="session")
def public_lake_dir(lake_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That lake with a toy public tier beside it; read only."""
    from tests.toy_public import build_toy_public, write_files

    folder = tmp_path_factory.mktemp("public")
    shutil.copytree(lake_dir, folder / "lake")
    build_toy_public(folder / "lake", write_files(folder / "files"))
    return folder / "lake"


@pytest.fixture(scope="session")
def public_lake(public_lake_dir: Path) -> "Lake":
    """The lake with the toy public tier, opened."""
    from biomni_lib.lake import Lake

    return Lake.open(public_lake_dir)


@pytest.fixture(scope="module")
def ray_nodes() -> "Iterator[Nodes]":
    """A Ray cluster of two nodes that this process has joined."""
    from tests.ray_nodes import two_nodes

    with two_nodes() as nodes:
        yield nodes
