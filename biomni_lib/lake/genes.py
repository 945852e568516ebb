"""The compact gene table: symbol, Ensembl id and GRCh38 position of every gene that the HPO links to a disease.

The table is committed (`data/genes.tsv.gz`); `python -m biomni_lib.lake.genes SOURCE` makes it again from the gene
cache of the npm package `ideogram` (`data/README.md`), byte for byte.
"""

import argparse
import csv
import gzip
import io
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from biomni_lib.errors import DataError
from biomni_lib.lake.sources import GENE_LINKS, source_path
from biomni_lib.provenance import atomic_write

COLUMNS = ("symbol", "ensembl_id", "chromosome", "start", "length", "description")
GENE_TABLE = Path(__file__).parent / "data" / "genes.tsv.gz"


def derive_gene_table(source: Path, symbols: Iterable[str]) -> bytes:
    """Reduce the ideogram gene cache to some genes.

    A symbol that names two loci keeps the lower Ensembl id: the X copy of the pseudoautosomal genes, the older model
    otherwise.

    Args:
        source: `homo-sapiens-genes.tsv.gz` of ideogram 1.53.0; positions in base pairs on GRCh38, starts 1-based.
        symbols: gene symbols to keep; unknown ones are left out.
    Returns: a gzip file (fixed time stamp), tab separated with a header row, sorted by Ensembl id.
    Raises: DataError when the file is not such a cache.
    """
    wanted, kept = set(symbols), dict[str, tuple[int, str, int, int, str]]()
    try:
        lines = gzip.decompress(source.read_bytes()).decode("utf-8").splitlines()
        for chromosome, start, length, slim_id, symbol, description, *_ in csv.reader(
            (line for line in lines if not line.startswith("#")), delimiter="\t", quoting=csv.QUOTE_NONE
        ):
            if symbol in wanted and (symbol not in kept or int(slim_id) < kept[symbol][0]):
                kept[symbol] = (int(slim_id), chromosome, int(start), int(length), unquote(description))
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{source} is not the ideogram gene cache ({error}); see {GENE_TABLE.parent}/README.md"
        ) from None
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
    writer.writerow(COLUMNS)
    for symbol, (number, *rest) in sorted(kept.items(), key=lambda item: item[1]):
        writer.writerow((symbol, f"ENSG{number:011d}", *rest))
    return gzip.compress(text.getvalue().encode("utf-8"), compresslevel=9, mtime=0)


def read_gene_table(path: Path) -> list[dict[str, str]]:
    """Rows of a table written by `derive_gene_table`, in file order, every value a string."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def linked_symbols(path: Path) -> set[str]:
    """Symbols of the genes that `genes_to_phenotype.txt` links to any disease."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["gene_symbol"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def main() -> None:
    """Write the committed gene table again from the ideogram cache."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", type=Path, help="homo-sapiens-genes.tsv.gz of ideogram 1.53.0")
    parser.add_argument("--output", type=Path, default=GENE_TABLE)
    arguments = parser.parse_args()
    atomic_write(arguments.output, derive_gene_table(arguments.source, linked_symbols(source_path(GENE_LINKS))))


if __name__ == "__main__":
    main()
