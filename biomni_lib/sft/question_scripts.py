"""What the scripted teacher writes about a question with six options.

Of a question on the lake (`lab_bench_dbqa`) or on sequences (`lab_bench_seqqa`) the code copies the facts, scores each
option by the tools, and prints the letter of the best; on sequences `verified` looks for a second one as good. A case
of CRISPR delivery needs no tool: a rule of thumb names the method; there `lucky_guess` guesses and every other strategy
follows the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from biomni_lib.engines.scripted import Conversation
from biomni_lib.errors import ConfigError
from biomni_lib.sft import sequence_questions
from biomni_lib.sft.turns import (
    ALL_FACTS,
    ANSWER,
    GUESS,
    NEXT,
    ONE_BY_ONE,
    ONE_FACT,
    VERIFY_ANOTHER,
    copy_facts,
    execute,
    solution,
)
from biomni_lib.tasks.choices import LETTERS
from biomni_lib.tasks.crispr import letter_of, method_by_keywords, read_case
from biomni_lib.tasks.crispr_cases import METHODS

_ID = 'x = re.search(r"\\w+:?\\d{6,}", q)[0]\n'
_PLACE = 'x, *y = map(int, re.findall(r"\\d{5,}", q)[:2])\n'
_OPTIONS = 'o = dict(re.findall(r"(?m)^([a-f]): .*?(\\w+:?\\d*)\\)?$", q))\n'
KINDS: Mapping[str, tuple[str, str]] = {
    "on which human chromosome": (_ID, 'gene_profile(x)["chromosome"] == i'),
    "lies within the stretch": (_PLACE, 'x <= gene_profile(i)["start"] <= y[0]'),
    "lies closest to the position": (_PLACE, '-abs(gene_profile(i)["start"] - x)'),
    "genes is linked to the disease": (_ID, "i in genes_of_disease(x)"),
    "diseases is linked to the gene": (_ID, "x in genes_of_disease(i)"),
    "diseases is annotated with the phenotype": (_ID, "match_score(x, i)"),
    "phenotypes is the disease annotated with": (_ID, "match_score(i, x)"),
    "direct parent of the phenotype": (_ID, 'i in term_info(x)["parents"]'),
}
"""What a question says, to code that reads the fact `x` and code that scores an option's id `i` by it."""


class Question:
    """A prompt's fact and options, and the code that reads and scores them."""

    def __init__(self, prompt: str) -> None:
        first = prompt.partition("\n")[0]
        on_lake, on_sequences = (
            [code for said, code in kinds.items() if said in first] for kinds in (KINDS, sequence_questions.KINDS)
        )
        if not on_lake and not on_sequences:
            raise ConfigError(f"the scripted teacher cannot answer {first!r}; take its task out of data.tasks")
        self.of_sequences = not on_lake
        read, self.score = (on_lake or on_sequences)[0]
        self.read = f"{read}{_OPTIONS}" if on_lake else sequence_questions.stated(first) + read
        self.copy = copy_facts(prompt)

    def setup(self) -> str:
        """The facts, and the score of an option by its letter."""
        return f"{self.copy}{self.read}f = lambda k: (lambda i: {self.score})(o[k])\n"


def is_question(prompt: str) -> bool:
    """Whether a prompt offers options."""
    return "\nOptions:\n" in prompt


def is_case(prompt: str) -> bool:
    """Whether a prompt tells a case of CRISPR delivery."""
    return "\nCase: " in prompt


def answer(observation: str, rng: np.random.Generator) -> str:
    """The turn that answers the letter which the code printed, one of several, or any when it printed none."""
    printed = observation.split()
    return solution(ANSWER, str(rng.choice(printed)) if printed and {*printed} <= {*LETTERS} else _any_letter(rng))


def _any_letter(rng: np.random.Generator) -> str:
    return str(rng.choice(list(LETTERS)))


def _case(seen: Conversation, rng: np.random.Generator) -> str:
    """The answer to a case of CRISPR delivery, by the rule of thumb."""
    method = method_by_keywords(read_case(seen.prompt))
    return solution(f"This use asks for {METHODS[method].option}.", letter_of(seen.prompt, method))


def _lucky_guess(seen: Conversation, rng: np.random.Generator) -> str:
    return solution(GUESS, _any_letter(rng))


def _compare(thought: str, letters: str) -> Callable[[Conversation, np.random.Generator], str]:
    """Compare options in one turn. letters: code of those that are compared."""

    def script(seen: Conversation, rng: np.random.Generator) -> str:
        if seen.turns:
            return answer(seen.observations[-1], rng)
        pair = "".join(rng.permutation(list(LETTERS))[:2])
        return execute(thought, f"{Question(seen.prompt).setup()}print(max({letters.format(pair=pair)}, key=f))")

    return script


def _one_by_one(seen: Conversation, rng: np.random.Generator) -> str:
    chosen, done = rng.permutation(list(LETTERS))[:3], len(seen.turns)
    if done == len(chosen):
        return answer(seen.observations[-1], rng)
    code = f's["{chosen[done]}"] = f("{chosen[done]}")\nprint(max(s, key=s.get))'
    return execute(NEXT, code) if done else execute(ONE_BY_ONE, f"{Question(seen.prompt).setup()}s = {{}}\n{code}")


_all_findings = _compare(ALL_FACTS, "o")


def _verified(seen: Conversation, rng: np.random.Generator) -> str:
    """Of a question on sequences: is the best option the only one? If not, any of the best."""
    if len(seen.turns) != 1 or not Question(seen.prompt).of_sequences:
        return _all_findings(seen, rng)
    return execute(VERIFY_ANOTHER, "print(*(k for k in o if f(k) == max(map(f, o))))")


SCRIPTS: Mapping[str, Callable[[Conversation, np.random.Generator], str]] = {
    "lucky_guess": _lucky_guess,
    "one_finding": _compare(ONE_FACT, '"{pair}"'),
    "one_by_one": _one_by_one,
    "all_findings": _all_findings,
    "verified": _verified,
}
CASE_SCRIPTS: Mapping[str, Callable[[Conversation, np.random.Generator], str]] = dict.fromkeys(SCRIPTS, _case) | {
    "lucky_guess": _lucky_guess
}
