"""An OpenAI-compatible server that answers at once with a fixed program of turns, the same in every conversation.

`/v1/completions` takes and returns token ids as vLLM's server does, `/v1/chat/completions` messages. The turn that is
due is read from the conversation: how often the assistant has spoken. Stop strings and `max_tokens` are honoured.

    python -m biomni_lib.stages.loadtest.mock_server PROGRAM.json

prints its URL and serves until its standard input ends.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

FIRST_MESSAGES = 3
"""Messages that a prompt opens: system, user, assistant; every later turn opens two more."""

BACKLOG = 2048
"""Connections that wait to be accepted, as many as vLLM's server lets wait: clients connect all at once."""


@dataclass(frozen=True)
class Token:
    """A token of the program: its id, its text, and the log-prob that the server claims for it."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Reply:
    """A turn as it is sent: its tokens, and the stop string that ended it, if any."""

    tokens: tuple[Token, ...]
    finish_reason: Literal["stop", "length"]
    stop_reason: str | None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


@dataclass(frozen=True, eq=False)
class Program:
    """What the server says: its turns in order, the last one again and again. `start_id` opens a message."""

    turns: tuple[tuple[Token, ...], ...]
    start_id: int

    @classmethod
    def load(cls, path: Path) -> "Program":
        """Read what `save` wrote."""
        told = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(tuple(Token(*token) for token in turn) for turn in told["turns"]), told["start_id"])

    def save(self, path: Path) -> None:
        """Write to a JSON file."""
        turns = [[[token.id, token.text, token.logprob] for token in turn] for turn in self.turns]
        path.write_text(json.dumps({"turns": turns, "start_id": self.start_id}), encoding="utf-8")

    def next_turn(self, prompt: Sequence[int]) -> int:
        """Which turn is due after a prompt of token ids."""
        return (prompt.count(self.start_id) - FIRST_MESSAGES) // 2

    @functools.lru_cache(maxsize=64)  # noqa: B019  a process has one program
    def reply(self, turn: int, stop: tuple[str, ...], max_tokens: int) -> Reply:
        """A turn, cut behind the token that completes a stop string, or at `max_tokens`."""
        tokens = self.turns[min(turn, len(self.turns) - 1)]
        texts = itertools.accumulate(token.text for token in tokens[:max_tokens])
        for count, text in enumerate(texts, start=1):
            found = next((string for string in stop if string in text), None)
            if found is not None:
                return Reply(tokens[:count], "stop", found)
        return Reply(tokens[:max_tokens], "length" if max_tokens < len(tokens) else "stop", None)


class _Completions(RequestHandler):
    """Token ids in, token ids and log-probs out."""

    def post(self) -> None:
        program, asked = self.application.settings["program"], json.loads(self.request.body)
        prompt = asked["prompt"]
        reply = program.reply(program.next_turn(prompt), tuple(asked["stop"]), asked["max_tokens"])
        choice = {
            "index": 0,
            "text": reply.text,
            "logprobs": {"token_logprobs": [token.logprob for token in reply.tokens]},
            "finish_reason": reply.finish_reason,
            "stop_reason": reply.stop_reason,
        }
        if asked.get("return_token_ids"):
            choice |= {"token_ids": [token.id for token in reply.tokens], "prompt_token_ids": prompt}
        self.finish(_answer("text_completion", asked["model"], choice, len(prompt), len(reply.tokens)))


class _ChatCompletions(RequestHandler):
    """Messages in, a message out."""

    def post(self) -> None:
        program, asked = self.application.settings["program"], json.loads(self.request.body)
        spoken = sum(message["role"] == "assistant" for message in asked["messages"])
        reply = program.reply(spoken, tuple(asked.get("stop") or ()), asked.get("max_tokens") or sys.maxsize)
        message = {"role": "assistant", "content": reply.text}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        self.finish(_answer("chat.completion", asked["model"], choice, 0, len(reply.tokens)))


def _answer(kind: str, model: str, choice: dict[str, Any], read: int, written: int) -> dict[str, Any]:
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    head = {"id": "mock", "object": kind, "created": int(time.time()), "model": model}
    return {**head, "choices": [choice], "usage": usage}


async def serve(program: Program) -> None:
    """Serve on a free port of loopback, say where, and end with standard input."""
    routes = [("/v1/completions", _Completions), ("/v1/chat/completions", _ChatCompletions)]
    server = HTTPServer(Application(routes, program=program, log_function=lambda _: None))
    sockets = bind_sockets(0, "127.0.0.1", backlog=BACKLOG)
    server.add_sockets(sockets)
    print(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/v1", flush=True)
    await asyncio.to_thread(sys.stdin.read)


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    pid: int


@contextlib.contextmanager
def mock_server(program_file: Path) -> Iterator[Served]:
    """A server in a process of its own, for the block."""
    command = [sys.executable, "-m", "biomni_lib.stages.loadtest.mock_server", str(program_file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Served(cast(IO[str], process.stdout).readline().strip(), process.pid)
        finally:
            process.communicate()


if __name__ == "__main__":
    asyncio.run(serve(Program.load(Path(sys.argv[1]))))
