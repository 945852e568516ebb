"""No disease and no gene in two splits, distractors included."""

import numpy as np
import pytest

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.tasks import Instance, get_task
from biomni_lib.tasks.phenotypes import PATIENT_TASKS
from biomni_lib.tasks.splits import HUB_LINKS, SHARES, SPLITS, Split, make_splits

CONFIG = DataConfig(train_instances=300, dev_instances=150, heldout_instances=150)


PAIRS = [("train", "dev"), ("train", "heldout"), ("dev", "heldout")]


@pytest.fixture(scope="module")
def splits(lake: Lake) -> dict[str, Split]:
    return make_splits(lake)


@pytest.fixture(scope="module")
def instances(lake: Lake) -> dict[str, list[Instance]]:
    tasks = [get_task(name, lake, CONFIG, seed=0) for name in PATIENT_TASKS]
    return {split: [one for task in tasks for one in task.instances(split)] for split in SPLITS}


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_splits_share_nothing(splits: dict[str, Split], left: str, right: str) -> None:
    assert not np.intersect1d(splits[left].genes, splits[right].genes).size
    assert not np.intersect1d(splits[left].diseases, splits[right].diseases).size


def test_links_stay_inside(lake: Lake, splits: dict[str, Split]) -> None:
    """No disease of a split's gene is a disease of another split's gene, and the other way round."""
    reached = {
        name: (
            set(np.concatenate([lake.diseases_of[gene] for gene in split.genes]).tolist()),
            set(np.concatenate([lake.genes_of[disease] for disease in split.diseases]).tolist()),
        )
        for name, split in splits.items()
    }
    for left, right in PAIRS:
        assert not reached[left][0] & reached[right][0]
        assert not reached[left][1] & reached[right][1]


def test_nobody_is_a_hub(lake: Lake, splits: dict[str, Split]) -> None:
    for split in splits.values():
        assert max(len(lake.diseases_of[gene]) for gene in split.genes) < HUB_LINKS
        assert max(len(lake.genes_of[disease]) for disease in split.diseases) < HUB_LINKS


def test_shares_are_met(splits: dict[str, Split]) -> None:
    sizes = {name: len(split.genes) + len(split.diseases) for name, split in splits.items()}
    for name, size in sizes.items():
        assert size / sum(sizes.values()) == pytest.approx(SHARES[name], abs=0.02)


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_instances_share_no_gene_or_disease(
    lake: Lake, instances: dict[str, list[Instance]], left: str, right: str
) -> None:
    def named(split: str) -> tuple[set[str], set[str]]:
        genes = {gene for one in instances[split] for gene in one.meta["candidates"]}
        return genes, {lake.omim(row) for gene in genes for row in lake.diseases_of[lake.gene_row(gene)]}

    for mine, other in zip(named(left), named(right), strict=True):
        assert mine and not mine & other


def test_prompts_name_only_their_splits_genes(
    lake: Lake, splits: dict[str, Split], instances: dict[str, list[Instance]]
) -> None:
    for name, split in splits.items():
        genes = set(split.genes.tolist())
        assert all(lake.gene_row(gene) in genes for one in instances[name] for gene in one.meta["candidates"])
