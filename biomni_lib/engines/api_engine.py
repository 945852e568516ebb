"""A model behind an endpoint that is paid for: a teacher, or a frontier baseline.

The endpoint gives neither our token ids nor log-probabilities: it yields text, which the rollout encodes once, for SFT
and evaluation, never RL. A conversation goes out as messages, read back from the ledger's ids, and comes back as
the next assistant turn with the stop string that the endpoint has taken away. What was paid for is kept in a journal: a
run that is started again is given the same replies to the same requests and pays for new ones only.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from biomni_lib.agent.chat import END, START, ChatRenderer
from biomni_lib.config import ApiConfig, project_root
from biomni_lib.engines.api_budget import FREE, Budget, Journal, Price, RateLimit, Reply, load_prices
from biomni_lib.engines.api_clients import ChatClient, EndpointRefusedError, Provider, open_client
from biomni_lib.engines.base import Completion, EngineStats, FinishReason, Sampling
from biomni_lib.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from torch import Tensor

MESSAGE_BYTES = 64
"""Counted for a message beside its text, when the most that a request can cost is told."""


class ApiEngine:
    """An `Engine` that is a client of a chat endpoint; `open` makes one from settings.

    Args:
        client: of the endpoint. renderer: reads conversations back from token ids.
        budget: what may be spent, and the journal. limit: requests and tokens a minute.
    """

    def __init__(self, client: ChatClient, renderer: ChatRenderer, budget: Budget, limit: RateLimit) -> None:
        self.client, self.renderer, self.budget, self.limit = client, renderer, budget, limit
        self._stats = EngineStats()

    @classmethod
    def open(cls, provider: Provider, model: str, api: ApiConfig, renderer: ChatRenderer, journal: Path) -> ApiEngine:
        """The engine of a model at a provider's endpoint, or at the server that `api.url` names.

        Raises: ConfigError without a key or a price for a provider's own endpoint; DataError for an unreadable journal.
        """
        price = model_price(model, api)
        client = open_client(provider, model, api, cache_prompts=price.cache_write is not None)
        budget = Budget(price, api.spend_max_usd, Journal(journal))
        return cls(client, renderer, budget, RateLimit(api.requests_per_minute, api.tokens_per_minute))

    @property
    def spent_usd(self) -> float:
        """What the journal's run has spent, this start and earlier ones."""
        return self.budget.journal.spent_usd

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        """The next assistant turn, as text; of the journal where it was paid for before.

        Raises: EngineError when the endpoint cannot be reached or refuses after all retries; SpendingCapError before
            anything is sent that might pass the cap.
        """
        messages = self.renderer.messages(prompt_ids)
        if messages and messages[-1] == ("assistant", ""):
            messages.pop()
        asked = json.dumps([self.client.name, messages, dataclasses.asdict(sampling)])
        key = hashlib.sha256(asked.encode()).hexdigest()
        reply = self.budget.journal.reply(key)
        if reply is None:
            reply = await self._pay(key, messages, sampling, len(prompt_ids))
        text, reason = whole_turn(reply, sampling.stop)
        return Completion([], None, None, reason, text, self.budget.price.usd(reply))

    async def _pay(
        self, key: str, messages: Sequence[tuple[str, str]], sampling: Sampling, prompt_tokens: int
    ) -> Reply:
        size = sum(len(content.encode()) + MESSAGE_BYTES for _, content in messages)
        entry = await self.limit.start(prompt_tokens + sampling.max_tokens)
        number = await self.budget.ask(self.budget.price.most_usd(size, sampling.max_tokens))
        try:
            reply = await self.client.ask(messages, sampling)
        except EndpointRefusedError:
            await self.budget.answer(number, key, None)
            raise
        except BaseException:
            await self.budget.abandon()  # cut off: it may have been billed
            raise
        await self.budget.answer(number, key, reply)
        self.limit.correct(entry, reply.tokens)
        self._stats.generated_tokens += reply.written
        self._stats.prefilled_tokens += reply.read + reply.cache_written
        self._stats.cached_tokens += reply.cached
        return reply

    async def release(self, session: str) -> None:
        """Nothing to free: an endpoint keeps no conversations."""

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        """Raises: EngineError; an endpoint takes no weights."""
        raise EngineError(f"{self.client.name} takes no weights; use it for SFT data and evaluation only")

    def stats(self) -> EngineStats:
        """The tokens that this start has paid for, as the endpoint counts them."""
        return copy.copy(self._stats)

    async def close(self) -> None:
        """Drop the connections and close the journal."""
        await self.client.close()
        self.budget.journal.close()


def model_price(model: str, api: ApiConfig) -> Price:
    """The model's price by `api.prices`; a server of one's own is free where none is named.

    Raises: ConfigError for a provider's own endpoint without a price.
    """
    if api.prices is None:
        if api.url is not None:
            return FREE
        raise ConfigError("api.prices: a provider's own endpoint is asked only with prices; name a TOML file of them")
    prices = load_prices(project_root() / api.prices)
    if model not in prices:
        known = ", ".join(prices) or "none"
        raise ConfigError(f"api.prices = '{api.prices}': no price of {model!r}, only of: {known}; add a table for it")
    return prices[model]


def whole_turn(reply: Reply, stops: Sequence[str]) -> tuple[str, FinishReason]:
    """A reply as an assistant turn, with the stop string that ended it.

    An endpoint takes the stop string away, and OpenAI's does not say which it was: then it is the closing tag of the
    block that is open. ChatML framing, which no turn may hold, ends the turn.
    """
    framing = min((found for mark in (START, END) if (found := reply.text.find(mark)) >= 0), default=None)
    text = reply.text if framing is None else reply.text[:framing]
    ends = [place + len(stop) for stop in stops if (place := text.find(stop)) >= 0]
    if ends:
        return text[: min(ends)], "stop"
    if framing is not None:
        return text, "eos"
    if reply.finish_reason != "stop":
        return text, reply.finish_reason
    stop = reply.stopped if reply.stopped in stops else _closing_tag(text, stops)
    return (text, "eos") if stop is None else (text + stop, "stop")


def _closing_tag(text: str, stops: Sequence[str]) -> str | None:
    """The stop string `</name>` of the last `<name>` in a text; None when there is none."""
    opened = [(text.rfind(stop.replace("</", "<", 1)), stop) for stop in stops if stop.startswith("</")]
    place, stop = max(opened, default=(-1, ""))
    return stop if place >= 0 else None
