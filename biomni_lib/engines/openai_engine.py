"""Generation by a server: token ids in, token ids and log-probabilities out, nothing is tokenised again.

Speaks OpenAI's completions interface with the fields that vLLM adds to it: a prompt of token ids, `return_token_ids`,
`include_stop_str_in_output` (vllm/entrypoints/openai/completion/protocol.py). A server that answers with text alone is
refused. vLLM gives log-probabilities as the ledger wants them, after temperature and before top-p, when it is started
with `--logprobs-mode processed_logprobs` and top-p is 1.

Not covered: changing the server's weights; every token carries the version that the engine was made with.
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from biomni_lib.engines.base import Completion, EngineStats, FinishReason, Sampling
from biomni_lib.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

CONNECT_S = 10.0
KEPT_S = 4.0
"""An idle connection is dropped after this; vLLM's server drops it after 5 s, and must not be the first."""
_TOLD_CHARS = 300


class OpenAIEngine:
    """An `Engine` that is a client of a server.

    Args:
        url: of the interface, `http://HOST:PORT/v1`. model: the served model's name.
        token: what the server asks for, or None.
        timeout_s: longest wait for one completion.
        connections: requests under way at once, one connection each; more wait here. A server decodes no more
            sequences together than it has requests.
        version: policy version of the weights that the server has.
    Raises: EngineError for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        token: str | None = None,
        timeout_s: float = 600.0,
        connections: int = 512,
        version: int = 0,
    ) -> None:
        self.url, self.model, self.version = url.rstrip("/"), model, version
        self._endpoint = _endpoint(self.url)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(connections)
        # One connection a transport: a shared pool goes through all its connections for every request.
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._tls = ssl.create_default_context()
        self._stats, self._closed = EngineStats(), False

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        """See `Engine.generate`; cancelling drops the connection, which ends the request there.

        Raises: EngineError when the server cannot be reached, refuses, is silent for too long, or does not answer with
            one log-prob for each token id.
        """
        prompt = list(prompt_ids)
        answer = await self._post(_asked(self.model, prompt, sampling))
        completion = self._completion(answer, prompt)
        self._stats.generated_tokens += len(completion.ids)
        return completion

    async def release(self, session: str) -> None:
        """Nothing to free: the server keeps no conversations, only a cache of prefixes."""

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        """Raises: EngineError; the server's weights are changed where it runs."""
        raise EngineError(f"the server {self.url} takes no weights from here; restart it with version {version}'s")

    def stats(self) -> EngineStats:
        """The tokens generated; everything else the server knows."""
        return copy.copy(self._stats)

    async def close(self) -> None:
        """Drop the connections; later calls raise EngineError."""
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    async def _post(self, asked: dict[str, Any]) -> bytes:
        """The body of the answer. A connection goes back to the idle ones only after a whole answer."""
        wait = {"connect": CONNECT_S, "read": self._timeout_s, "write": self._timeout_s}
        content = json.dumps(asked).encode("ascii")
        request = httpx.Request("POST", self._endpoint, content=content, headers=self._headers)
        request.extensions = {"timeout": wait}
        async with self._places:
            transport, whole = self._connection(), False
            try:
                response = await transport.handle_async_request(request)
                body = await response.aread()
                whole = True
            except httpx.HTTPError as error:
                raise self._failure(error) from None
            finally:
                if whole and not self._closed:
                    self._idle.append(transport)
                else:
                    await transport.aclose()
        if response.is_error:
            raise EngineError(f"the server {self.url} refuses (status {response.status_code}): {_told(body)}")
        return body

    def _connection(self) -> httpx.AsyncHTTPTransport:
        """The connection used last, or a new one. The environment's proxies are not asked: the server is near."""
        if self._closed:
            raise EngineError("the engine is closed; start a new one")
        if self._idle:
            return self._idle.pop()
        limits = httpx.Limits(max_connections=1, keepalive_expiry=KEPT_S)
        return httpx.AsyncHTTPTransport(verify=self._tls, limits=limits, trust_env=False)

    def _failure(self, error: httpx.HTTPError) -> EngineError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return EngineError(f"the server {self.url} cannot be reached ({error!r})")
        if isinstance(error, httpx.TimeoutException):
            return EngineError(f"the server {self.url} was silent for {self._timeout_s:g} s")
        return EngineError(f"the connection to the server {self.url} broke ({error!r})")

    def _completion(self, answer: bytes, prompt: list[int]) -> Completion:
        """Read the server's answer. Raises: EngineError when the ledger could not be kept with it."""
        try:
            choice = json.loads(answer)["choices"][0]
            ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
            reason = _finish_reason(choice)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EngineError(f"{self.url} does not answer like a completions server ({error!r})") from None
        if ids is None:
            raise EngineError(
                f"the server {self.url} returns no token ids; use one that knows return_token_ids, as vLLM does"
            )
        if choice.get("prompt_token_ids", prompt) != prompt:
            raise EngineError(f"the server {self.url} changed the prompt's token ids before it continued them")
        if len(logprobs or ()) != len(ids) or not all(map(_is_logprob, logprobs or ())):
            raise EngineError(f"the server {self.url} does not return one finite log-prob for each token id")
        return Completion(ids, logprobs, [self.version] * len(ids), reason)


def _endpoint(url: str) -> httpx.URL:
    try:
        endpoint = httpx.URL(f"{url}/completions")
    except httpx.InvalidURL as error:
        raise EngineError(f"engine URL {url!r}: {error}") from None
    if endpoint.scheme not in ("http", "https") or not endpoint.host:
        raise EngineError(f"engine URL {url!r}: must be http://HOST:PORT/v1 or https")
    return endpoint


def _asked(model: str, prompt: list[int], sampling: Sampling) -> dict[str, Any]:
    """The request; stop tags may be special tokens, which are therefore part of the text that stop strings see."""
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "logprobs": 0,
        "return_token_ids": True,
    }


def _finish_reason(choice: Mapping[str, Any]) -> FinishReason:
    """vLLM names the stop string in `stop_reason`, which is empty at the end of a turn. Raises: ValueError."""
    reason = choice["finish_reason"]
    if reason not in ("stop", "length"):
        raise ValueError(f"finish_reason {reason!r}")
    if reason == "length":
        return "length"
    return "stop" if isinstance(choice.get("stop_reason"), str) else "eos"


def _is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _told(body: bytes) -> str:
    """The server's own words, in one line."""
    try:
        told = json.loads(body)
        message = str(told.get("error", told).get("message") or told)
    except (ValueError, AttributeError):
        message = body.decode("utf-8", errors="replace")
    return " ".join(message.split())[:_TOLD_CHARS]
