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
    ids = numbers(terms["id"], "HP:")
    return {
        "term_ids": ids,
        "ic": terms["information_content"].to_numpy(),
        "annotated": terms["diseases"].to_numpy(),
        "phenotypic": terms["phenotypic"].to_numpy(),
        "alternatives": numbers(alternatives["alternative"], "HP:"),
        "alternative_rows": np.searchsorted(ids, numbers(alternatives["id"], "HP:")).astype(np.int32),
        "synonym_terms": np.repeat(np.arange(size, dtype=np.int32), [len(synonyms) for synonyms in labels]),
        **strings("synonyms", [synonym for synonyms in labels for synonym in synonyms]),
        **strings("term_names", terms["name"].to_pylist()),
        **strings("definitions", terms["definition"].to_pylist()),
        **groups("parents", parents["term"].to_numpy(), parents["parent"].to_numpy(), size),
        **groups("ancestors", ancestors["term"].to_numpy(), ancestors["ancestor"].to_numpy(), size),
    }


def _owner_arrays(tables: Mapping[str, pa.Table]) -> Arrays:
    diseases, genes, terms = tables["diseases"], tables["genes"], len(tables["terms"])
    gene, disease = (tables["gene_disease"][name].to_numpy() for name in ("gene", "disease"))
    return {
        "omims": diseases["omim"].to_numpy(),
        **strings("disease_names", diseases["name"].to_pylist()),
        "ensembl_ids": numbers(genes["ensembl_id"], "ENSG"),
        "gene_starts": genes["start"].to_numpy(),
        "gene_lengths": genes["length"].to_numpy(),
        **strings("symbols", genes["symbol"].to_pylist()),
        **strings("chromosomes", genes["chromosome"].to_pylist()),
        **strings("gene_descriptions", genes["description"].to_pylist()),
        **groups("diseases_of", gene, disease, len(genes)),
        **groups("genes_of", disease, gene, len(diseases)),
        **_profiles("disease_profiles", tables["disease_profiles"], "disease", len(diseases), terms),
        **_profiles("disease_closure", tables["disease_closure"], "disease", len(diseases), terms),
        **_profiles("gene_profiles", tables["gene_phenotypes"], "gene", len(genes), terms),
        **_profiles("gene_closure", tables["gene_closure"], "gene", len(genes), terms),
    }


def numbers(ids: pa.ChunkedArray, prefix: str) -> np.ndarray:
    """(n,) the numbers inside database ids."""
    return np.array([int(value.removeprefix(prefix)) for value in ids.to_pylist()], np.int64)


def strings(name: str, values: list[str]) -> Arrays:
    """Strings end to end as UTF-8, under `NAME.starts` and `NAME.values`."""
    encoded = [value.encode("utf-8") for value in values]
    starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {f"{name}.starts": starts, f"{name}.values": np.frombuffer(b"".join(encoded), np.uint8)}


def groups(name: str, owners: np.ndarray, values: np.ndarray, size: int) -> Arrays:
    """Values by owner, in their order, under `NAME.starts` and `NAME.values`.

    Args:
        owners: (n,) row of the owner of each value. size: number of owners.
    """
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=size))])
    return {f"{name}.starts": starts, f"{name}.values": values[np.argsort(owners, kind="stable")]}


def _profiles(name: str, table: pa.Table, key: str, size: int, terms: int) -> Arrays:
    owner, term, frequency = (table[column].to_numpy() for column in (key, "term", "frequency"))
    shown = frequency != 0
    return {
        **groups(f"{name}.terms", owner, term, size),
        **groups(f"{name}.frequencies", owner, frequency, size),
        **groups(f"{name}.owners", term[shown], owner[shown], terms),
    }
