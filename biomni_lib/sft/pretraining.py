"""Teaching a model from scratch to copy identifiers, which any pretrained language model already can.

Copying needs attention heads that find where a list stands and read on from there; they form over many short documents
far sooner than over few long conversations. A document is a prompt of the training split with other digits in its ids,
since those of unseen patients end in any, then the lines of code with which the teacher names them again: there is
nothing else in it to learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.sft.teacher import ALL_FINDINGS, Case
from biomni_lib.sft.train import Example
from biomni_lib.tasks import Instance
from biomni_lib.tasks.baselines import read_facts

DIGITS = 4
"""Digits at the end of an id that are drawn: two of its three pairs, so that every pair is seen at both places."""


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
        prompt = prompt.replace(old, f"{old[:-DIGITS]}{rng.integers(10**DIGITS):0{DIGITS}d}", 1)
    return prompt


def _document(prompt: str, renderer: ChatRenderer) -> Example:
    code = Case(prompt).facts()
    before = renderer.prompt("", prompt)
    after = renderer.assistant(f"<think>\n{ALL_FINDINGS}\n</think>\n<execute>\n{code}")
    mask = torch.tensor([False] * len(before) + [True] * len(after))
    return Example(torch.tensor(before + after), mask)
