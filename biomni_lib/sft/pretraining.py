"""Teaching a model from scratch to copy identifiers, which any pretrained language model already can.

Copying needs attention heads that find where a list stands and read on from there; they form over many short documents
far sooner than over few long trajectories. A document is a list of findings and genes as a prompt writes it, then the
same lists as code writes them; the ids are drawn at random from the training split, so there is nothing else to learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.sft.train import Example
from biomni_lib.tasks import Instance
from biomni_lib.tasks.baselines import read_facts


def copy_documents(instances: Sequence[Instance], renderer: ChatRenderer, *, count: int, seed: int) -> list[Example]:
    """Documents whose second half repeats the ids of the first; the loss is on the second half.

    Args:
        instances: of the training split; their numbers of findings and genes are kept, their ids are mixed.
        count: documents. seed: of the mixing.
    """
    facts = [read_facts(instance.prompt) for instance in instances]
    terms = sorted({term for findings, excluded, _ in facts for term in (*findings, *excluded)})
    genes = sorted({gene for _, _, candidates in facts for gene in candidates})
    rng = np.random.default_rng(np.random.SeedSequence([seed, count]))
    documents = []
    for number in rng.integers(len(facts), size=count):
        findings, excluded, candidates = facts[number]
        shown = rng.choice(terms, len(findings) + len(excluded), replace=False).tolist()
        given, ruled_out = shown[: len(findings)], shown[len(findings) :]
        listed = rng.choice(genes, len(candidates), replace=False).tolist()
        documents.append(_document(renderer, given, ruled_out, listed))
    return documents


def _document(renderer: ChatRenderer, findings: list[str], excluded: list[str], genes: list[str]) -> Example:
    lists = ", ".join(findings), ", ".join(excluded) or "none", ", ".join(genes)
    source = "Phenotypes: {}\nExcluded phenotypes: {}\nCandidate genes: {}\n".format(*lists)
    copy = f't = "{lists[0]}".split(", ")\ngenes = "{lists[2]}".split(", ")\ne = "{lists[1]}".split(", ")\n'
    before, after = renderer.plain(source), renderer.plain(copy)
    mask = torch.tensor([False] * len(before) + [True] * len(after))
    return Example(torch.tensor(before + after), mask)
