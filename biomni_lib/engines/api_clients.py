"""Chat endpoints through their providers' own clients: messages in, text and billed tokens out.

The clients repeat what failed for the moment (connection, timeout, 408, 409, 429, 5xx) with growing pauses and keep to
`Retry-After`. Every other failure is an `EngineError` in which the key is blotted out. Not covered: streaming, tools,
hidden reasoning beyond what a model does by itself (it is billed and bounded as written tokens).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from biomni_lib.config import ApiConfig
from biomni_lib.engines.api_budget import Reply
from biomni_lib.engines.base import FinishReason, Sampling
from biomni_lib.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

Provider = Literal["openai", "anthropic"]
KEYS: dict[Provider, str] = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
OWN_KEY = "BIOMNI_API_KEY"
"""Where the key of another server than the provider's is read: a provider's key is never sent to it."""
NO_KEY = "none"
_TOO_LONG = ("context_length", "prompt is too long", "maximum context length")
_REFUSED = ("content_filter", "content_policy", "invalid_prompt")
"""In a refusal of one conversation, which ends it and not the run."""
_TOLD_CHARS = 300


class EndpointRefusedError(EngineError):
    """An endpoint answered with an error, which it does not bill."""


class ChatClient(Protocol):
    """One model at one endpoint."""

    name: str

    async def ask(self, messages: Sequence[tuple[str, str]], sampling: Sampling) -> Reply:
        """The next message of a conversation, given as (role, content).

        Raises: EndpointRefusedError for an answer that is an error, EngineError when there was none.
        """

    async def close(self) -> None:
        """Drop the connections."""


def open_client(provider: Provider, model: str, api: ApiConfig, *, cache_prompts: bool = False) -> ChatClient:
    """The client of a provider's endpoint, or of another server where `api.url` names one.

    Args:
        cache_prompts: ask Anthropic to keep conversations in its cache, which it bills apart.
    Raises: ConfigError when the environment has no key for a provider's own endpoint.
    """
    variable = KEYS[provider] if api.url is None else OWN_KEY
    key = os.environ.get(variable) or (NO_KEY if api.url else "")
    if not key:
        raise ConfigError(
            f"{variable} is not set: it holds the key of the provider's endpoint; set it, or let api.url name a "
            "server of your own, such as vLLM's"
        )
    options: dict[str, Any] = {"max_retries": api.retries, "timeout": api.timeout_s}
    if api.url is not None:
        options["base_url"] = api.url
    if provider == "openai":
        return OpenAIChat(model, key, own_server=api.url is not None, **options)
    return AnthropicMessages(model, key, cache_prompts=cache_prompts, **options)


class OpenAIChat:
    """Chat completions of OpenAI and of the many servers that speak like it.

    A temperature and top-p of 1 are not sent, since models that reason take no other. A model that takes no stop
    strings is asked without; its text is then cut where it arrives.
    """

    def __init__(self, model: str, key: str, *, own_server: bool, **options: Any) -> None:
        from openai import AsyncOpenAI

        self.name, self.model = f"openai/{model}", model
        self._key, self._own_server, self._takes_stops = key, own_server, True
        self._client: AsyncOpenAI = AsyncOpenAI(api_key=key, **options)

    async def ask(self, messages: Sequence[tuple[str, str]], sampling: Sampling) -> Reply:
        """See `ChatClient.ask`."""
        import openai

        stops = list(sampling.stop) if self._takes_stops else []
        try:
            answer = await self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": role, "content": content} for role, content in messages],  # type: ignore[misc]
                max_completion_tokens=sampling.max_tokens,
                **self._options(sampling, stops),
            )
        except openai.BadRequestError as error:
            if stops and error.param == "stop":
                self._takes_stops = False
                return await self.ask(messages, sampling)
            return _refused(self._key, self.name, error)
        except openai.OpenAIError as error:
            _fail(self._key, self.name, error)
        return self._reply(answer)

    def _options(self, sampling: Sampling, stops: list[str]) -> dict[str, Any]:
        options: dict[str, Any] = {"stop": stops} if stops else {}
        options |= {name: getattr(sampling, name) for name in ("temperature", "top_p") if getattr(sampling, name) != 1}
        return options | ({"seed": sampling.seed} if self._own_server else {})

    def _reply(self, answer: Any) -> Reply:
        if not answer.choices or answer.usage is None:
            raise EngineError(f"{self.name}: the answer has no choice or no usage; use a server that counts tokens")
        choice, usage = answer.choices[0], answer.usage
        cached = getattr(usage.prompt_tokens_details, "cached_tokens", None) or 0
        told = getattr(choice, "stop_reason", None)
        reasons: dict[str, FinishReason] = {"length": "length", "stop": "stop"}
        return Reply(
            text=choice.message.content or "",
            finish_reason=reasons.get(choice.finish_reason, "eos") if self._takes_stops else _unstopped(choice),
            stopped=told if isinstance(told, str) else None,
            read=usage.prompt_tokens - cached,
            cached=cached,
            written=usage.completion_tokens,
        )

    async def close(self) -> None:
        """See `ChatClient.close`."""
        await self._client.close()


class AnthropicMessages:
    """Anthropic's Messages. Its client knows neither temperature nor top-p nor seed, so none is sent."""

    def __init__(self, model: str, key: str, *, cache_prompts: bool, **options: Any) -> None:
        from anthropic import AsyncAnthropic

        self.name, self.model = f"anthropic/{model}", model
        self._key, self._cache_prompts = key, cache_prompts
        self._client: AsyncAnthropic = AsyncAnthropic(api_key=key, **options)

    async def ask(self, messages: Sequence[tuple[str, str]], sampling: Sampling) -> Reply:
        """See `ChatClient.ask`."""
        import anthropic

        system = "\n".join(content for role, content in messages if role == "system")
        told: Any = [{"role": role, "content": text} for role, text in messages if role != "system"]
        options: dict[str, Any] = {"system": system} if system else {}
        if self._cache_prompts:
            options["cache_control"] = {"type": "ephemeral"}
        try:
            answer = await self._client.messages.create(
                model=self.model,
                max_tokens=sampling.max_tokens,
                messages=told,
                stop_sequences=list(sampling.stop),
                **options,
            )
        except anthropic.BadRequestError as error:
            return _refused(self._key, self.name, error)
        except anthropic.AnthropicError as error:
            _fail(self._key, self.name, error)
        ended: dict[str | None, FinishReason] = {"stop_sequence": "stop", "max_tokens": "length"}
        ended["model_context_window_exceeded"] = "length"
        usage = answer.usage
        return Reply(
            text="".join(block.text for block in answer.content if block.type == "text"),
            finish_reason=ended.get(answer.stop_reason, "eos"),
            stopped=answer.stop_sequence,
            read=usage.input_tokens,
            cached=usage.cache_read_input_tokens or 0,
            cache_written=usage.cache_creation_input_tokens or 0,
            written=usage.output_tokens,
        )

    async def close(self) -> None:
        """See `ChatClient.close`."""
        await self._client.close()


def _unstopped(choice: Any) -> FinishReason:
    return "length" if choice.finish_reason == "length" else "eos"


def _refused(key: str, name: str, error: Exception) -> Reply:
    """A conversation that is too long or not wanted ends as such. Raises: EngineError for any other bad request."""
    told = str(error).lower()
    if any(words in told for words in _TOO_LONG):
        return Reply("", "length")
    if any(words in told for words in _REFUSED):
        return Reply("", "eos")
    _fail(key, name, error)


def _fail(key: str, name: str, error: Exception) -> NoReturn:
    told = " ".join(str(error).split()).replace(key, "[key]")[:_TOLD_CHARS]
    kind = EndpointRefusedError if hasattr(error, "status_code") else EngineError
    raise kind(f"{name}: {type(error).__name__}: {told}") from None
