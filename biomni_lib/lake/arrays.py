"""The lake's tables rearranged into NumPy arrays that are searched and sliced without any copy.

Rows of variable length are two arrays, `NAME.starts` and `NAME.values`: row r is `values[starts[r]:starts[r + 1]]`.
Strings are stored so as UTF-8 bytes, profiles as two such rows and their inverse.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

Arrays = dict[str, np.ndarray]


def lake_arrays(tables: Mapping[str, pa.Table]) -> Arrays:
    """All arrays that `Lake` reads, by name.

    Args:
        tables: the tables of `lake_tables`, by name.
    """
    return _term_arrays(tables) | _owner_arrays(tables)


def _term_arrays(tables: Mapping[str, pa.Table]) -> Arrays:
    terms, alternatives, parents = (tables[name] for name in ("terms", "term_alternatives", "term_parents"))
    ancestors = tables["term_ancestors"]
    size, labels = len(terms), terms["synonyms"].to_pylist()
    ids = _numbers(terms["id"], "HP:")
    return {
        "term_ids": ids,
        "ic": terms["information_content"].to_numpy(),
        "annotated": terms["diseases"].to_numpy(),
        "phenotypic": terms["phenotypic"].to_numpy(),
        "alternatives": _numbers(alternatives["alternative"], "HP:"),
        "alternative_rows": np.searchsorted(ids, _numbers(alternatives["id"], "HP:")).astype(np.int32),
        "synonym_terms": np.repeat(np.arange(size, dtype=np.int32), [len(synonyms) for synonyms in labels]),
        **_strings("synonyms", [synonym for synonyms in labels for synonym in synonyms]),
        **_strings("term_names", terms["name"].to_pylist()),
        **_strings("definitions", terms["definition"].to_pylist()),
        **_groups("parents", parents["term"].to_numpy(), parents["parent"].to_numpy(), size),
        **_groups("ancestors", ancestors["term"].to_numpy(), ancestors["ancestor"].to_numpy(), size),
    }


def _owner_arrays(tables: Mapping[str, pa.Table]) -> Arrays:
    diseases, genes, terms = tables["diseases"], tables["genes"], len(tables["terms"])
    gene, disease = (tables["gene_disease"][name].to_numpy() for name in ("gene", "disease"))
    return {
        "omims": diseases["omim"].to_numpy(),
        **_strings("disease_names", diseases["name"].to_pylist()),
        "ensembl_ids": _numbers(genes["ensembl_id"], "ENSG"),
        "gene_starts": genes["start"].to_numpy(),
        "gene_lengths": genes["length"].to_numpy(),
        **_strings("symbols", genes["symbol"].to_pylist()),
        **_strings("chromosomes", genes["chromosome"].to_pylist()),
        **_strings("gene_descriptions", genes["description"].to_pylist()),
        **_groups("diseases_of", gene, disease, len(genes)),
        **_groups("genes_of", disease, gene, len(diseases)),
        **_profiles("disease_profiles", tables["disease_profiles"], "disease", len(diseases), terms),
        **_profiles("disease_closure", tables["disease_closure"], "disease", len(diseases), terms),
        **_profiles("gene_profiles", tables["gene_phenotypes"], "gene", len(genes), terms),
        **_profiles("gene_closure", tables["gene_closure"], "gene", len(genes), terms),
    }


def _numbers(ids: pa.ChunkedArray, prefix: str) -> np.ndarray:
    return np.array([int(value.removeprefix(prefix)) for value in ids.to_pylist()], np.int64)


def _strings(name: str, values: list[str]) -> Arrays:
    encoded = [value.encode("utf-8") for value in values]
    starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {f"{name}.starts": starts, f"{name}.values": np.frombuffer(b"".join(encoded), np.uint8)}


def _groups(name: str, owners: np.ndarray, values: np.ndarray, size: int) -> Arrays:
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=size))])
    return {f"{name}.starts": starts, f"{name}.values": values[np.argsort(owners, kind="stable")]}


def _profiles(name: str, table: pa.Table, key: str, size: int, terms: int) -> Arrays:
    owner, term, frequency = (table[column].to_numpy() for column in (key, "term", "frequency"))
    shown = frequency != 0
    return {
        **_groups(f"{name}.terms", owner, term, size),
        **_groups(f"{name}.frequencies", owner, frequency, size),
        **_groups(f"{name}.owners", term[shown], owner[shown], terms),
    }
