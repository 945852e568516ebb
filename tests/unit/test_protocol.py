"""How a turn is read: the first closing stop tag decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.agent.protocol import STOPS, ParsedTurn, parse_turn

NONE = ParsedTurn("none", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nx\n</think>\n<execute>\nprint(1)\n</execute>", ParsedTurn("execute", "print(1)")),
        ("<think>x</think><solution>A</solution>", ParsedTurn("solution", "A")),
        ("<execute>a</execute> <solution>b</solution>", ParsedTurn("execute", "a")),
        ("<solution>b</solution><execute>a</execute>", ParsedTurn("solution", "b")),
        ("<execute>a</execute>\nbehind the tag", ParsedTurn("execute", "a")),
        ("<execute>a<execute>b</execute>", ParsedTurn("execute", "b")),
        ("<execute></execute>", ParsedTurn("execute", "")),
        ("<solution>{'a': '<execute>'}</solution>", ParsedTurn("solution", "{'a': '<execute>'}")),
        ("<execute>if x:\n    y\n    z\n</execute>", ParsedTurn("execute", "if x:\n    y\n    z")),
        ("", NONE),
        ("the answer is clear", NONE),
        ("<execute>a", NONE),
        ("a</execute>", NONE),
        ("<solution>a</execute>", NONE),
        ("</execute><execute>a</execute>", NONE),
        ("<execute>print('</solution>')</execute>", NONE),
        ("<EXECUTE>a</EXECUTE>", NONE),
        ("< execute>a</ execute>", NONE),
    ],
)
def test_examples(text: str, expected: ParsedTurn) -> None:
    assert parse_turn(text) == expected


@given(before=st.text(), block=st.sampled_from(["execute", "solution"]), content=st.text(), after=st.text())
def test_the_first_block_is_found_whatever_stands_around_it(before: str, block: str, content: str, after: str) -> None:
    before, content = (text.replace("<", "") for text in (before, content))
    text = f"{before}<{block}>{content}</{block}>"
    assert parse_turn(text + after) == ParsedTurn(block, content.strip())


@given(st.lists(st.sampled_from(["<", ">", "/", "execute", "solution", "think", " "]), max_size=30).map("".join))
def test_any_text_is_read(text: str) -> None:
    parsed = parse_turn(text)
    assert (parsed.kind == "none") <= (parsed.content == "")
    if parsed.kind != "none":
        assert f"</{parsed.kind}>" in STOPS and parsed.content in text
