"""The tables of the lake, computed from the parsed raw files.

Tables (ids are strings as the databases print them, OMIM numbers integers, every index a row number):
`terms`, `term_alternatives`, `term_parents`, `term_ancestors`, `diseases`, `disease_phenotypes` (every annotation row),
`disease_profiles` (one row a disease and term), `disease_closure`, `genes`, `gene_disease`, `gene_phenotypes`,
`gene_closure`. A closure repeats a profile upwards: a patient with a term has all its ancestors. Profiles hold findings
below "phenotypic abnormality" alone; inheritance and course are in `disease_phenotypes`.
"""

import numpy as np
import pyarrow as pa

from biomni_lib.lake.hpo import PHENOTYPIC_ABNORMALITY, Annotation, Term
from biomni_lib.lake.sources import ANNOTATIONS, GENE_LINKS, GENES, ONTOLOGY, Source

Profile = dict[int, float]
"""Term row to frequency: 0 to 1, NaN where the source gives none; 0 says that the finding was looked for and absent."""


def lake_tables(
    terms: list[Term], annotations: list[Annotation], genes: list[dict[str, str]], links: list[tuple[str, int]]
) -> dict[str, tuple[pa.Table, Source]]:
    """All tables of the lake with the source that each derives from, by table name."""
    index = {term.id: row for row, term in enumerate(terms)}
    resolve = index | {old: index[term.id] for term in terms for old in term.alternatives if old not in index}
    ancestors = _ancestor_sets(terms, index)
    phenotypic = {row for row, above in enumerate(ancestors) if index[PHENOTYPIC_ABNORMALITY] in above}
    names = {a.omim: a.disease for a in annotations}
    omims = sorted(names)
    disease_row = {omim: row for row, omim in enumerate(omims)}
    profiles = _profiles(annotations, disease_row, resolve, phenotypic)
    closures = [_closure(profile, ancestors) for profile in profiles]
    symbols = {gene["symbol"]: row for row, gene in enumerate(genes)}
    edges = sorted((symbols[s], disease_row[o]) for s, o in links if s in symbols and o in disease_row)
    gene_profiles = _union(edges, profiles, len(genes))
    gene_closures = _union(edges, closures, len(genes))
    ic, counts = information_content(closures, len(terms))
    return {
        "terms": (_terms_table(terms, ic, counts, phenotypic), ONTOLOGY),
        "term_alternatives": (_alternatives_table(terms), ONTOLOGY),
        "term_parents": (
            _pairs("term", "parent", [(index[t.id], index[p]) for t in terms for p in t.parents]),
            ONTOLOGY,
        ),
        "term_ancestors": (
            _pairs("term", "ancestor", [(row, a) for row, above in enumerate(ancestors) for a in sorted(above)]),
            ONTOLOGY,
        ),
        "diseases": (pa.table({"omim": pa.array(omims, pa.int32()), "name": [names[o] for o in omims]}), ANNOTATIONS),
        "disease_phenotypes": (_annotations_table(annotations), ANNOTATIONS),
        "disease_profiles": (_profile_table("disease", profiles), ANNOTATIONS),
        "disease_closure": (_profile_table("disease", closures), ANNOTATIONS),
        "genes": (_genes_table(genes), GENES),
        "gene_disease": (_pairs("gene", "disease", edges), GENE_LINKS),
        "gene_phenotypes": (_profile_table("gene", gene_profiles), GENE_LINKS),
        "gene_closure": (_profile_table("gene", gene_closures), GENE_LINKS),
    }


def information_content(closures: list[Profile], n_terms: int) -> tuple[np.ndarray, np.ndarray]:
    """Information content of every term from how many diseases show it.

    Args:
        closures: per disease, the terms it shows with all ancestors.
    Returns: (ic, counts), each (n_terms,); ic = -ln(diseases with the term / annotated diseases), in nats; a term that
        no disease shows counts as shown by one.
    Source: Resnik 1995, over diseases in place of a text corpus.
    """
    counts = np.zeros(n_terms, np.int32)
    for closure in closures:
        counts[[term for term, frequency in closure.items() if frequency != 0]] += 1
    total = max(1, sum(any(f != 0 for f in closure.values()) for closure in closures))
    return np.log(total / np.maximum(counts, 1)).astype(np.float32), counts


def _ancestor_sets(terms: list[Term], index: dict[str, int]) -> list[set[int]]:
    """Per term, its ancestors and itself."""
    above: dict[str, set[int]] = {}
    parents = {term.id: term.parents for term in terms}

    def visit(term: str) -> set[int]:
        if term not in above:
            above[term] = {index[term]}.union(*(visit(parent) for parent in parents[term]))
        return above[term]

    return [visit(term.id) for term in terms]


def _profiles(
    annotations: list[Annotation], disease_row: dict[int, int], resolve: dict[str, int], phenotypic: set[int]
) -> list[Profile]:
    """Per disease one frequency a term: patient counts are pooled, otherwise stated frequencies averaged."""
    grouped: list[dict[int, list[Annotation]]] = [{} for _ in disease_row]
    for annotation in annotations:
        term = resolve.get(annotation.term)
        if annotation.aspect == "P" and term in phenotypic:
            grouped[disease_row[annotation.omim]].setdefault(term, []).append(annotation)
    return [{term: _pooled(rows) for term, rows in sorted(by_term.items())} for by_term in grouped]


def _pooled(rows: list[Annotation]) -> float:
    counted = [row for row in rows if row.examined > 0]
    if counted:
        return sum(row.affected for row in counted) / sum(row.examined for row in counted)
    stated = np.array([0.0 if row.excluded else row.frequency for row in rows], np.float64)
    known = stated[~np.isnan(stated)]
    return float(known.mean()) if len(known) else float("nan")


def _closure(profile: Profile, ancestors: list[set[int]]) -> Profile:
    """The shown terms with all ancestors; an ancestor is at least as frequent as its most frequent descendant."""
    closure: Profile = {}
    for term, frequency in profile.items():
        if frequency != 0:
            for ancestor in ancestors[term]:
                closure[ancestor] = _greater(closure.get(ancestor, np.nan), frequency)
    for term, frequency in profile.items():
        if frequency == 0:
            closure.setdefault(term, 0.0)
    return dict(sorted(closure.items()))


def _greater(old: float, new: float) -> float:
    """The larger of two frequencies; an unknown one (NaN) loses to any."""
    return new if old != old or new > old else old


def _union(edges: list[tuple[int, int]], profiles: list[Profile], n_genes: int) -> list[Profile]:
    """Per gene, the terms of all its diseases at the highest frequency of any."""
    merged: list[Profile] = [{} for _ in range(n_genes)]
    for gene, disease in edges:
        for term, frequency in profiles[disease].items():
            merged[gene][term] = _greater(merged[gene].get(term, np.nan), frequency)
    return [dict(sorted(profile.items())) for profile in merged]


def _profile_table(key: str, profiles: list[Profile]) -> pa.Table:
    rows = [(row, term, frequency) for row, profile in enumerate(profiles) for term, frequency in profile.items()]
    owner, term, frequency = zip(*rows, strict=True)
    return pa.table(
        {
            key: pa.array(owner, pa.int32()),
            "term": pa.array(term, pa.int32()),
            "frequency": pa.array(frequency, pa.float32()),
        }
    )


def _pairs(left: str, right: str, pairs: list[tuple[int, int]]) -> pa.Table:
    return pa.table(dict(zip((left, right), np.array(pairs, np.int32).reshape(-1, 2).T, strict=True)))


def _terms_table(terms: list[Term], ic: np.ndarray, counts: np.ndarray, phenotypic: set[int]) -> pa.Table:
    return pa.table(
        {
            "id": [term.id for term in terms],
            "name": [term.name for term in terms],
            "definition": [term.definition for term in terms],
            "synonyms": pa.array([list(term.synonyms) for term in terms], pa.list_(pa.string())),
            "phenotypic": [row in phenotypic for row in range(len(terms))],
            "information_content": ic,
            "diseases": counts,
        }
    )


def _alternatives_table(terms: list[Term]) -> pa.Table:
    pairs = sorted((old, term.id) for term in terms for old in term.alternatives)
    return pa.table({"alternative": [old for old, _ in pairs], "id": [new for _, new in pairs]})


def _annotations_table(annotations: list[Annotation]) -> pa.Table:
    columns = {name: [getattr(row, name) for row in annotations] for name in Annotation.__dataclass_fields__}
    del columns["disease"]
    types = {"omim": pa.int32(), "frequency": pa.float32(), "affected": pa.int32(), "examined": pa.int32()}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


def _genes_table(genes: list[dict[str, str]]) -> pa.Table:
    numbers = {"start", "length"}
    return pa.table(
        {name: [int(g[name]) if name in numbers else g[name] for g in genes] for name in (genes[0] if genes else ())}
    )
