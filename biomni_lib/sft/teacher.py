"""A scripted teacher: the CPU stand-in for the frontier model that taught the original.

It reads the prompt and the observations, writes code that composes the tools, and answers what its code printed.
Strategies cross depth with quality, so that length alone says little: `lucky_guess` is short and poor, `all_findings`
short and good, `one_by_one` long and poor, `verified` long and best; `malformed` breaks the protocol in several ways.
Openly a design choice: correlations of length and score in models that learned from it reflect this design.
What a strategy writes depends on the task: `patient_scripts`, `question_scripts`, `candidate_scripts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from biomni_lib.engines.scripted import Conversation, Script
from biomni_lib.sft import candidate_scripts, patient_scripts, question_scripts, sequence_questions, turns

STRATEGIES: Mapping[str, float] = {
    "lucky_guess": 0.15,
    "one_finding": 0.23,
    "one_by_one": 0.20,
    "all_findings": 0.20,
    "verified": 0.14,
    "malformed": 0.08,
}
"""How often the mixed teacher follows each strategy."""
BEST_STRATEGY: Mapping[str, float] = {"verified": 1.0}
"""The best strategy alone, as a mix."""
_SCRIPTS = (candidate_scripts, patient_scripts, question_scripts, sequence_questions, turns)
SOURCES = (Path(__file__), *(Path(str(module.__file__)) for module in _SCRIPTS))
"""The modules that decide what it writes."""
Write = Callable[[Conversation, np.random.Generator], str]
"""The next turn of a conversation."""


def strategy_script(strategy: str) -> Script:
    """The script of one strategy, for `ScriptedEngine`.

    In use it raises ConfigError for a task that it does not know.
    """

    def script(seen: Conversation, rng: np.random.Generator) -> str:
        if strategy == "malformed":
            return _malformed(_scripts(seen.prompt)["all_findings"](seen, rng), int(rng.integers(4)))
        return _scripts(seen.prompt)[strategy](seen, rng)

    return script


def _scripts(prompt: str) -> Mapping[str, Write]:
    """A script for each well-formed strategy, by the kind of prompt."""
    if question_scripts.is_case(prompt):
        return question_scripts.CASE_SCRIPTS
    if candidate_scripts.offers_candidates(prompt):
        return candidate_scripts.SCRIPTS
    return question_scripts.SCRIPTS if question_scripts.is_question(prompt) else patient_scripts.SCRIPTS


def _malformed(turn: str, way: int) -> str:
    """A turn that breaks the protocol in one of four ways."""
    if way == 0:
        return turn.replace("<think>\n", "", 1)
    if way == 1:
        return turn[: turn.index("</think>")]
    if way == 2:
        return turn.replace("</think>\n", "</think>\n<think>\nMore.\n</think>\n", 1)
    return "<think>\nI know this.\n</think>\nThe answer is clear."
