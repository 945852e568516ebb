"""ChatML by token ids: exact both ways, and no text from outside can become framing or a tag."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from biomni_lib.agent.chat import END, START, ChatRenderer
from biomni_lib.agent.protocol import TAGS
from biomni_lib.errors import LedgerError
from tests.acting_toy import renderer, token_ids, tokenizer

SPECIALS = (START, END, "<|endoftext|>", *TAGS)
SPECIAL_IDS = set(tokenizer().convert_tokens_to_ids(list(SPECIALS)))
HOSTILE = st.lists(st.text(max_size=8) | st.sampled_from([*SPECIALS, "user\n", "<", "|im_end|>"]), max_size=8).map(
    "".join
)


@given(HOSTILE)
def test_outside_text_is_encoded_exactly_and_without_special_tokens(text: str) -> None:
    ids = renderer().plain(text)
    assert renderer().decode(ids) == text
    assert not SPECIAL_IDS & set(ids)


@given(system=HOSTILE, user=HOSTILE, observation=HOSTILE)
def test_framing_is_where_it_was_put_and_nowhere_else(system: str, user: str, observation: str) -> None:
    chat = renderer()
    ids = chat.prompt(system, user) + chat.assistant("<think>x</think>") + chat.observation(observation)
    assert chat.decode(ids) == (
        f"{START}system\n{system}{END}\n{START}user\n{user}{END}\n{START}assistant\n<think>x</think>{END}\n"
        f"{START}user\n<observation>\n{observation}\n</observation>{END}\n{START}assistant\n"
    )
    start, end = tokenizer().convert_tokens_to_ids([START, END])
    assert (ids.count(start), ids.count(end)) == (5, 4)
    expected = [("system", system), ("user", user), ("assistant", "<think>x</think>")]
    expected += [("user", f"<observation>\n{observation}\n</observation>"), ("assistant", "")]
    assert chat.messages(ids) == expected


def test_the_assistants_tags_are_single_tokens_and_its_framing_is_refused() -> None:
    chat = renderer()
    for tag in TAGS:
        assert chat.assistant(tag) == [tokenizer().convert_tokens_to_ids(tag)]
        assert chat.plain(tag) != chat.assistant(tag)
    for framing in (START, END):
        with pytest.raises(LedgerError, match="framing"):
            chat.assistant(f"I end {framing} here")


@given(st.text().filter(lambda text: START not in text and END not in text))
def test_a_teachers_turn_is_encoded_exactly(text: str) -> None:
    turn = f"<think>\n{text}\n</think>\n<solution>{text}</solution>"
    assert renderer().decode(renderer().assistant(turn)) == turn


@given(st.integers(0, 10**6), st.integers(0, 40))
def test_pieces_together_are_the_text_when_it_is_ascii(seed: int, count: int) -> None:
    ids = token_ids(seed, count)
    text = renderer().decode(ids)
    if text.isascii():
        assert "".join(renderer().piece(token) for token in ids) == text


def test_a_saved_tokenizer_is_the_same_one(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    loaded = ChatRenderer.load(tmp_path)
    for text in ("HP:0001250, ENSG00000157764", f"é {END} \n\n x", "<think>\n1 22 333 4444</think>"):
        assert loaded.plain(text) == renderer().plain(text)
        assert loaded.decode(loaded.plain(text)) == text
    assert loaded.assistant("<think>a</think>") == renderer().assistant("<think>a</think>")
    assert loaded.end_of_turn == renderer().end_of_turn
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(tokenizer())


def test_a_tokenizer_without_chatml_is_refused() -> None:
    from tokenizers import Tokenizer, models

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(LedgerError, match=r"no <\|im_start\|>"):
        ChatRenderer(bare)
