"""Train, dev and held-out without a shared disease or gene.

Diseases and genes form a graph; whole connected components go to one split. A few hubs (a gene with many diseases, a
disease with many genes) would tie the graph together and are dropped with their links. The division is the same for
every seed: it is part of the benchmark, not of a run.
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

    Returns: split name to `Split`; genes and diseases without a link, and hubs, are in none.
    """
    links = _links_without_hubs(lake)
    n_genes = len(lake.ensembl_ids)
    size = n_genes + len(lake.omims)
    graph = coo_array((np.ones(len(links)), (links[:, 0], n_genes + links[:, 1])), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    split_of = _assign(component[links[:, 0]], component[n_genes + links[:, 1]], component)
    made = {}
    for name in SPLITS:
        inside = links[split_of[component[links[:, 0]]] == SPLITS.index(name)]
        made[name] = Split(name, np.unique(inside[:, 0]), np.unique(inside[:, 1]), inside)
    return made


def _links_without_hubs(lake: Lake) -> np.ndarray:
    """(links, 2) gene and disease rows, both of them no hubs."""
    counts = np.diff(lake.diseases_of.starts)
    links = np.stack([np.repeat(np.arange(len(counts)), counts), lake.diseases_of.values], axis=1)
    gene_ok = counts < HUB_LINKS
    disease_ok = np.diff(lake.genes_of.starts) < HUB_LINKS
    return links[gene_ok[links[:, 0]] & disease_ok[links[:, 1]]]


def _assign(gene_components: np.ndarray, disease_components: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Split index of every component: in random order, each to the split that lacks most of its share."""
    weight = np.bincount(component)
    linked = np.union1d(gene_components, disease_components)
    goal = np.array([SHARES[name] for name in SPLITS]) * weight[linked].sum()
    filled, split_of = np.zeros(len(SPLITS)), np.full(len(weight), -1)
    for one in np.random.default_rng(np.random.SeedSequence(SPLIT_SEED)).permutation(linked):
        chosen = int(np.argmin(filled / goal))
        split_of[one] = chosen
        filled[chosen] += weight[one]
    return split_of
