"""A scripted teacher: the CPU stand-in for the frontier model that taught the original.

It reads the prompt and the observations, writes code that composes the tools, and answers what its code printed.
Strategies cross depth with quality, so that length alone says little: `lucky_guess` is short and poor, `all_findings`
short and good, `one_by_one` long and poor, `verified` long and best; `malformed` breaks the protocol in several ways.
Openly a design choice: correlations of length and score in models that learned from it reflect this design.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np

from biomni_lib.engines.scripted import Conversation, Script
from biomni_lib.tasks.baselines import CONTRADICTION_WEIGHT

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

_DISEASES = "d = [o for x in genes for o in diseases_of_gene(x)]\n"
_PRINT_DISEASE = 'print(s, json.dumps({"disease_name": disease_profile(o)["name"], "OMIM_ID": o}))'
_PRINT_GENE = 'print(s, json.dumps({"causal_gene": [x]}))'


class _Case:
    """The facts of a prompt, and how its task is answered."""

    def __init__(self, prompt: str) -> None:
        lines = dict(line.split(": ", 1) for line in prompt.splitlines() if ": " in line)
        self.findings = lines["Phenotypes"]
        excluded = lines.get("Excluded phenotypes", "none")
        self.excluded = "" if excluded == "none" else excluded
        self.genes = lines["Candidate genes"]
        self.wants_disease = "OMIM_ID" in lines["Output format"]

    def rank(self, score: str) -> str:
        """Code that finds the best answer by a score of a disease `o` and prints it with its score."""
        if self.wants_disease:
            return f"s, o = max(({score}, o) for o in d)\n{_PRINT_DISEASE}"
        return f"s, x = max((max({score} for o in diseases_of_gene(x)), x) for x in genes)\n{_PRINT_GENE}"

    def setup(self, findings: str, genes: str | None = None) -> str:
        """Code that names the findings and the possible entities."""
        code = f'import json\nt = "{findings}".split(", ")\ngenes = "{genes or self.genes}".split(", ")\n'
        return code + (_DISEASES if self.wants_disease else "")


def _execute(thought: str, code: str) -> str:
    return f"<think>\n{thought}\n</think>\n<execute>\n{code}\n</execute>"


def _solution(thought: str, answer: str) -> str:
    return f"<think>\n{thought}\n</think>\n<solution>\n{answer}\n</solution>"


def _answer(thought: str, observation: str) -> str:
    """The answer that the code printed behind its score."""
    return _solution(thought, observation.partition(" ")[2])


def _lucky_guess(case: _Case, seen: Conversation, rng: np.random.Generator) -> str:
    gene = str(rng.choice(case.genes.split(", ")))
    if not case.wants_disease:
        return _solution("I guess one of the genes.", json.dumps({"causal_gene": [gene]}))
    if not seen.turns:
        code = f'import json\ns, o = 0, diseases_of_gene("{gene}")[0]\n{_PRINT_DISEASE}'
        return _execute("I guess one of the genes.", code)
    return _answer("I take its disease.", seen.observations[0])


def _one_finding(case: _Case, seen: Conversation, rng: np.random.Generator) -> str:
    if not seen.turns:
        finding = str(rng.choice(case.findings.split(", ")))
        return _execute("I look one finding up.", case.setup(finding) + case.rank("match_score(t, o)"))
    return _answer("I take the best match.", seen.observations[-1])


def _one_by_one(case: _Case, seen: Conversation, rng: np.random.Generator) -> str:
    findings = rng.permutation(case.findings.split(", "))[:3].tolist()
    done = len(seen.turns)
    if done == 0:
        return _execute("I look the findings up one by one.", case.setup(findings[0]) + case.rank("match_score(t, o)"))
    if done < len(findings):
        return _execute("I look the next finding up.", f't = "{findings[done]}"\n' + case.rank("match_score(t, o)"))
    return _answer("I take the last match.", seen.observations[-1])


def _all_findings(case: _Case, seen: Conversation, rng: np.random.Generator) -> str:
    if not seen.turns:
        code = case.setup(case.findings) + case.rank("match_score(t, o)")
        return _execute("I compare every candidate with all findings.", code)
    return _answer("I take the best match.", seen.observations[-1])


def _verified(case: _Case, seen: Conversation, rng: np.random.Generator) -> str:
    if not case.excluded or len(seen.turns) != 1:
        return _all_findings(case, seen, rng)
    code = f'e = "{case.excluded}".split(", ")\n'
    code += case.rank(f"match_score(t, o) - {CONTRADICTION_WEIGHT} * contradictions(e, o)")
    return _execute("I verify against the excluded findings.", code)


def _malformed(case: _Case, seen: Conversation, rng: np.random.Generator) -> str:
    way = int(rng.integers(4))
    turn = _all_findings(case, seen, rng)
    if way == 0:
        return turn.replace("<think>\n", "", 1)
    if way == 1:
        return turn[: turn.index("</think>")]
    if way == 2:
        return turn.replace("</think>\n", "</think>\n<think>\nMore.\n</think>\n", 1)
    return "<think>\nI know this.\n</think>\nThe answer is clear."


_SCRIPTS: Mapping[str, Callable[[_Case, Conversation, np.random.Generator], str]] = {
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
        return _SCRIPTS[strategy](_Case(seen.prompt), seen, rng)

    return script
