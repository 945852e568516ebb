"""Tools over the names of GWAS traits: which ontology id a trait has, and which phenotype of the HPO it is.

They need the public tier (`make data`) and raise DataError without it. Which variants and genes a study of a trait
found is not told: that is what the tasks over associations ask.
"""

from biomni_lib.lake import Lake
from biomni_lib.lake.ids import number_in, row_of, shown
from biomni_lib.tools.arguments import count


def search_traits(lake: Lake, text: str, top: int = 10) -> list[tuple[str, str]]:
    """Traits of genome-wide studies whose name, or a study's own words for it, contains every word of a text.

    Args:
        text: words, upper or lower case. top: most results.
    Returns: [(ontology id, name), ...], shortest name first.
    Example: search_traits("height") -> [("EFO_0004339", "body height")]
    """
    words, genome = str(text).lower().split(), lake.genome
    if not words:
        raise ValueError("search_traits needs at least one word")
    hits = genome.trait_words.rows_with(max(words, key=len))
    kept = [row for row in hits if all(word in genome.trait_words[row] for word in words)]
    ranked = sorted((len(genome.trait_names[row]), genome.trait_ids[row], row) for row in kept)
    return [(id, genome.trait_names[row]) for _, id, row in ranked[: count(top)]]


def trait_info(lake: Lake, trait: str) -> dict[str, object]:
    """Name of a trait, the phenotype that it is, and how much it is studied.

    Args:
        trait: ontology id, or name as `search_traits` prints it; upper and lower case are the same.
    Returns: {"id", "name", "phenotype": HPO id of the same name or empty, "studies": of those that were curated}.
    Example: trait_info("EFO_0004339")["name"] -> "body height"
    """
    genome, sought = lake.genome, str(trait).strip().lower()
    known = range(len(genome.trait_ids))
    row = next((at for at in known if sought in (genome.trait_ids[at].lower(), genome.trait_names[at].lower())), -1)
    if row < 0:
        raise ValueError(f"unknown trait {shown(trait)}; expected an ontology id like EFO_0004339 or a name")
    id, name = genome.trait_ids[row], genome.trait_names[row]
    return {"id": id, "name": name, "phenotype": _phenotype(lake, id, name), "studies": int(genome.trait_studies[row])}


TOOLS = (search_traits, trait_info)


def _phenotype(lake: Lake, id: str, name: str) -> str:
    """The HPO term with this id, or else with this name or synonym."""
    row = row_of(lake.term_ids, number_in(id.replace("_", ":"), "HP:", 7))
    if row < 0:
        same = (at for at in lake.term_names_lower.rows_with(name.lower()) if lake.term_names_lower[at] == name.lower())
        row = next(same, -1)
    if row < 0:
        labels = lake.synonyms_lower
        same = (int(lake.synonym_terms[at]) for at in labels.rows_with(name.lower()) if labels[at] == name.lower())
        row = next(same, -1)
    return lake.term_id(row) if row >= 0 else ""
