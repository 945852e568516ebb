"""What the scripted teacher writes about a patient: who is it, or which gene is it, among the candidates."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping

import numpy as np

from biomni_lib.engines.scripted import Conversation
from biomni_lib.sft.turns import (
    ALL_FACTS,
    ANSWER,
    GUESS,
    NEXT,
    ONE_BY_ONE,
    ONE_FACT,
    VERIFY,
    copy_facts,
    execute,
    solution,
)
from biomni_lib.tasks.baselines import CONTRADICTION_WEIGHT, read_facts

_FACTS = 't, e, genes = [re.findall(r"\\w+:?\\d{6,}", l) for l in q.split("\\n")]\n'
_DISEASES = "d = [o for x in genes for o in diseases_of_gene(x)]\n"
_PRINT_DISEASE = 'print(s, json.dumps({"disease_name": disease_profile(o)["name"], "OMIM_ID": o}))'
_PRINT_GENE = 'print(s, json.dumps({"causal_gene": [x]}))'


class Case:
    """The facts of a prompt, and how its task is answered."""

    def __init__(self, prompt: str) -> None:
        self.findings, self.excluded, self.genes = read_facts(prompt)
        self.facts = copy_facts(prompt) + _FACTS
        self.wants_disease = "OMIM_ID" in prompt

    def setup(self) -> str:
        """The facts, and the diseases that are possible where a disease is asked for."""
        return self.facts + (_DISEASES if self.wants_disease else "")

    def rank(self, score: str) -> str:
        """Code that finds the best answer by a score of a disease `o` and prints it with its score."""
        if self.wants_disease:
            return f"s, o = max(({score}, o) for o in d)\n{_PRINT_DISEASE}"
        return f"s, x = max((max({score} for o in diseases_of_gene(x)), x) for x in genes)\n{_PRINT_GENE}"


def answer(observation: str) -> str:
    """The turn that gives the answer which the code printed behind its score, the id first.

    With the id first in the answer and last in the observation, it stands at one distance from where it is copied.
    """
    printed = observation.partition(" ")[2]
    with contextlib.suppress(ValueError, AttributeError):  # an error was printed: it is answered, and graded as wrong
        printed = json.dumps(dict(reversed(json.loads(printed).items())))
    return solution(ANSWER, printed)


def _lucky_guess(seen: Conversation, rng: np.random.Generator) -> str:
    case = Case(seen.prompt)
    if seen.turns:
        return answer(seen.observations[-1])
    guessed = f"x = genes[{int(rng.integers(len(case.genes)))}]\n"
    if case.wants_disease:
        return execute(GUESS, f"{case.facts}{guessed}s, o = 0, diseases_of_gene(x)[0]\n{_PRINT_DISEASE}")
    return execute(GUESS, f"{case.facts}{guessed}s = 0\n{_PRINT_GENE}")


def _one_finding(seen: Conversation, rng: np.random.Generator) -> str:
    case = Case(seen.prompt)
    if not seen.turns:
        chosen = int(rng.integers(len(case.findings)))
        return execute(ONE_FACT, case.setup() + case.rank(f"match_score(t[{chosen}], o)"))
    return answer(seen.observations[-1])


def _one_by_one(seen: Conversation, rng: np.random.Generator) -> str:
    case = Case(seen.prompt)
    chosen = rng.permutation(len(case.findings))[:3].tolist()
    done = len(seen.turns)
    if done == len(chosen):
        return answer(seen.observations[-1])
    code = case.rank(f"match_score(t[{chosen[done]}], o)")
    return execute(NEXT, code) if done else execute(ONE_BY_ONE, case.setup() + code)


def _all_findings(seen: Conversation, rng: np.random.Generator) -> str:
    case = Case(seen.prompt)
    if not seen.turns:
        return execute(ALL_FACTS, case.setup() + case.rank("match_score(t, o)"))
    return answer(seen.observations[-1])


def _verified(seen: Conversation, rng: np.random.Generator) -> str:
    case = Case(seen.prompt)
    if not case.excluded or len(seen.turns) != 1:
        return _all_findings(seen, rng)
    code = case.rank(f"match_score(t, o) - {CONTRADICTION_WEIGHT} * contradictions(e, o)")
    return execute(VERIFY, code)


SCRIPTS: Mapping[str, Callable[[Conversation, np.random.Generator], str]] = {
    "lucky_guess": _lucky_guess,
    "one_finding": _one_finding,
    "one_by_one": _one_by_one,
    "all_findings": _all_findings,
    "verified": _verified,
}
