import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError, RunError
from biomni_lib.lake import Lake
from biomni_lib.lake.datasets import DATA_SETS
from biomni_lib.lake.public import MIRROR
from biomni_lib.provenance import file_sha256, read_manifest, stage_state
from biomni_lib.stages import build_data
from biomni_lib.stages.stage import StageRun, key_file, key_of
from biomni_lib.tasks.splits import make_splits
from tests.toy_public import write_files


@pytest.fixture
def with_lake(config: RunConfig, lake_dir: Path) -> RunConfig:
    """The test's settings, with a copy of the lake in their runs' folder."""
    shutil.copytree(lake_dir, config.lake_dir)
    return config


def test_instances_read_back_equal(with_lake: RunConfig) -> None:
    tasks = build_data.open_tasks(with_lake, build_data.open_lake(with_lake))
    table = build_data.save_instances(with_lake, tasks)
    for split in ("train", "dev", "heldout"):
        drawn = [instance for task in tasks.values() for instance in task.instances(split)]
        read = build_data.load_instances(with_lake, split)
        assert read == drawn
        assert [i.meta for i in read] == [i.meta for i in drawn]
        assert table[table["split"] == split]["instances"].sum() == len(drawn)


def test_missing_and_broken_instances_name_the_remedy(config: RunConfig) -> None:
    with pytest.raises(DataError, match=r"train\.parquet cannot be read .*; run notebook 01_build_data"):
        build_data.load_instances(config, "train")
    path = StageRun(config, "build_data").paths.instances("train")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match="cannot be read"):
        build_data.load_instances(config, "train")


def test_an_altered_lake_is_refused_and_built_anew(with_lake: RunConfig) -> None:
    table = with_lake.lake_dir / "genes.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"genes\.parquet"):
        build_data.open_lake(with_lake)


def test_the_manifest_covers_lake_and_instances(with_lake: RunConfig) -> None:
    run = StageRun(with_lake, "build_data")
    tasks = build_data.open_tasks(with_lake, build_data.open_lake(with_lake))
    build_data.finish(run, build_data.save_instances(with_lake, tasks))
    manifest = read_manifest(with_lake, "build_data")
    assert manifest is not None
    assert manifest.results["instances"]["train"] == len(tasks) * with_lake.data.train_instances
    assert "lake/genes.parquet" in manifest.outputs
    assert stage_state(with_lake, "build_data") == "done"
    run.paths.instances("dev").unlink()
    assert stage_state(with_lake, "build_data") == "output smoke/data/dev.parquet is missing"


def test_nothing_is_shared_between_splits(lake: Lake) -> None:
    splits = make_splits(lake)
    assert build_data.shared_between_splits(splits)[["diseases", "genes"]].to_numpy().sum() == 0
    leaky = splits | {"dev": splits["train"]}
    counts = build_data.shared_between_splits(leaky).set_index("splits")
    assert counts.loc["train and dev", "genes"] == len(splits["train"].genes)


def test_a_part_is_taken_up_under_its_key_only(config: RunConfig, tmp_path: Path) -> None:
    run, part = StageRun(config, "sft"), tmp_path / "part.parquet"
    with run.making(part, "one"):
        part.write_text("made")
    assert run.has(part, "one") and not run.has(part, "another")
    with pytest.raises(ZeroDivisionError), run.making(part, "one"):
        raise ZeroDivisionError
    assert not run.has(part, "one")  # a part that failed to be made again is not the one that was there
    key_file(part).write_text("not JSON")
    assert not run.has(part, "one")


def test_earlier_seconds_count(config: RunConfig, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_text("made")
    key_file(part).write_text(json.dumps({"key": "k", "seconds": 100.0}))
    run = StageRun(config, "build_data")
    assert run.has(part, "k") and run.has(part, "k")  # asked twice, counted once
    run.add_seconds("training", 50.0)
    assert 150 <= run.finish(inputs=[], outputs=[part]).seconds < 170


def test_a_key_follows_settings_and_files(config: RunConfig, tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_text("a")
    key = key_of(config, "data", files=[file.parent])
    assert key == key_of(config.model_copy(update={"seed": 1}), "data", files=[file.parent])
    assert key != key_of(config.model_copy(update={"seed": 1}), "data", "seed", files=[file.parent])
    file.write_text("b")
    assert key != key_of(config, "data", files=[file.parent])


def test_finish_wants_its_outputs(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing"):
        StageRun(config, "build_data").finish(inputs=[], outputs=[tmp_path / "nothing"])


def test_the_build_says_what_is_missing_and_goes_on(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR, raising=False)
    lines: list[str] = []
    built = build_data.build(config, report=lines.append)
    assert list(built) == ["lake"] and Lake.open(config.lake_dir).has_genome is False
    missing = [line for line in lines if "not built" in line]
    assert [line.split()[0] for line in missing] == [data_set.name for data_set in DATA_SETS]
    assert all("make data" in line and MIRROR in line for line in missing)


def test_the_build_takes_what_the_mirror_holds(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screens = next(one for one in DATA_SETS if one.name == "screens")
    paths = write_files(tmp_path / "mirror")
    pinned = {source: replace(source, sha256=file_sha256(paths[source])) for source in screens.sources}
    toy = replace(
        screens,
        sources=tuple(pinned.values()),
        build=lambda files: screens.build({real: files[ours] for real, ours in pinned.items()}),
    )
    monkeypatch.setattr("biomni_lib.lake.datasets.DATA_SETS", (toy,))
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    built = build_data.build(config)
    assert list(built) == ["lake", "screens"] and built["screens"].tables["scores"].rows == 14
    table = build_data.card_table(config)
    assert len(table) == 5 and table.loc["BioDiscoveryAgent screens", "rows"] == 14 + 7
