"""Real HTTP servers for the tests of paid endpoints: chat completions and messages, with faults on demand.

What they say is decided by a function of the conversation, which may be a model; both wire formats are served by the
same one, so that a provider's own client can be pointed at it.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.engines.base import Engine, Sampling

Messages = list[dict[str, str]]
Speak = Callable[[Messages, int], Awaitable[str]]
"""(system, user and assistant messages; most tokens) to the next message, as far as it likes to go."""


@dataclass
class Endpoint:
    """What a server does and has seen.

    `faults` are taken one a request, in order, before any is answered: a status, or seconds of silence. A test may set
    `refuse_stops` (as models that reason do) and `names_stop` (as vLLM does).
    """

    speak: Speak
    url: str = ""
    faults: list[int | float] = field(default_factory=list)
    fault_body: dict[str, Any] = field(default_factory=lambda: {"error": {"message": "not now", "type": "t"}})
    fault_headers: dict[str, str] = field(default_factory=lambda: {"Retry-After-Ms": "10"})
    refuse_stops: bool = False
    names_stop: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0


class _Handler(RequestHandler):
    @property
    def endpoint(self) -> Endpoint:
        return self.application.settings["endpoint"]

    async def post(self) -> None:
        here = self.endpoint
        here.asked.append(json.loads(self.request.body))
        here.headers.append(dict(self.request.headers))
        here.under_way += 1
        here.most_under_way = max(here.most_under_way, here.under_way)
        try:
            await self._post(here, here.asked[-1])
        finally:
            here.under_way -= 1

    async def _post(self, here: Endpoint, asked: dict[str, Any]) -> None:
        fault = here.faults.pop(0) if here.faults else None
        if isinstance(fault, float):
            await asyncio.sleep(fault)
        if isinstance(fault, int):
            self.set_status(fault)
            for name, value in here.fault_headers.items():
                self.set_header(name, value)
            self.finish(here.fault_body)
            return
        if here.refuse_stops and "stop" in asked:
            self.set_status(400)
            self.finish({"error": {"message": "Unsupported parameter: 'stop'", "param": "stop", "type": "t"}})
            return
        self.finish(await self.answer(here, asked))

    async def answer(self, here: Endpoint, asked: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class _Chat(_Handler):
    async def answer(self, here: Endpoint, asked: dict[str, Any]) -> dict[str, Any]:
        text = await here.speak(asked["messages"], asked["max_completion_tokens"])
        text, stop, length = cut(text, asked.get("stop") or [], asked["max_completion_tokens"])
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "length" if length else "stop",
        }
        if here.names_stop:
            choice["stop_reason"] = stop
        read, written = count(asked["messages"]), len(text.split())
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        head = {"id": "x", "object": "chat.completion", "created": int(time.time()), "model": asked["model"]}
        return {**head, "choices": [choice], "usage": usage}


class _Messages(_Handler):
    async def answer(self, here: Endpoint, asked: dict[str, Any]) -> dict[str, Any]:
        messages = [{"role": "system", "content": asked.get("system", "")}, *asked["messages"]]
        text = await here.speak(messages, asked["max_tokens"])
        text, stop, length = cut(text, asked.get("stop_sequences") or [], asked["max_tokens"])
        cached = 7 if asked.get("cache_control") else 0
        usage = {
            "input_tokens": count(messages) - cached,
            "output_tokens": len(text.split()),
            "cache_read_input_tokens": cached,
        }
        return {
            "id": "x",
            "type": "message",
            "role": "assistant",
            "model": asked["model"],
            "content": [{"type": "text", "text": text}],
            "stop_reason": "max_tokens" if length else "stop_sequence" if stop else "end_turn",
            "stop_sequence": stop,
            "usage": usage,
        }


def count(messages: Messages) -> int:
    """Prompt tokens, as these servers count them: words."""
    return sum(len(message["content"].split()) for message in messages)


def cut(text: str, stops: list[str], max_tokens: int) -> tuple[str, str | None, bool]:
    """Text without its first stop string and what is behind it; that stop string; whether it was too long instead."""
    found = min(((text.find(stop), stop) for stop in stops if stop in text), default=None)
    if found is not None:
        text = text[: found[0]]
    words = text.split()
    if len(words) > max_tokens:
        return " ".join(words[:max_tokens]), None, True
    return text, found[1] if found else None, False


@contextlib.asynccontextmanager
async def serving(speak: Speak, **settings: Any) -> AsyncIterator[Endpoint]:
    """A server in this process for the block; `url` is that of the OpenAI-compatible interface."""
    endpoint = Endpoint(speak, **settings)
    routes = [("/v1/chat/completions", _Chat), ("/v1/messages", _Messages)]
    server = HTTPServer(Application(routes, endpoint=endpoint, log_function=lambda _: None))
    (socket, *_) = sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    endpoint.url = f"http://127.0.0.1:{socket.getsockname()[1]}/v1"
    try:
        yield endpoint
    finally:
        server.stop()
        await server.close_all_connections()


def model_speaks(engine: Engine, renderer: ChatRenderer, seed: int = 0) -> Speak:
    """What a model behind an engine says: the conversation is rendered, continued and decoded."""

    async def speak(messages: Messages, max_tokens: int) -> str:
        system, user, *rest = (message["content"] for message in messages)
        ids = renderer.prompt(system, user)
        for number, content in enumerate(rest):
            if number % 2 == 0:
                ids += renderer.assistant(content)
            else:
                ids += renderer.observation(content.removeprefix("<observation>\n").removesuffix("\n</observation>"))
        made = await engine.generate(ids, Sampling(max_tokens=max_tokens, seed=seed))
        return renderer.decode(made.ids)

    return speak


def says(*turns: str) -> Speak:
    """The turns in order, by how often the assistant has spoken; the last again and again."""

    async def speak(messages: Messages, max_tokens: int) -> str:
        spoken = sum(message["role"] == "assistant" for message in messages)
        return turns[min(spoken, len(turns) - 1)]

    return speak
