"""The genome's tables and arrays, computed from the parsed gene caches.

Tables: `genes` (sorted by Ensembl id), `gene_synonyms`, `paralog_families` (the members of each family) and
`paralog_family` (the family of each gene), `tissues`, `tissue_expression`, `pathogenic_variants`, and `gwas_traits`
(names of traits without what studies of them found). Caches name genes by symbol; a symbol that several genes bear
stands for the one with the lowest Ensembl id, as in the bundled gene table.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from biomni_lib.lake.arrays import Arrays, groups, numbers, strings
from biomni_lib.lake.gene_caches import REVIEW_STATUS, SIGNIFICANCE, Expression, Gene, Variant
from biomni_lib.lake.gold_files import Trait

_FLOAT32 = ("minimum", "q1", "median", "q3", "maximum", "allele_frequency")


def records_table(kind: type, rows: list[Any]) -> pa.Table:
    """A table with one column a field of a dataclass; lists of text for tuples."""
    names = [field.name for field in fields(kind)]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    types = {name: pa.float32() for name in _FLOAT32} | {
        field.name: pa.list_(pa.string()) for field in fields(kind) if str(field.type).startswith("tuple")
    }
    return pa.table({name: pa.array(map(_listed, values), types.get(name)) for name, values in columns.items()})


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def genome_tables(
    genes: list[Gene],
    synonyms: list[tuple[str, str]],
    paralogs: tuple[list[set[str]], dict[str, int]],
    tissues: list[tuple[str, int]],
    expression: list[Expression],
    variants: list[Variant],
    traits: list[Trait],
) -> dict[str, pa.Table]:
    """The tables, by name; arguments as the readers of `gene_caches` and `gold_files.traits_of` return them."""
    families, family_of = paralogs
    members = [(number, one) for number, family in enumerate(families) for one in sorted(family)]
    return {
        "genes": records_table(Gene, genes),
        "gene_synonyms": _pairs(("symbol", "synonym"), synonyms),
        "paralog_families": _pairs(("family", "ensembl_id"), members),
        "paralog_family": _pairs(("ensembl_id", "family"), sorted(family_of.items())),
        "tissues": _pairs(("tissue", "samples"), tissues),
        "tissue_expression": records_table(Expression, expression),
        "pathogenic_variants": records_table(Variant, variants),
        "gwas_traits": records_table(Trait, traits),
    }


def _pairs(names: tuple[str, str], pairs: list[tuple[Any, Any]]) -> pa.Table:
    return pa.table({name: [pair[at] for pair in pairs] for at, name in enumerate(names)})


def genome_arrays(tables: Mapping[str, pa.Table]) -> Arrays:
    """All arrays that `Genome` reads, by name.

    Args:
        tables: the tables of `genome_tables`, by name.
    """
    symbols = [symbol.upper() for symbol in tables["genes"]["symbol"].to_pylist()]
    row_of = {symbol: row for row, symbol in reversed(list(enumerate(symbols)))}
    chromosomes = sorted(
        {*tables["genes"]["chromosome"].to_pylist(), *tables["pathogenic_variants"]["chromosome"].to_pylist()}
    )
    code_of = {name: code for code, name in enumerate(chromosomes)}
    return {
        **strings("chromosomes", chromosomes),
        **_gene_arrays(tables["genes"], code_of),
        **_name_arrays(tables, symbols, row_of),
        **_paralog_arrays(tables),
        **_expression_arrays(tables, row_of, len(symbols)),
        **_variant_arrays(tables["pathogenic_variants"], code_of),
        **_trait_arrays(tables["gwas_traits"]),
    }


def _gene_arrays(genes: pa.Table, code_of: dict[str, int]) -> Arrays:
    code = np.array([code_of[name] for name in genes["chromosome"].to_pylist()], np.int16)
    by_start = np.argsort(genes["start"].to_numpy(), kind="stable").astype(np.int32)
    return {
        "ensembl_ids": numbers(genes["ensembl_id"], "ENSG"),
        "gene_chromosomes": code,
        "gene_starts": genes["start"].to_numpy(),
        "gene_ends": genes["end"].to_numpy(),
        **groups("genes_on", code[by_start], by_start, len(code_of)),
        **strings("symbols", genes["symbol"].to_pylist()),
        **strings("descriptions", genes["description"].to_pylist()),
    }


def _name_arrays(tables: Mapping[str, pa.Table], symbols: list[str], row_of: dict[str, int]) -> Arrays:
    """Every symbol and synonym in upper case, sorted, with the gene that bears it; symbols before synonyms."""
    pairs = zip(*(tables["gene_synonyms"][name].to_pylist() for name in ("symbol", "synonym")), strict=True)
    known = [(row_of[symbol.upper()], synonym) for symbol, synonym in pairs if symbol.upper() in row_of]
    names = sorted(
        {(symbol, 0, row) for row, symbol in enumerate(symbols)}
        | {(synonym.upper(), 1, row) for row, synonym in known if synonym.upper() != symbols[row]}
    )
    by_gene = sorted(set(known))
    return {
        **strings("names", [name for name, _, _ in names]),
        "name_is_synonym": np.array([kind == 1 for _, kind, _ in names]),
        "name_genes": np.array([row for _, _, row in names], np.int32),
        **strings("synonyms", [synonym for _, synonym in by_gene]),
        "synonym_starts": np.searchsorted([row for row, _ in by_gene], np.arange(len(symbols) + 1)),
    }


def _paralog_arrays(tables: Mapping[str, pa.Table]) -> Arrays:
    members, owners = tables["paralog_families"], tables["paralog_family"]
    family = members["family"].to_numpy()
    return {
        **groups("family_members", family, numbers(members["ensembl_id"], "ENSG"), int(family.max(initial=-1)) + 1),
        "family_genes": numbers(owners["ensembl_id"], "ENSG"),
        "families": owners["family"].to_numpy(),
    }


def _trait_arrays(traits: pa.Table) -> Arrays:
    """`trait_words` holds in lower case what a trait is called anywhere."""
    names, reported = traits["name"].to_pylist(), traits["reported"].to_pylist()
    words = [" | ".join([name, *others]).lower() for name, others in zip(names, reported, strict=True)]
    return {
        **strings("trait_ids", traits["id"].to_pylist()),
        **strings("trait_names", names),
        **strings("trait_words", words),
        "trait_studies": np.array(traits["studies"].to_pylist(), np.int32),
    }


def _expression_arrays(tables: Mapping[str, pa.Table], row_of: dict[str, int], size: int) -> Arrays:
    """Expression of the genes that the gene cache knows; of a symbol's rows those of its first line alone."""
    table = tables["tissue_expression"]
    rows = np.array([row_of.get(symbol.upper(), -1) for symbol in table["symbol"].to_pylist()], np.int64)
    tissue, at = table["tissue"].to_numpy(), np.arange(len(rows))
    first = np.full((size + 1, len(tables["tissues"])), len(rows))
    np.minimum.at(first, (rows, tissue), at)
    kept = np.flatnonzero((rows >= 0) & (first[rows, tissue] == at))
    summary = np.stack([table[name].to_numpy() for name in ("minimum", "q1", "median", "q3", "maximum")], axis=1)
    return {
        **strings("tissues", tables["tissues"]["tissue"].to_pylist()),
        "tissue_samples": tables["tissues"]["samples"].to_numpy(),
        **groups("expression", rows[kept], kept.astype(np.int32), size),
        "expression_tissues": tissue.astype(np.int16),
        "expression_summaries": summary,
    }


def _variant_arrays(variants: pa.Table, code_of: dict[str, int]) -> Arrays:
    code = np.array([code_of[name] for name in variants["chromosome"].to_pylist()], np.int16)
    order = np.lexsort((variants["position"].to_numpy(), code))
    ordered = variants.take(order)
    rsids, clinvar = ordered["rsid"].to_numpy(), ordered["clinvar_id"].to_numpy()
    significance, review = (ordered[name].to_pylist() for name in ("significance", "review_status"))
    return {
        "variant_starts": np.searchsorted(code[order], np.arange(len(code_of) + 1)),
        "variant_positions": ordered["position"].to_numpy(),
        "variant_clinvar_ids": clinvar,
        "variant_rsids": rsids,
        "variant_significance": np.array([SIGNIFICANCE.index(value) for value in significance], np.int8),
        "variant_review": np.array([REVIEW_STATUS.index(value) for value in review], np.int8),
        "variant_frequencies": ordered["allele_frequency"].to_numpy(),
        "variants_by_rsid": np.argsort(rsids, kind="stable").astype(np.int32),
        "variants_by_clinvar_id": np.argsort(clinvar, kind="stable").astype(np.int32),
        **strings("variant_references", ordered["reference"].to_pylist()),
        **strings("variant_alternatives", ordered["alternative"].to_pylist()),
    }
