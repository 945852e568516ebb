"""How a file of the public tier is had: from the mirror, from earlier downloads, from the network; and what is said."""

import functools
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from biomni_lib.errors import DataError
from biomni_lib.lake import public
from biomni_lib.lake.datasets import DATA_SETS, build_public, gold_table, public_manifests
from biomni_lib.lake.manifest import genome_dir, gold_dir
from biomni_lib.lake.phenopackets import members_sha256
from biomni_lib.lake.sources import Source
from tests.toy_public import phenopacket, write_archive

CONTENT = b"gene\tscore\n"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(public.MIRROR, raising=False)
    monkeypatch.setattr(public, "RETRIES", 0)


def source(url: str = "http://127.0.0.1:9/nothing", content: bytes = CONTENT) -> Source:
    return Source("toy", "folder/toy.tsv", url, "1", "CC0-1.0", hashlib.sha256(content).hexdigest())


def put(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "folder" / "toy.tsv"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_the_mirror_comes_before_earlier_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloaded = put(tmp_path / "downloads")
    assert public.obtain(source(), tmp_path / "downloads", download=False) == downloaded
    mirrored = put(tmp_path / "mirror")
    monkeypatch.setenv(public.MIRROR, str(tmp_path / "mirror"))
    assert public.obtain(source(), tmp_path / "downloads", download=False) == mirrored
    mirrored.unlink()
    assert public.obtain(source(), tmp_path / "downloads", download=False) == downloaded


def test_what_is_missing_is_named_with_the_command_that_gets_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder/toy\.tsv is missing; run `make data`.*BIOMNI_DATA_MIRROR") as caught:
        public.obtain(source(), tmp_path, download=False)
    assert "\n" not in str(caught.value)


def test_a_mirror_that_is_no_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(public.MIRROR, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"BIOMNI_DATA_MIRROR = .*nowhere.*no such folder"):
        public.obtain(source(), tmp_path, download=False)


def test_wrong_bytes_name_file_expected_and_found(tmp_path: Path) -> None:
    put(tmp_path, b"other")
    expected, found = (hashlib.sha256(content).hexdigest()[:12] for content in (CONTENT, b"other"))
    with pytest.raises(DataError, match=rf"toy\.tsv is not the file expected: sha256 {expected} .*{found} found"):
        public.obtain(source(), tmp_path, download=False)


def test_an_archive_is_known_by_its_cases(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "folder" / "toy.tsv", {"v/C/a.json": phenopacket("a")})
    pinned = replace(source(), sha256=members_sha256(path), digest_of="members")
    write_archive(path, {"other-version/C/a.json": phenopacket("a")})
    assert public.obtain(pinned, tmp_path, download=False) == path
    write_archive(path, {"v/C/a.json": phenopacket("b")})
    with pytest.raises(DataError, match="not the set of cases expected"):
        public.obtain(pinned, tmp_path, download=False)


def test_a_file_is_downloaded_once(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    (folder / "toy").write_bytes(CONTENT)
    pinned = source(f"{address}/toy")
    path = public.obtain(pinned, tmp_path / "downloads", download=True)
    assert path.read_bytes() == CONTENT and path == tmp_path / "downloads" / pinned.file
    (folder / "toy").unlink()
    assert public.obtain(pinned, tmp_path / "downloads", download=True) == path


def test_a_download_of_other_bytes_leaves_nothing(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    (folder / "toy").write_bytes(b"other")
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(public.DownloadError, match=rf"toy\.tsv could not be downloaded.*{found[:12]}"):
        public.obtain(source(f"{address}/toy"), tmp_path / "downloads", download=True)
    assert not [path for path in (tmp_path / "downloads").rglob("*") if path.is_file()]


def test_an_address_that_does_not_answer_is_said_in_one_line(tmp_path: Path, served: tuple[Path, str]) -> None:
    with pytest.raises(public.DownloadError, match=r"toy\.tsv could not be downloaded .*404.*make data") as caught:
        public.obtain(source(f"{served[1]}/absent"), tmp_path, download=True)
    assert "\n" not in str(caught.value)


def test_every_source_is_pinned() -> None:
    sources = {one for data_set in DATA_SETS for one in data_set.sources}
    assert len({one.file for one in sources}) == len({one.url for one in sources}) == len(sources)
    for one in sources:
        assert re.fullmatch("[0-9a-f]{64}", one.sha256) and one.url.startswith("https://") and one.licence
        assert re.search(r"@\d+\.\d+\.\d+/|/[0-9a-f]{40}/|/[0-9a-f]{7}\.zip", one.url), one.url


def test_data_sets_without_files_are_named_and_skipped(tmp_path: Path) -> None:
    absent = build_public(tmp_path / "lake", tmp_path / "downloads", download=False)
    assert set(absent) == {data_set.name for data_set in DATA_SETS}
    assert absent["screens"] == (
        f"BioDiscoveryAgent/ground_truth_Carnevale22_Adenosine.csv and 13 more missing; {public.REMEDY}"
    )
    assert public_manifests(tmp_path / "lake") == {} and not list(tmp_path.iterdir())


def test_a_wrong_file_at_hand_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / public.PHENOPACKETS.file
    write_archive(path, {"v/C/a.json": phenopacket("a")})
    monkeypatch.setenv(public.MIRROR, str(tmp_path))
    with pytest.raises(DataError, match=r"all_phenopackets\.zip is not the set of cases"):
        build_public(tmp_path / "lake", tmp_path / "downloads", download=False)


def test_answers_lie_apart_from_what_tools_read(public_lake_dir: Path) -> None:
    assert set(public_manifests(public_lake_dir)) == {data_set.name for data_set in DATA_SETS}
    answers, shown = gold_dir(public_lake_dir), (public_lake_dir, genome_dir(public_lake_dir))
    assert not any(answers.is_relative_to(folder) or folder.is_relative_to(answers) for folder in shown)
    assert sorted(folder.name for folder in answers.iterdir()) == ["drug_targets", "gwas_genes", "patients", "screens"]


def test_tables_of_answers_are_read_by_name(public_lake_dir: Path) -> None:
    (gold,) = gold_table(public_lake_dir, "gwas_genes", "gold_standards_2019").to_pylist()
    assert (gold["position"], gold["ensembl_id"], gold["trait"]) == (48500000, "ENSG00000166147", "body height")
    (target,) = gold_table(public_lake_dir, "drug_targets", "supported_targets").to_pylist()
    assert (target["gene"], target["similarity"], target["l2g_rank"], target["launched"]) == ("HBB", 0.9, 1, True)
    screens = gold_table(public_lake_dir, "screens", "screens").to_pylist()
    assert {row["screen"]: row["study"] for row in screens} == public.SCREENS
    scores = gold_table(public_lake_dir, "screens", "scores").to_pylist()
    assert {"screen": "IL2", "gene": "HBB", "score": -2.5} in scores and len(scores) == 2 * len(screens)
    patients = gold_table(public_lake_dir, "patients", "patients").to_pylist()
    assert [row["excluded"] for row in patients] == [["HP:0000900"], ["HP:0000900"]]


def test_unknown_and_absent_answers_are_refused(public_lake_dir: Path, lake_dir: Path) -> None:
    with pytest.raises(DataError, match="no data set 'genome'; those with answers are gwas_genes"):
        gold_table(public_lake_dir, "genome", "genes")
    with pytest.raises(DataError, match="no table 'cases'; it has patients"):
        gold_table(public_lake_dir, "patients", "cases")
    with pytest.raises(DataError, match=r"patients is not built; run `make data`"):
        gold_table(lake_dir, "patients", "patients")
