"""Train, dev and held-out without a shared disease or gene.

Diseases and genes form a graph; whole connected components go to one split. A few hubs (a gene with many diseases, a
disease with many genes) would tie the graph together: they are left out before it is divided, and whatever is linked to
a hub is left out afterwards, so that all diseases of a gene and all genes of a disease lie in its own split. The
division is the same for every seed: it is part of the benchmark, not of a run.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from biomni_lib.lake import Lake

SPLITS = ("train", "dev", "heldout")
SHARES = {"train": 0.70, "dev": 0.15, "heldout": 0.15}
"""Share of the linked genes and diseases in each split."""
HUB_LINKS = 10
"""A gene or disease with this many links or more is a hub: 23 of about 11,300."""
SPLIT_SEED = 20250116
"""Of the division only; the date of the HPO release."""


@dataclass(frozen=True)
class Split:
    """Rows of the lake that belong to one split, sorted; `links` are (gene, disease) pairs, both inside it."""

    name: str
    genes: np.ndarray
    diseases: np.ndarray
    links: np.ndarray


def make_splits(lake: Lake) -> dict[str, Split]:
    """Divide the disease-gene graph. Depends on the lake alone.

    Returns: split name to `Split`; hubs, what is linked to them, and what has no link are in none.
    """
    links = np.stack([_owners(lake.diseases_of.starts), lake.diseases_of.values], axis=1)
    gene_is_hub, disease_is_hub = (np.diff(groups.starts) >= HUB_LINKS for groups in (lake.diseases_of, lake.genes_of))
    hub_gene, hub_disease = gene_is_hub[links[:, 0]], disease_is_hub[links[:, 1]]
    tied = np.isin(links[:, 0], links[hub_disease, 0]) | np.isin(links[:, 1], links[hub_gene, 1])
    component = _components(links[~hub_gene & ~hub_disease], len(lake.ensembl_ids), len(lake.omims))
    split_of = _assign(component, np.unique(component[links[~hub_gene & ~hub_disease, 0]]))
    kept = links[~hub_gene & ~hub_disease & ~tied]
    made = {}
    for name in SPLITS:
        inside = kept[split_of[component[kept[:, 0]]] == SPLITS.index(name)]
        made[name] = Split(name, np.unique(inside[:, 0]), np.unique(inside[:, 1]), inside)
    return made


def _owners(starts: np.ndarray) -> np.ndarray:
    """The row that each stored value belongs to."""
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _components(links: np.ndarray, n_genes: int, n_diseases: int) -> np.ndarray:
    """Component of every gene, then of every disease."""
    size = n_genes + n_diseases
    graph = coo_array((np.ones(len(links)), (links[:, 0], n_genes + links[:, 1])), shape=(size, size))
    return connected_components(graph, directed=False)[1]


def _assign(component: np.ndarray, linked: np.ndarray) -> np.ndarray:
    """Split index of every linked component: in random order, each to the split that lacks most of its share."""
    weight = np.bincount(component)
    goal = np.array([SHARES[name] for name in SPLITS]) * weight[linked].sum()
    filled, split_of = np.zeros(len(SPLITS)), np.full(len(weight), -1)
    for one in np.random.default_rng(np.random.SeedSequence(SPLIT_SEED)).permutation(linked):
        chosen = int(np.argmin(filled / goal))
        split_of[one] = chosen
        filled[chosen] += weight[one]
    return split_of
