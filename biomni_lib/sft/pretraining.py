"""Teaching a model from scratch to copy identifiers, which any pretrained language model already can.

Copying needs attention heads that find where an id stands and read on from there; they form over many short documents
far sooner than over few long conversations. A document is a prompt of the training split with other digits in its ids,
since those of unseen patients end in any; the lines of code with which the teacher names them again; then
observations, each with the beginning of the turn that answers it, as far as the id or the letter. There is nothing else
in it to learn. Tasks of which the teacher names nothing again have no documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
import torch

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.sft import patient_scripts, question_scripts
from biomni_lib.sft.patient_scripts import Case
from biomni_lib.sft.question_scripts import is_question
from biomni_lib.sft.train import Example
from biomni_lib.sft.turns import ALL_FACTS, copy_facts, execute
from biomni_lib.tasks import Instance, refuse_evaluation_only
from biomni_lib.tasks.baselines import read_facts
from biomni_lib.tasks.choices import LETTERS

DIGITS = 4
"""Digits at the end of an id that are drawn: two of its three pairs, so that every pair is seen at both places."""
ANSWERS = 3
"""Observations and answers of a document: an answer is a few tokens, and copying it is learned last."""
NEWER = 0.2
"""Share of the terms that are made ones of HPO's newer series, HP:6…: real ones are too few to learn to copy."""
_ID = re.compile(r"(?:HP:|ENSG|OMIM:)\d{6,11}")
_ANSWERED = re.compile(r"\d{6,11}")


def copy_documents(instances: Sequence[Instance], renderer: ChatRenderer, *, count: int, seed: int) -> list[Example]:
    """Documents that repeat the ids of a prompt and of an observation; the loss is on the repetitions.

    Args:
        instances: of the training split; their prompts are kept, their ids get other digits.
        count: documents. seed: of the drawing.
    Raises: DataError for an instance of a benchmark.
    """
    refuse_evaluation_only((instance.id for instance in instances), "copy_documents")
    rng = np.random.default_rng(np.random.SeedSequence([seed, count]))
    named = [instance for instance in instances if _ID.search(instance.prompt)]
    chosen = [named[number] for number in rng.integers(len(named), size=count)] if named else []
    return [_document(instance, renderer, rng) for instance in chosen]


def _document(instance: Instance, renderer: ChatRenderer, rng: np.random.Generator) -> Example:
    prompt = _ID.sub(lambda id: _other_digits(id[0], rng), instance.prompt)
    answered = _of_question if is_question(prompt) else _of_patient
    parts = [
        renderer.prompt("", prompt),
        renderer.assistant(execute(ALL_FACTS, copy_facts(prompt).removesuffix("\n"))),
    ]
    for _ in range(ANSWERS):
        printed, turn = answered(prompt, instance.gold, rng)
        parts += [renderer.observation(printed), renderer.assistant(turn)]
    ids = [id for part in parts for id in part]
    written = [number % 2 == 1 for number, part in enumerate(parts) for _ in part]
    return Example(torch.tensor(ids), torch.tensor(written))


def _of_patient(prompt: str, gold: str, rng: np.random.Generator) -> tuple[str, str]:
    """An observation, and the turn that answers it as far as the id."""
    printed = f"{rng.random():.3f} {_candidate(prompt, gold, rng)}"
    turn = patient_scripts.answer(printed)
    return printed, turn[: next(_ANSWERED.finditer(turn)).end()]


def _of_question(prompt: str, gold: str, rng: np.random.Generator) -> tuple[str, str]:
    """The same, as far as the letter."""
    printed = str(rng.choice(list(LETTERS)))
    turn = question_scripts.answer(printed, rng)
    return printed, turn[: turn.index(f"\n{printed}\n") + 2]


def _other_digits(id: str, rng: np.random.Generator) -> str:
    """An id of the same kind with other digits."""
    if id.startswith("HP:") and rng.random() < NEWER:
        id = f"HP:6{id[4:]}"
    return f"{id[:-DIGITS]}{rng.integers(10**DIGITS):0{DIGITS}d}"


def _candidate(prompt: str, gold: str, rng: np.random.Generator) -> str:
    """An answer to the prompt, as the teacher's code prints one: any of its genes, or a disease that does not exist."""
    if not Case(prompt).wants_disease:
        return json.dumps({"causal_gene": [str(rng.choice(read_facts(prompt)[2]))]})
    disease = json.loads(gold)
    return json.dumps({"disease_name": disease["disease_name"], "OMIM_ID": _other_digits(disease["OMIM_ID"], rng)})
