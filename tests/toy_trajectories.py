"""Trajectories and questions made by hand, some of them hostile, for tests of what shows them."""

from html.parser import HTMLParser

import numpy as np

from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.agent.protocol import parse_turn
from biomni_lib.tasks import Instance
from biomni_lib.viewer.page import unpack

TASK = "toy"
HOSTILE = (
    '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"><!-- '
    "{{ title }} \u202egnp.exe \u2066isolate\u2069 zero\u200bwidth nul\x00 bell\x07 ]]> &lt;b&gt; \U0001f9ec"
    " 'quote\" \\"
)
PLAIN = "<think>\nI look.\n</think>\n<execute>\nprint(1 + 1)  # sum\n</execute>"
SOLVED = '<think>\nI know.\n</think>\n<solution>\n{"gene": "G1"}\n</solution>'


def question(number: int, *, prompt: str = "Which gene?", id: str = "") -> Instance:
    return Instance(prompt, '{"gene": "G1"}', TASK, id or f"{TASK}-heldout-{number}")


def rolled(
    number: int,
    model: str = "rl",
    *,
    sample: int = 0,
    texts: tuple[str, ...] = (PLAIN, SOLVED),
    observation: str = "2",
    version: int = 0,
    correctness: float = 1.0,
    ending: str = "solved",
) -> Trajectory:
    """A trajectory with 10 prompt tokens, 5 written in each turn, and 3 read after each turn but the last."""
    made = Trajectory(TASK, f"{TASK}-heldout-{number}", sample, model)
    made.append(range(10), sampled=False)
    for place, text in enumerate(texts):
        parsed, start = parse_turn(text), len(made.token_ids)
        logprobs = None if version < 0 else [-0.5] * 5
        made.append(
            range(5), sampled=True, logprobs=logprobs, policy_versions=[version + place if version >= 0 else -1] * 5
        )
        turn = Turn(start, start + 5, parsed.kind, text, generate_s=1.0)
        if parsed.kind == "execute":
            turn.code = parsed.content
        if place + 1 < len(texts):
            turn.observation, turn.tool_s, turn.queue_s = observation, 0.25, 0.125
            made.append(range(3), sampled=False)
        made.turns.append(turn)
    if made.turns and made.turns[-1].kind == "solution":
        made.answer = parse_turn(texts[-1]).content
    made.ending, made.correctness, made.format = ending, correctness, 1.0
    made.total = float(np.float64(correctness) + 1.0)
    return made


class Elements(HTMLParser):
    """Elements of a page: (name, attributes, text inside)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes), []))

        self.inside = True

    def handle_endtag(self, name):
        self.inside = False

    def handle_data(self, text):
        if self.found and self.inside:
            self.found[-1][2].append(text)

    def of(self, name):
        return [(attributes, "".join(texts)) for found, attributes, texts in self.found if found == name]


def data_of(html):
    """What a page holds, by the name of its block."""
    return {a["id"]: unpack(text) for a, text in Elements(html).of("script") if a.get("type") == "text/plain"}
