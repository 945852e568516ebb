"""Teaching a model from scratch to copy identifiers, which any pretrained language model already can.

Copying needs attention heads that find where a list stands and read on from there; they form over many short documents
far sooner than over few long conversations. A document is a prompt of the training split with ids drawn at random,
then the lines of code that name them again: there is nothing else in it to learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.sft.train import Example
from biomni_lib.tasks import Instance
from biomni_lib.tasks.baselines import read_facts

THOUGHT = "I compare every candidate with all findings."


def copy_documents(instances: Sequence[Instance], renderer: ChatRenderer, *, count: int, seed: int) -> list[Example]:
    """Documents whose second half repeats the ids of the first; the loss is on the second half.

    Args:
        instances: of the training split; their prompts are kept, their ids are replaced by ids of other instances.
        count: documents. seed: of the drawing.
    """
    facts = [read_facts(instance.prompt) for instance in instances]
    terms = sorted({term for findings, excluded, _ in facts for term in (*findings, *excluded)})
    genes = sorted({gene for _, _, candidates in facts for gene in candidates})
    rng = np.random.default_rng(np.random.SeedSequence([seed, count]))
    documents = []
    for number in rng.integers(len(facts), size=count):
        findings, excluded, candidates = facts[number]
        shown = rng.choice(terms, len(findings) + len(excluded), replace=False).tolist()
        listed = rng.choice(genes, len(candidates), replace=False).tolist()
        new = dict(zip([*findings, *excluded, *candidates], [*shown, *listed], strict=True))
        documents.append(_document(renderer, instances[number].prompt, [findings, excluded, candidates], new))
    return documents


def _document(renderer: ChatRenderer, prompt: str, lists: list[list[str]], new: dict[str, str]) -> Example:
    for old in new:
        prompt = prompt.replace(old, f"<{old}>")
    for old, id in new.items():
        prompt = prompt.replace(f"<{old}>", id)
    findings, excluded, genes = (", ".join(new[id] for id in ids) for ids in lists)
    code = f't = "{findings}".split(", ")\ngenes = "{genes}".split(", ")\ne = "{excluded}".split(", ")\n'
    before, after = renderer.prompt("", prompt), renderer.assistant(f"<think>\n{THOUGHT}\n</think>\n<execute>\n{code}")
    mask = torch.tensor([False] * len(before) + [True] * len(after))
    return Example(torch.tensor(before + after), mask)
