"""The committed sequences: real letters, whole, and nothing alike in two splits."""

from collections.abc import Iterator

import pytest

from biomni_lib.errors import DataError
from biomni_lib.lake.sequences import SEQUENCE_TABLE, Record, derive_sequence_table, read_sequence_table
from biomni_lib.lake.sources import SEQUENCES, source_path
from biomni_lib.tasks.splits import SPLITS
from tests.seqqa_solver import other_strand

WORD = 24
"""Bases: of 1.3 million words 0.003 pairs would agree by chance (1.3e6 squared, halved, over 4 to the 24th)."""


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return read_sequence_table()


def words(record: Record) -> Iterator[str]:
    """All words of both strands, across the origin of circular records."""
    text = record.sequence + (record.sequence[: WORD - 1] if record.topology == "circular" else "")
    for strand in (text, other_strand(text)):
        yield from (strand[at : at + WORD] for at in range(len(strand) - WORD + 1))


def test_records_are_named_once_and_every_split_has_some(records: list[Record]) -> None:
    assert len({record.name for record in records}) == len(records)
    assert {record.split for record in records} == set(SPLITS)
    assert all(set(record.sequence) == set("ACGT") and len(record.sequence) > 3900 for record in records)
    assert {record.topology for record in records} == {"circular", "linear"}


def test_no_word_lies_in_two_splits(records: list[Record]) -> None:
    held = {split: {word for one in records if one.split == split for word in words(one)} for split in SPLITS}
    for left, right in (("train", "dev"), ("train", "heldout"), ("dev", "heldout")):
        assert held[left] and not held[left] & held[right]


def test_known_genomes_are_whole(records: list[Record]) -> None:
    """Lengths as GenBank states them: NC_001422, NC_005816, NC_000932, and lambda's NC_001416."""
    lengths = {record.name: len(record.sequence) for record in records}
    assert {lengths["phiX174"], lengths["pPCP1"], lengths["AtCp"], lengths["Lambda"]} == {5386, 9609, 154478, 48502}


def test_table_is_small_and_the_one_that_sources_name() -> None:
    assert SEQUENCE_TABLE.stat().st_size < 1_000_000
    assert source_path(SEQUENCES) == SEQUENCE_TABLE


def test_a_missing_archive_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"biopython-1\.88\.tar\.gz is missing"):
        derive_sequence_table(tmp_path)
