"""What an endpoint's replies cost, how fast it may be asked, and what was paid for before.

Every request is written to a journal before it is sent and again when it is answered, so that a stopped run knows what
it has spent and takes up the replies that it has paid for. A request that was cut off may have been billed and counts
at the most that it can cost. What a provider bills for attempts that it failed itself, and that its client repeated, is
not known here and not counted.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import math
import os
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biomni_lib.engines.base import FinishReason
from biomni_lib.errors import ConfigError, DataError, EngineError

WINDOW_S = 60.0
_PRICES = ("input", "output", "cached_input", "cache_write")


class SpendingCapError(EngineError):
    """The next request could cost more than is left of `api.spend_max_usd`; nothing that was paid for is lost."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """What an endpoint answered, and the tokens that it bills.

    `text` has no stop string at its end: `stopped` is the one that ended it, where the endpoint says so. `read` are the
    prompt's tokens that were neither taken from the provider's cache (`cached`) nor written to it (`cache_written`).
    """

    text: str
    finish_reason: FinishReason
    stopped: str | None = None
    read: int = 0
    cached: int = 0
    cache_written: int = 0
    written: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, as limits a minute count them."""
        return self.read + self.cached + self.cache_written + self.written


@dataclasses.dataclass(frozen=True)
class Price:
    """USD per million tokens. Providers name all four; where the last two are missing, `input` stands for them."""

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None
    cache_write: float | None = None

    def usd(self, reply: Reply) -> float:
        """What a reply costs."""
        cached, write = (self.input if rate is None else rate for rate in (self.cached_input, self.cache_write))
        each = (self.input, reply.read), (cached, reply.cached), (write, reply.cache_written)
        return sum(rate * count for rate, count in (*each, (self.output, reply.written))) / 1e6

    def most_usd(self, prompt_bytes: int, max_tokens: int) -> float:
        """The most that a request can cost: no token of a text is shorter than a byte."""
        dearest = max(self.input, self.cache_write or 0.0)
        return (dearest * prompt_bytes + self.output * max_tokens) / 1e6


FREE = Price()
"""The price of an own server."""


def load_prices(path: Path) -> dict[str, Price]:
    """Prices by model from a TOML file of tables such as `["MODEL"]` with `input = 3.0` and `output = 15.0`.

    Raises: ConfigError that names the file, the model and the key.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"api.prices = '{path}': cannot be read ({error}); name a TOML file of prices") from None
    return {model: _price(path, model, rates) for model, rates in told.items()}


def _price(path: Path, model: str, rates: Any) -> Price:
    where = f"api.prices = '{path}', [\"{model}\"]"
    if not isinstance(rates, dict) or not {"input", "output"} <= rates.keys() <= set(_PRICES):
        raise ConfigError(f"{where}: must be a table with input and output, and may have {', '.join(_PRICES[2:])}")
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < math.inf:
            raise ConfigError(f"{where}: {name} = {rate!r}: must be USD per million tokens, at least 0")
    return Price(**rates)


class RateLimit:
    """Lets requests start so that none of the last 60 s' sums is above a limit; first come, first served.

    Args:
        requests, tokens: most in any 60 s; None for no limit. A request above `tokens` by itself goes alone.
    """

    def __init__(
        self,
        requests: int | None = None,
        tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self.requests, self.tokens = requests or math.inf, tokens or math.inf
        self._clock, self._sleep, self._turn = clock, sleep, asyncio.Lock()
        self._recent: collections.deque[list[float]] = collections.deque()

    async def start(self, tokens: int) -> list[float]:
        """Wait for a place. Returns: the entry to `correct` when the true count is known."""
        async with self._turn:
            while (wait := self._wait_s(tokens)) > 0:
                await self._sleep(wait)
            self._recent.append([self._clock(), float(tokens)])
            return self._recent[-1]

    @staticmethod
    def correct(entry: list[float], tokens: int) -> None:
        """Put the tokens that a request really took in place of what `start` was told."""
        entry[1] = float(tokens)

    def _wait_s(self, tokens: int) -> float:
        now = self._clock()
        while self._recent and self._recent[0][0] + WINDOW_S <= now:
            self._recent.popleft()
        full = len(self._recent) >= self.requests or sum(e[1] for e in self._recent) + tokens > self.tokens
        return self._recent[0][0] + WINDOW_S - now if self._recent and full else 0.0


class Journal:
    """Requests and paid replies in a file, one JSON object a line; what a stopped run goes on from.

    A request's line holds its `number` and `most_usd`, a reply's its `number`, `usd`, `key` and fields; keys and
    prompts are hashed, and credentials never come near it.

    Raises: DataError for a file that is no journal; a last line cut short by a crash is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._replies, self._open = path, dict[str, Reply](), dict[int, float]()
        self._settled_usd, self._number = 0.0, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for place, line in enumerate(whole.splitlines(), 1):
            self._read(place, line)
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    @property
    def spent_usd(self) -> float:
        """Paid for replies, and for requests that were cut off the most that they can have cost."""
        return self._settled_usd + sum(self._open.values())

    def reply(self, key: str) -> Reply | None:
        """The reply to a request that was paid for before."""
        return self._replies.get(key)

    def ask(self, most_usd: float) -> int:
        """Write down that a request goes out. Returns: its number."""
        self._number += 1
        self._open[self._number] = most_usd
        self._write({"number": self._number, "most_usd": most_usd})
        return self._number

    def answer(self, number: int, key: str, reply: Reply | None, usd: float) -> None:
        """Write down what came back; None for a refusal that costs nothing."""
        told = {} if reply is None else {"key": key, "reply": dataclasses.asdict(reply)}
        self._settle(number, usd, told)
        self._write({"number": number, "usd": usd, **told})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _settle(self, number: int, usd: float, told: dict[str, Any]) -> None:
        self._open.pop(number, None)
        self._settled_usd += usd
        if "reply" in told:
            self._replies[told["key"]] = Reply(**told["reply"])

    def _read(self, place: int, line: bytes) -> None:
        try:
            told = json.loads(line)
            self._number = max(self._number, told["number"])
            if "most_usd" in told:
                self._open[told["number"]] = told["most_usd"]
            else:
                self._settle(told["number"], told["usd"], told)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path}, line {place}: not a journal of paid requests ({error!r}); restore it, or delete the "
                "file to count and pay from nothing"
            ) from None

    def _write(self, told: dict[str, Any]) -> None:
        self._file.write(json.dumps(told).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


class Budget:
    """Keeps what a run spends below a cap, however many requests are under way.

    Args:
        price: of the model. cap_usd: most that is spent, over all starts of the run. journal: of these.
    """

    def __init__(self, price: Price, cap_usd: float, journal: Journal) -> None:
        self.price, self.cap_usd, self.journal = price, cap_usd, journal
        self._under_way, self._changed = 0, asyncio.Condition()

    async def ask(self, most_usd: float) -> int:
        """Set the most that a request can cost aside, when need be after others have come back for less.

        Returns: the request's number, for `answer` or `abandon`.
        Raises: SpendingCapError when it does not fit although nothing is under way.
        """
        async with self._changed:
            while self.journal.spent_usd + most_usd > self.cap_usd:
                if not self._under_way:
                    raise SpendingCapError(
                        f"api.spend_max_usd = {self.cap_usd:g}: {self.journal.spent_usd:.2f} USD are spent and the next"
                        f" request may cost {most_usd:.2f}; raise the cap and run the same command again, which pays"
                        " for nothing twice"
                    )
                await self._changed.wait()
            self._under_way += 1
            return self.journal.ask(most_usd)

    async def answer(self, number: int, key: str, reply: Reply | None) -> None:
        """A request came back with a reply, or was refused at no cost."""
        self.journal.answer(number, key, reply, 0.0 if reply is None else self.price.usd(reply))
        await self.abandon()

    async def abandon(self) -> None:
        """A request is under way no more; unless it was answered, it counts at its most."""
        async with self._changed:
            self._under_way -= 1
            self._changed.notify_all()
