"""Teaching a model from scratch to copy identifiers, which any pretrained language model already can.

Copying needs attention heads that find where a list stands and read on from there; they form over many short documents
far sooner than over few long conversations. A document is a prompt of the training split with other digits in its ids,
then the lines of code that name them again, as far behind the prompt as the teacher's code names them: a model this
small finds them by their distance. There is nothing else to learn in a document, and no digits that all leave out.
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
GROUP = 3
"""Digits of a token. The last group of an id is always drawn: it tells an id apart from others."""
TWO_GROUPS = 0.25
"""Share of the ids whose last two groups are drawn; drawn in all of them, copying was not learned."""


def copy_documents(instances: Sequence[Instance], renderer: ChatRenderer, *, count: int, seed: int) -> list[Example]:
    """Documents whose second half repeats the ids of the first; the loss is on the second half.

    Args:
        instances: of the training split; their prompts are kept, their ids get other digits.
        count: documents. seed: of the drawing.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, count]))
    chosen = [instances[number] for number in rng.integers(len(instances), size=count)]
    return [_document(_other_digits(instance.prompt, rng), renderer) for instance in chosen]


def _other_digits(prompt: str, rng: np.random.Generator) -> str:
    """The prompt with other ids, of the same kinds at the same places."""
    for old in (id for ids in read_facts(prompt) for id in ids):
        digits = 2 * GROUP if rng.random() < TWO_GROUPS else GROUP
        prompt = prompt.replace(old, f"{old[:-digits]}{rng.integers(10**digits):0{digits}d}", 1)
    return prompt


def _document(prompt: str, renderer: ChatRenderer) -> Example:
    findings, excluded, genes = (", ".join(ids) for ids in read_facts(prompt))
    code = f'import json\nt = "{findings}".split(", ")\ngenes = "{genes}".split(", ")\ne = "{excluded}".split(", ")\n'
    before, after = renderer.prompt("", prompt), renderer.assistant(f"<think>\n{THOUGHT}\n</think>\n<execute>\n{code}")
    mask = torch.tensor([False] * len(before) + [True] * len(after))
    return Example(torch.tensor(before + after), mask)
