"""The public tier's raw files: pinned address and checksum of each, and how one is had.

A file is taken from the folder that the environment variable `BIOMNI_DATA_MIRROR` names (the layout is the sources'
`file`), else from what was downloaded before, else, where that is allowed, downloaded with pooch, which shows progress,
tries again and leaves no half of a file. A download that breaks off begins anew: pooch does not resume.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from biomni_lib.errors import DataError
from biomni_lib.lake.phenopackets import members_sha256
from biomni_lib.lake.sources import Source
from biomni_lib.provenance import file_sha256

MIRROR = "BIOMNI_DATA_MIRROR"
REMEDY = f"run `make data` with a network, or set {MIRROR} to a folder that holds it"
RETRIES = 2

IDEOGRAM_VERSION = "ideogram 1.53.0"
SCREENS = {
    "Carnevale22_Adenosine": "Carnevale22",
    "IFNG": "Schmidt22",
    "IL2": "Schmidt22",
    "Sanchez21": "Sanchez21",
    "Sanchez21_down": "Sanchez21",
    "Scharenberg22": "Scharenberg22",
    "Steinhart_crispra_GD2_D22": "Steinhart22",
}
"""Study of each screen: the screens of one study share cells or scores, and with them their strongest genes."""


def _ideogram(kind: str, name: str, version: str, sha256: str) -> Source:
    path = f"{kind}/homo-sapiens-{kind}.tsv.gz"
    return Source(
        name=name,
        file=f"ideogram-1.53.0/{path}",
        url=f"https://cdn.jsdelivr.net/npm/ideogram@1.53.0/dist/data/cache/{path}",
        version=f"{IDEOGRAM_VERSION}, {version}",
        licence="CC0-1.0",
        sha256=sha256,
    )


GENES = _ideogram(
    "genes",
    "ideogram gene cache",
    "Ensembl 110, GRCh38",
    "710228fe86ec5bde458503df499a8e04c4793b38ead36ef8d87de593b2c71ed8",
)
SYNONYMS = _ideogram(
    "synonyms",
    "ideogram synonym cache",
    "undated",
    "f761de4cf068a2de29b4f31acb6b8e59cbbe94011b6aef787a01915c10e1ab8f",
)
PARALOGS = _ideogram(
    "paralogs",
    "ideogram paralog cache",
    "undated",
    "73b29c0e5d3af42b0d2b14aca8d44e669af17f4d9e8aef95dc56f3a741b9152e",
)
TISSUES = _ideogram(
    "tissues",
    "ideogram tissue cache",
    "GTEx v8",
    "b19f213fc131ba670c1695545b880e81e3041c645afe102af438e608a1a12337",
)
VARIANTS = _ideogram(
    "variants",
    "ideogram variant cache",
    "ClinVar 2024-12-15, GRCh38",
    "f4b72c14e3cdb275921e2d82394c359c2bf6daa1d1900b9c8ea4c10269ce8be2",
)


def _gold_standards(file: str, name: str, version: str, sha256: str) -> Source:
    commit = "a8aa2b011c57f1ee03e416fc699a5a029a0ab860"
    folder = f"https://raw.githubusercontent.com/opentargets/genetics-gold-standards/{commit}/gold_standards/processed"
    path = f"opentargets-genetics-gold-standards/{file}"
    return Source(name, path, f"{folder}/{file}", version, "Apache-2.0", sha256)


GOLD_2019 = _gold_standards(
    "gwas_gold_standards.191108.jsonl",
    "Open Targets genetics gold standards, 2019",
    "2019-11-08",
    "ec551b200914f39650302291030df534877a15fc4e062d5742bfcbe4563654f7",
)
GOLD_2023 = _gold_standards(
    "otg_gs_230511.json",
    "Open Targets genetics gold standards, 2023",
    "2023-05-11",
    "71bf319fd072e73ac572c1903a3a2b802a1b82c131a0d52392083980723f44fb",
)


def _genetic_support(file: str, name: str, sha256: str) -> Source:
    commit = "b84cf0580b7df1af14b2c72068ed42b5aa0c52a4"
    url = f"https://raw.githubusercontent.com/ericminikel/genetic_support/{commit}/{file}"
    return Source(name, f"genetic_support/{Path(file).name}", url, f"commit {commit[:7]}", "CC-BY-4.0", sha256)


SUPPORTED_TARGETS = _genetic_support(
    "display_items/table_s08.tsv",
    "genetic_support, supported targets",
    "962ca19030a0c87ddb1d054e35103a3c35fe258c3d205ed7bd5a074670d028eb",
)
PROGRAMMES = _genetic_support(
    "data/pp.tsv",
    "genetic_support, drug programmes",
    "db1bda5367759fb223f9d6c4dcb8bf13eaf50229289c5f6ac152b4478f6e4fdb",
)


def _screen(file: str, sha256: str) -> Source:
    commit = "19673c7371c542cfa155ffaa9047c53525f9fe2e"
    folder = "datasets/task_prompts" if file.endswith(".json") else "datasets"
    return Source(
        name="BioDiscoveryAgent screens",
        file=f"BioDiscoveryAgent/{file}",
        url=f"https://raw.githubusercontent.com/snap-stanford/BioDiscoveryAgent/{commit}/{folder}/{file}",
        version=f"commit {commit[:7]}",
        licence="MIT",
        sha256=sha256,
    )


SCREEN_SCORES = {
    "Carnevale22_Adenosine": _screen(
        "ground_truth_Carnevale22_Adenosine.csv", "07c8bf9c03daf1a13d02945d146c73d85233dfee945921df5265d9297169375d"
    ),
    "IFNG": _screen("ground_truth_IFNG.csv", "89c363b196976bd5d4574c0edb3447e1f93c3075ccff94f031066d2aa4cdb333"),
    "IL2": _screen("ground_truth_IL2.csv", "40b27104ea01f9e38d42822a1021cee00529dca34fcf2c9cca7bd4bd79622503"),
    "Sanchez21": _screen(
        "ground_truth_Sanchez21.csv", "e86b3cf2bcadce16d57621acd86fa3834153a4130e48e2a8a4e016964c197a41"
    ),
    "Sanchez21_down": _screen(
        "ground_truth_Sanchez21_down.csv", "901fa303cd6002464f6e32d75f7883e677b541b8586fedc381254895a72de7cc"
    ),
    "Scharenberg22": _screen(
        "ground_truth_Scharenberg22.csv", "8af56bc1b87f446a1c5fb87f9a48d96a28d32baff228f2cbe2fea24559d08255"
    ),
    "Steinhart_crispra_GD2_D22": _screen(
        "ground_truth_Steinhart_crispra_GD2_D22.csv", "16ddc7bc76cfe4683c6cf235be549b64d0e402ca831cc673806590161919274a"
    ),
}
SCREEN_QUESTIONS = {
    "Carnevale22_Adenosine": _screen(
        "Carnevale22_Adenosine.json", "69928ad0a2b1ef6e8e25b47a508f9148f4671869703b3cc69b3f9f4d39a2c7f3"
    ),
    "IFNG": _screen("IFNG.json", "16665e63d40f0bfb194c64b0c83907944459e93a77adc05341804599c43abe08"),
    "IL2": _screen("IL2.json", "275068796ce5cf2379a6f215c95a614d7586025e6d4d0f3689b65e5f687e91a4"),
    "Sanchez21": _screen("Sanchez21.json", "e9a5fcd93190eb4a15de8b0c3bb7e54d1ac01eb01f3acdad622d605f4d80300a"),
    "Sanchez21_down": _screen(
        "Sanchez21_down.json", "f669d0b0f03182c6571571a31637c9f53f5d2e5fbd62607d2be178b8547895e8"
    ),
    "Scharenberg22": _screen("Scharenberg22.json", "99530927eb2eee61c079d92265edd144e045a647a047eb933360f3e9005258bf"),
    "Steinhart_crispra_GD2_D22": _screen(
        "Steinhart_crispra_GD2_D22.json", "aa42d9ba1428ffa5b3244161b0054ce7e0c4ff3024b6d47b0a1dd0602121a0f1"
    ),
}

# What is pinned is the cases, not the archive that holds them. The address is of the repository's own archive at that
# commit, which packs each case as notebooks/COHORT/phenopackets/CASE.json. Verified: the digest, on the 10,580 cases in
# the layout of a release; that a case of the repository is one of these, by comparing one file. Not verified, for want
# of a network: that the address still answers, and that the commit's cases are these 10,580 and no other.
PHENOPACKETS = Source(
    name="Phenopacket Store",
    file="phenopacket-store/all_phenopackets.zip",
    url="https://github.com/monarch-initiative/phenopacket-store/archive/b694d17.zip",
    version="commit b694d17",
    licence="BSD-3-Clause",
    sha256="e83e4090831275a442b64d14e86f7949838e66c52dec7380a688f6fe43be01e9",
    digest_of="members",
)


class DownloadError(DataError):
    """A file that is not at hand and could not be downloaded; another time it may."""


def obtain(source: Source, downloads: Path, *, download: bool) -> Path:
    """Path of a raw file on this machine, checked against its checksum.

    Args:
        downloads: folder of what has been downloaded.
        download: whether the network may be asked for a file that is not at hand.
    Raises: DownloadError when it is not at hand and cannot be downloaded, DataError when it holds other bytes; both say
        what to do.
    """
    path = _at_hand(source, downloads)
    if path is None and download:
        path = _download(source, downloads)
    if path is None:
        raise DownloadError(f"{source.file} is missing; {REMEDY}")
    digest = members_sha256(path) if source.digest_of == "members" else file_sha256(path)
    if digest != source.sha256:
        what = "file" if source.digest_of == "file" else "set of cases"
        raise DataError(
            f"{path} is not the {what} expected: sha256 {source.sha256[:12]} expected, {digest[:12]} found; "
            "delete it, then run `make data`"
        )
    return path


def missing(sources: Iterable[Source], downloads: Path) -> list[Source]:
    """The sources that are neither in the mirror nor among the downloads."""
    return [source for source in sources if _at_hand(source, downloads) is None]


def _at_hand(source: Source, downloads: Path) -> Path | None:
    folders = [downloads]
    if named := os.environ.get(MIRROR):
        if not Path(named).is_dir():
            raise DataError(f"{MIRROR} = {named!r}: no such folder; name one laid out like the mirror, or unset it")
        folders.insert(0, Path(named))
    return next((folder / source.file for folder in folders if (folder / source.file).is_file()), None)


def _download(source: Source, downloads: Path) -> Path:
    import pooch

    known = f"sha256:{source.sha256}" if source.digest_of == "file" else None
    fetcher = pooch.create(
        path=downloads,
        base_url="",
        registry={source.file: known},
        urls={source.file: source.url},
        retry_if_failed=RETRIES,
    )
    try:
        return Path(fetcher.fetch(source.file, progressbar=True))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:240]
        raise DownloadError(f"{source.file} could not be downloaded from {source.url} ({reason}); {REMEDY}") from None
