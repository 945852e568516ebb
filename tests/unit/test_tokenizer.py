"""The tokenizer: every number is a token, every tag is a token, and training repeats."""

import pytest

from biomni_lib.agent.chat import END, START
from biomni_lib.agent.protocol import TAGS
from biomni_lib.sft.tokenizer import train_tokenizer
from tests.acting_toy import MODEL, TEXTS, renderer, tokenizer

WORDY = [" ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(300))] * 20


@pytest.mark.parametrize("texts", [TEXTS, WORDY])
def test_every_digit_and_every_pair_of_digits_is_one_token(texts: list[str]) -> None:
    made = tokenizer() if texts is TEXTS else train_tokenizer(texts, MODEL.vocab)
    assert len(made) <= MODEL.vocab
    groups = [f"{number:0{width}d}" for width in (1, 2) for number in range(10**width)]
    encoded = made(groups, add_special_tokens=False)["input_ids"]
    assert all(len(ids) == 1 for ids in encoded)
    assert len({ids[0] for ids in encoded}) == len(groups) == 110


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("HP:0001250", ["00", "12", "50"]),
        ("ENSG00000157764", ["15", "77", "64"]),
        ("154700", ["15", "47", "00"]),
        ("OMIM 1234567", ["12", "34", "56", "7"]),
        ("HP:0001250, HP:0004322", ["00", "12", "50", "00", "43", "22"]),
    ],
)
def test_ids_are_a_prefix_and_pairs_of_digits(text: str, groups: list[str]) -> None:
    pieces = [renderer().piece(token) for token in renderer().plain(text)]
    assert [piece for piece in pieces if piece.isdigit()] == groups
    assert "".join(pieces) == text


def test_ids_of_every_series_are_cut_alike() -> None:
    """HPO's newer terms begin with HP:6: a list of ids has the same tokens at the same distance whatever they are."""
    cut = tokenizer().backend_tokenizer.pre_tokenizer.pre_tokenize_str("HP:0001250, HP:6000123")
    assert [piece for piece, _ in cut] == ["HP:0", "00", "12", "50", ",ĠHP:6", "00", "01", "23"]


def test_specials_come_first_and_are_single_tokens() -> None:
    made = tokenizer()
    specials = [START, END, *TAGS]
    assert made.convert_tokens_to_ids(specials) == list(range(1, 1 + len(specials)))
    assert (made.pad_token_id, made.eos_token) == (0, END)


def test_training_again_gives_the_same_tokenizer() -> None:
    assert train_tokenizer(TEXTS, MODEL.vocab).get_vocab() == tokenizer().get_vocab()
