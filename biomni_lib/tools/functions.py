"""Tools over phenotypes, diseases and their genes: small functions that the agent's code composes.

Each takes ids as strings (an OMIM number also as an integer, a list of one id also as the bare id), returns plain
lists, dicts or numbers that print short, and raises ValueError with a short message for an id it does not know. None
takes the prompt or a list of candidates: comparing is the agent's work. The first argument, the lake, is bound by
`tool_functions` and is not part of what the agent sees.
"""

import numpy as np

from biomni_lib.lake import Lake
from biomni_lib.lake.columns import Profiles
from biomni_lib.tools.arguments import count
from biomni_lib.tools.scoring import expected_frequencies, overlap, overlap_with_all, shown_terms


def search_terms(lake: Lake, text: str, top: int = 5) -> list[tuple[str, str]]:
    """HPO terms whose name or synonym contains every word of a text, closest first.

    Args:
        text: words, upper or lower case. top: most results.
    Returns: [(HPO id, name), ...].
    Example: search_terms("low blood sugar", top=1) -> [("HP:0001943", "Hypoglycemia")]
    """
    words = str(text).lower().split()
    if not words:
        raise ValueError("search_terms needs at least one word")
    return [(lake.term_id(row), lake.term_names[row]) for row in _matching_terms(lake, words)[: count(top)]]


def term_info(lake: Lake, id: str) -> dict[str, object]:
    """What an HPO term means and where it stands in the ontology.

    Args:
        id: HPO id.
    Returns: {"id", "name", "definition", "parents": [HPO ids], "ic": information content in nats,
        "diseases": number of OMIM diseases that show it}.
    Example: term_info("HP:0001943")["name"] -> "Hypoglycemia"
    """
    row = lake.term_row(id)
    return {
        "id": lake.term_id(row),
        "name": lake.term_names[row],
        "definition": lake.definitions[row][:300],
        "parents": [lake.term_id(parent) for parent in lake.parents[row]],
        "ic": round(float(lake.ic[row]), 2),
        "diseases": int(lake.annotated[row]),
    }


def ancestors(lake: Lake, id: str) -> list[str]:
    """All broader terms of an HPO term, most specific first, the term itself left out.

    Args:
        id: HPO id.
    Returns: [HPO id, ...]; empty for the root.
    Example: "HP:0000118" in ancestors("HP:0001943") -> True
    """
    row = lake.term_row(id)
    above = lake.ancestors[row]
    above = above[above != row]
    return [lake.term_id(a) for a in above[np.argsort(-lake.ic[above], kind="stable")]]


def information_content(lake: Lake, ids: list[str]) -> list[float]:
    """How telling HPO terms are: -ln of the share of OMIM diseases that show the term.

    Args:
        ids: one HPO id or a list.
    Returns: one number in nats for each id, in order; 0 for the root, about 9 for the rarest.
    Example: information_content(["HP:0000118", "HP:0001943"]) -> [0.0, 3.87]
    """
    return [round(float(value), 2) for value in lake.ic[_term_rows(lake, ids)]]


def diseases_for_terms(lake: Lake, ids: list[str], top: int = 5) -> list[tuple[str, float]]:
    """The OMIM diseases, of all known, whose profiles explain some findings best.

    Args:
        ids: one HPO id or a list. top: most results.
    Returns: [(OMIM number, share of the findings' information explained, 0 to 1), ...], best first.
    Example: diseases_for_terms(["HP:0001645", "HP:0001657"], top=1) -> [("192500", 1.0)]
    """
    scores = overlap_with_all(lake, _term_rows(lake, ids), lake.disease_closure)
    return [(lake.omim(row), round(float(scores[row]), 3)) for row in _best(scores, top)]


def genes_for_terms(lake: Lake, ids: list[str], top: int = 5) -> list[tuple[str, float]]:
    """The genes, of all known, whose diseases together explain some findings best.

    Args:
        ids: one HPO id or a list. top: most results.
    Returns: [(Ensembl id, share of the findings' information explained, 0 to 1), ...], best first.
    Example: genes_for_terms(["HP:0002758", "HP:0001083"], top=1) -> [("ENSG00000060718", 1.0)]
    """
    scores = overlap_with_all(lake, _term_rows(lake, ids), lake.gene_closure)
    return [(lake.ensembl_id(row), round(float(scores[row]), 3)) for row in _best(scores, top)]


def disease_profile(lake: Lake, omim: str, top: int = 8) -> dict[str, object]:
    """Name and most frequent findings of a disease.

    Args:
        omim: OMIM number. top: most findings.
    Returns: {"omim", "name", "terms": [(HPO id, frequency 0 to 1 or None), ...], "absent": [HPO ids of findings
        looked for and never seen]}.
    Example: disease_profile("154700")["name"] -> "Marfan syndrome"
    """
    row = lake.disease_row(omim)
    return {"omim": lake.omim(row), "name": lake.disease_names[row]} | _findings(lake, lake.disease_profiles, row, top)


def gene_profile(lake: Lake, ensg: str, top: int = 8) -> dict[str, object]:
    """Symbol, place and most frequent findings of a gene, over all its diseases.

    Args:
        ensg: Ensembl id. top: most findings.
    Returns: {"ensg", "symbol", "description", "chromosome", "start" (base pairs, GRCh38), "terms": [(HPO id, frequency
        0 to 1 or None), ...], "absent": [HPO ids]}.
    Example: gene_profile("ENSG00000166147")["symbol"] -> "FBN1"
    """
    row = lake.gene_row(ensg)
    return {
        "ensg": lake.ensembl_id(row),
        "symbol": lake.symbols[row],
        "description": lake.gene_descriptions[row],
        "chromosome": lake.chromosomes[row],
        "start": int(lake.gene_starts[row]),
    } | _findings(lake, lake.gene_profiles, row, top)


def diseases_of_gene(lake: Lake, ensg: str) -> list[str]:
    """OMIM numbers of the diseases linked to a gene.

    Args:
        ensg: Ensembl id.
    Returns: [OMIM number, ...], ascending; empty when none is known.
    Example: "154700" in diseases_of_gene("ENSG00000166147") -> True
    """
    return [lake.omim(row) for row in lake.diseases_of[lake.gene_row(ensg)]]


def genes_of_disease(lake: Lake, omim: str) -> list[str]:
    """Ensembl ids of the genes linked to a disease.

    Args:
        omim: OMIM number.
    Returns: [Ensembl id, ...], ascending; empty when none is known.
    Example: genes_of_disease("154700") -> ["ENSG00000166147"]
    """
    return [lake.ensembl_id(row) for row in lake.genes_of[lake.disease_row(omim)]]


def match_score(lake: Lake, ids: list[str], entity: str) -> float:
    """How much of some findings' information one disease or gene explains.

    Args:
        ids: one HPO id or a list. entity: OMIM number or Ensembl id.
    Returns: 0 (nothing) to 1 (every finding is in the profile).
    Example: match_score(["HP:0001166", "HP:0001083"], "154700") -> 1.0
    """
    profiles, row = _entity(lake, entity)
    return round(overlap(lake, _term_rows(lake, ids), shown_terms(profiles, row)), 3)


def contradictions(lake: Lake, ids: list[str], entity: str) -> float:
    """How strongly findings that a patient does not have speak against one disease or gene.

    Args:
        ids: one HPO id or a list, the excluded findings. entity: OMIM number or Ensembl id.
    Returns: the sum of the frequencies with which the entity shows them: 0 (none is expected) to nearly the number of
        ids (all are always there); a finding of unknown frequency counts 0.5.
    Example: contradictions(["HP:0001166"], "154700") -> 0.629
    """
    profiles, row = _entity(lake, entity)
    return round(float(expected_frequencies(profiles, row, _term_rows(lake, ids)).sum()), 3)


TOOLS = (
    search_terms,
    term_info,
    ancestors,
    information_content,
    diseases_for_terms,
    genes_for_terms,
    disease_profile,
    gene_profile,
    diseases_of_gene,
    genes_of_disease,
    match_score,
    contradictions,
)


def _term_rows(lake: Lake, ids: list[str] | str) -> np.ndarray:
    listed = [ids] if isinstance(ids, str) else ids
    if not isinstance(listed, list | tuple | set):
        raise ValueError(f"ids must be a list of HPO ids, not {type(ids).__name__}")
    return np.array([lake.term_row(id) for id in listed], np.int64)


def _entity(lake: Lake, entity: str) -> tuple[Profiles, int]:
    if isinstance(entity, str) and entity.strip().upper().startswith("ENSG"):
        return lake.gene_closure, lake.gene_row(entity)
    return lake.disease_closure, lake.disease_row(entity)


def _findings(lake: Lake, profiles: Profiles, row: int, top: int) -> dict[str, object]:
    terms, frequencies = profiles.terms[row], profiles.frequencies[row]
    order = np.lexsort((-lake.ic[terms], -np.nan_to_num(frequencies, nan=-0.5)))
    shown = [at for at in order if frequencies[at] != 0][: count(top)]
    known = [(lake.term_id(terms[at]), _frequency(frequencies[at])) for at in shown]
    return {"terms": known, "absent": [lake.term_id(term) for term in terms[frequencies == 0]][: count(top)]}


def _frequency(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)


def _best(scores: np.ndarray, top: int) -> np.ndarray:
    best = np.argsort(-scores, kind="stable")[: count(top)]
    return best[scores[best] > 0]


def _matching_terms(lake: Lake, words: list[str]) -> list[int]:
    """Term rows whose name or one synonym holds every word; exact names first, then short ones."""
    query, ranks = " ".join(words), dict[int, tuple[bool, bool, int, int]]()
    for is_synonym, labels in ((False, lake.term_names_lower), (True, lake.synonyms_lower)):
        for hit in labels.rows_with(max(words, key=len)):
            label = labels[hit]
            if all(word in label for word in words):
                row = int(lake.synonym_terms[hit]) if is_synonym else hit
                rank = (label != query, is_synonym, len(label), row)
                ranks[row] = min(rank, ranks.get(row, rank))
    return [row for row in sorted(ranks, key=ranks.__getitem__) if lake.phenotypic[row]]
