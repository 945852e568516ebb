"""A scripted teacher: the CPU stand-in for the frontier model that taught the original.

It reads the prompt and the observations, writes code that composes the tools, and answers what its code printed.
Strategies cross depth with quality, so that length alone says little: `lucky_guess` is short and poor, `all_findings`
short and good, `one_by_one` long and poor, `verified` long and best; `malformed` breaks the protocol in several ways.
Openly a design choice: correlations of length and score in models that learned from it reflect this design.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping

import numpy as np

from biomni_lib.engines.scripted import Conversation, Script
from biomni_lib.tasks.baselines import CONTRADICTION_WEIGHT, read_facts

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

ALL_FINDINGS = "I compare every candidate with all findings."
ONE_FINDING = "I look one of the findings up."
ONE_BY_ONE = "I look the findings up in turn."
GUESS = "I guess at one of the genes."
"""First thoughts, of equal length in tokens: then every strategy names the facts at the same distance from the prompt,
and a model of this size copies by distance."""
ANSWER = "I answer what my code has found."
"""Thought before every answer. With the id first in the answer and last in the observation, it too stands at one
distance from where it is copied."""
_DISEASES = "d = [o for x in genes for o in diseases_of_gene(x)]\n"
_PRINT_DISEASE = 'print(s, json.dumps({"disease_name": disease_profile(o)["name"], "OMIM_ID": o}))'
_PRINT_GENE = 'print(s, json.dumps({"causal_gene": [x]}))'


class Case:
    """The facts of a prompt, and how its task is answered."""

    def __init__(self, prompt: str) -> None:
        self.findings, self.excluded, self.genes = (", ".join(ids) for ids in read_facts(prompt))
        self.wants_disease = "OMIM_ID" in prompt

    def facts(self) -> str:
        """Code that names what the prompt tells, in its order."""
        named = {"t": self.findings, "e": self.excluded, "genes": self.genes}
        return "import json\n" + "".join(f'{name} = "{ids}".split(", ")\n' for name, ids in named.items() if ids)

    def setup(self) -> str:
        """The facts, and the diseases that are possible where a disease is asked for."""
        return self.facts() + (_DISEASES if self.wants_disease else "")

    def rank(self, score: str) -> str:
        """Code that finds the best answer by a score of a disease `o` and prints it with its score."""
        if self.wants_disease:
            return f"s, o = max(({score}, o) for o in d)\n{_PRINT_DISEASE}"
        return f"s, x = max((max({score} for o in diseases_of_gene(x)), x) for x in genes)\n{_PRINT_GENE}"


def _execute(thought: str, code: str) -> str:
    return f"<think>\n{thought}\n</think>\n<execute>\n{code}\n</execute>"


def answer(observation: str) -> str:
    """The turn that gives the answer which the code printed behind its score, the id first."""
    printed = observation.partition(" ")[2]
    with contextlib.suppress(ValueError, AttributeError):  # an error was printed: it is answered, and graded as wrong
        printed = json.dumps(dict(reversed(json.loads(printed).items())))
    return f"<think>\n{ANSWER}\n</think>\n<solution>\n{printed}\n</solution>"


def _lucky_guess(case: Case, seen: Conversation, rng: np.random.Generator) -> str:
    if seen.turns:
        return answer(seen.observations[-1])
    guessed = f"x = genes[{int(rng.integers(len(case.genes.split(', '))))}]\n"
    if case.wants_disease:
        return _execute(GUESS, f"{case.facts()}{guessed}s, o = 0, diseases_of_gene(x)[0]\n{_PRINT_DISEASE}")
    return _execute(GUESS, f"{case.facts()}{guessed}s = 0\n{_PRINT_GENE}")


def _one_finding(case: Case, seen: Conversation, rng: np.random.Generator) -> str:
    if not seen.turns:
        chosen = int(rng.integers(len(case.findings.split(", "))))
        return _execute(ONE_FINDING, case.setup() + case.rank(f"match_score(t[{chosen}], o)"))
    return answer(seen.observations[-1])


def _one_by_one(case: Case, seen: Conversation, rng: np.random.Generator) -> str:
    chosen = rng.permutation(len(case.findings.split(", ")))[:3].tolist()
    done = len(seen.turns)
    if done == len(chosen):
        return answer(seen.observations[-1])
    code = case.rank(f"match_score(t[{chosen[done]}], o)")
    return _execute("I look the next finding up.", code) if done else _execute(ONE_BY_ONE, case.setup() + code)


def _all_findings(case: Case, seen: Conversation, rng: np.random.Generator) -> str:
    if not seen.turns:
        return _execute(ALL_FINDINGS, case.setup() + case.rank("match_score(t, o)"))
    return answer(seen.observations[-1])


def _verified(case: Case, seen: Conversation, rng: np.random.Generator) -> str:
    if not case.excluded or len(seen.turns) != 1:
        return _all_findings(case, seen, rng)
    code = case.rank(f"match_score(t, o) - {CONTRADICTION_WEIGHT} * contradictions(e, o)")
    return _execute("I verify against the excluded findings.", code)


def _malformed(case: Case, seen: Conversation, rng: np.random.Generator) -> str:
    way = int(rng.integers(4))
    turn = _all_findings(case, seen, rng)
    if way == 0:
        return turn.replace("<think>\n", "", 1)
    if way == 1:
        return turn[: turn.index("</think>")]
    if way == 2:
        return turn.replace("</think>\n", "</think>\n<think>\nMore.\n</think>\n", 1)
    return "<think>\nI know this.\n</think>\nThe answer is clear."


_SCRIPTS: Mapping[str, Callable[[Case, Conversation, np.random.Generator], str]] = {
    "lucky_guess": _lucky_guess,
    "one_finding": _one_finding,
    "one_by_one": _one_by_one,
    "all_findings": _all_findings,
    "verified": _verified,
    "malformed": _malformed,
}


def strategy_script(strategy: str) -> Script:
    """The script of one strategy, for `ScriptedEngine`."""

    def script(seen: Conversation, rng: np.random.Generator) -> str:
        return _SCRIPTS[strategy](Case(seen.prompt), seen, rng)

    return script
