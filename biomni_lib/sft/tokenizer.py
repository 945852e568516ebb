"""The tiny model's tokenizer: byte-level BPE, trained on the training split alone.

An identifier is its prefix and three pairs of digits, each one token: HP:0001250 is `HP:0`, `00`, `12`, `50`.
So lists are short, and ids of patients never seen are made of tokens often seen. The ChatML framing and the protocol's
tags are single special tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from biomni_lib.agent.chat import END, START
from biomni_lib.agent.protocol import TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = "<|endoftext|>"
_WORDS = r"(?:, | )?(?:ENSG00000|HP:\p{N})(?=\p{N}{6})|\p{N}{1,2}| ?\p{L}+(?:_\p{L}+)*| ?[^\s\p{L}\p{N}]+|\s+"
_NUMBERS = [f"{number:0{width}d}" for width in (1, 2) for number in range(10**width)]
NUMBER_WEIGHT = 1000
"""Times that each number is put among the training texts, so that each becomes a token."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        texts: conversations and prompts of the training split.
        vocab_size: tokens at most, the special ones included; at least 500 make every number a token.
    Returns: a transformers tokenizer that also decodes exactly what it encoded.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END, *TAGS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = [" ".join(_NUMBERS)] * NUMBER_WEIGHT
    tokenizer.train_from_iterator([*texts, *numbers], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
