"""From text to token ids and back: ChatML framing by our own renderer, appended turn by turn.

A chat template re-renders the whole conversation (and Qwen3's strips earlier thinking), so it cannot extend a ledger.
Here each piece is encoded once, when it is appended. Text from outside (prompts, observations) is encoded with special
tokens switched off: an observation that spells `<|im_end|>` cannot end a turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from biomni_lib.errors import LedgerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = "<|im_start|>", "<|im_end|>"


class ChatRenderer:
    """ChatML for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._start, self.end_of_turn = (self._special(token) for token in (START, END))
        self._pieces: dict[int, str] = {}
        self._framing: dict[tuple[str, bool], list[int]] = {}

    @classmethod
    def load(cls, model_dir: Path) -> ChatRenderer:
        """The renderer of a model folder's tokenizer."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(model_dir))

    def _special(self, token: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(token_id, int) or token_id == self.tokenizer.unk_token_id:
            raise LedgerError(f"the tokenizer has no {token}: ChatML needs it; use a tokenizer with Qwen3's specials")
        return token_id

    def plain(self, text: str) -> list[int]:
        """Ids of text from outside, in which no special token is recognised."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def assistant(self, text: str) -> list[int]:
        """Ids of an assistant turn written by a script or an API: the protocol's tags are recognised.

        Raises: LedgerError when the text holds ChatML framing.
        """
        if START in text or END in text:
            raise LedgerError("an assistant turn holds ChatML framing; a teacher's text must not")
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt(self, system: str, user: str) -> list[int]:
        """Ids of the opening of a conversation, up to where the assistant begins."""
        return self._message("system", system) + self._message("user", user) + self._opening()

    def observation(self, text: str) -> list[int]:
        """Ids that close the assistant's turn, give it an observation, and open its next turn."""
        return [
            self.end_of_turn,
            *self._fixed("\n"),
            *self._message("user", text, before="<observation>\n", after="\n</observation>"),
            *self._opening(),
        ]

    def decode(self, ids: Sequence[int] | NDArray[np.int32]) -> str:
        """Text of ids, special tokens shown."""
        return str(self.tokenizer.decode([int(token) for token in ids], skip_special_tokens=False))

    def messages(self, ids: Sequence[int]) -> list[tuple[str, str]]:
        """Role and content of each message in ids that `prompt` began; framing is read from ids, never from text."""
        starts = [position for position, token in enumerate(ids) if token == self._start]
        found = []
        for first, after in itertools.pairwise([*starts, len(ids)]):
            body = list(itertools.takewhile(lambda token: token != self.end_of_turn, ids[first + 1 : after]))
            role, _, content = self.decode(body).partition("\n")
            found.append((role, content))
        return found

    def piece(self, token_id: int) -> str:
        """Text of one token; enough to find ASCII stop strings while sampling."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self.decode([token_id])
        return self._pieces[token_id]

    def _message(self, role: str, text: str, *, before: str = "", after: str = "") -> list[int]:
        head = [self._start, *self._fixed(f"{role}\n"), *self._fixed(before, tags=True)]
        return [*head, *self.plain(text), *self._fixed(after, tags=True), self.end_of_turn, *self._fixed("\n")]

    def _opening(self) -> list[int]:
        return [self._start, *self._fixed("assistant\n")]

    def _fixed(self, text: str, *, tags: bool = False) -> list[int]:
        """Ids of a piece of framing, encoded the first time; `tags`: the protocol's tags in it are recognised."""
        if (text, tags) not in self._framing:
            self._framing[text, tags] = self.assistant(text) if tags else self.plain(text)
        return self._framing[text, tags]
