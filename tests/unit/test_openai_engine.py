"""The engine over a server: what goes out, what comes back, and every way in which a server fails."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.protocol import STOPS
from biomni_lib.agent.rollout import RolloutSettings, rollout
from biomni_lib.config import AgentConfig
from biomni_lib.engines.base import Engine, Sampling
from biomni_lib.engines.openai_engine import OpenAIEngine
from biomni_lib.errors import EngineError
from biomni_lib.sandbox.observation import Observation
from biomni_lib.stages.loadtest.mock_server import Program, Token, mock_server
from biomni_lib.stages.loadtest.rollouts import InstantTools, ProgramEngine
from biomni_lib.tasks import Instance
from tests.acting_toy import renderer

RUN = "<think>\nx\n</think>\n<execute>\nprint(1)\n</execute>"
TEXTS = (RUN + " and more", RUN, "<think>\nx\n</think>\n<solution>4</solution>")
PROMPT = renderer().prompt("Be brief.", "What is 2 + 2?")
SETTINGS = RolloutSettings(AgentConfig(max_turns=3, max_turn_tokens=200, max_tokens=2000), lambda task: "Be brief.", 10)
TOOLS = InstantTools(Observation("1", ok=True, seconds=0.0, truncated=False))


def tokens(text: str) -> tuple[Token, ...]:
    """The text's tokens, each with a log-prob of its own."""
    ids = renderer().assistant(text)
    return tuple(Token(token, renderer().decode([token]), -0.125 * place) for place, token in enumerate(ids))


PROGRAM = Program(tuple(map(tokens, TEXTS)), PROMPT[0])


@pytest.fixture(scope="module")
def program_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "program.json"
    PROGRAM.save(path)
    return path


@pytest.fixture(scope="module")
def url(program_file: Path) -> Iterator[str]:
    with mock_server(program_file) as server:
        yield server.url


@contextlib.asynccontextmanager
async def engine(url: str, **options: Any) -> AsyncIterator[OpenAIEngine]:
    made = OpenAIEngine(url, "mock", **options)
    try:
        yield made
    finally:
        await made.close()


async def roll(served: Engine, number: int = 0) -> Trajectory:
    instance = Instance("What is 2 + 2?", "", "toy", str(number))
    return await rollout(instance, served, TOOLS, renderer(), SETTINGS, seed=number)


async def test_ids_logprobs_and_versions_come_back_as_the_server_has_them(url: str) -> None:
    async with engine(url, version=7) as served:
        made = await served.generate(PROMPT, Sampling(stop=STOPS))
        after = [*PROMPT, *made.ids, *renderer().observation("1")]
        second = await served.generate(after, Sampling(stop=STOPS))
    expected = tokens(RUN)
    assert made.ids == [token.id for token in expected] == second.ids
    assert made.logprobs == [token.logprob for token in expected]
    assert made.policy_versions == [7] * len(expected)
    assert (made.text, made.finish_reason, served.stats().generated_tokens) == (None, "stop", 2 * len(expected))


@pytest.mark.parametrize(
    ("stop", "max_tokens", "text", "reason"),
    [
        (STOPS, 200, RUN, "stop"),
        (("never",), 200, TEXTS[0], "eos"),
        ((), 200, TEXTS[0], "eos"),
        (STOPS, 5, None, "length"),
    ],
)
async def test_where_a_completion_ends(
    url: str, stop: tuple[str, ...], max_tokens: int, text: str | None, reason: str
) -> None:
    async with engine(url) as served:
        made = await served.generate(PROMPT, Sampling(stop=stop, max_tokens=max_tokens))
    assert made.finish_reason == reason
    assert renderer().decode(made.ids) == text if text else len(made.ids) == max_tokens


async def test_rollouts_over_a_server_are_those_of_one_process(url: str) -> None:
    async with engine(url, connections=3) as served:
        over_http = await asyncio.gather(*(roll(served, number) for number in range(20)))
    for number, made in enumerate(over_http):
        made.validate()
        here = await roll(ProgramEngine(PROGRAM), number)
        assert (made.ending, made.answer, len(made.turns), here.ending) == ("solved", "4", 3, "solved")
        for column in ("token_ids", "loss_mask", "logprobs", "policy_versions"):
            np.testing.assert_array_equal(getattr(made, column), getattr(here, column))
        assert made.assistant_turns == here.assistant_turns == [RUN, RUN, TEXTS[2]]


async def test_the_mock_server_says_the_same_to_messages(url: str) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    said = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(4):
            asked = {"model": "mock", "messages": messages, "stop": list(STOPS)}
            answer = (await client.post(f"{url}/chat/completions", json=asked)).json()
            said.append(answer["choices"][0]["message"]["content"])
            messages += [{"role": "assistant", "content": said[-1]}, {"role": "user", "content": "1"}]
    assert said == [RUN, RUN, TEXTS[2], TEXTS[2]]


async def test_a_server_that_ends_is_no_ending_of_a_rollout(program_file: Path) -> None:
    with mock_server(program_file) as server:
        served = OpenAIEngine(server.url, "mock")
        assert (await roll(served)).ending == "solved"
    with pytest.raises(EngineError, match="cannot be reached|broke"):
        await roll(served)
    await served.close()
    with pytest.raises(EngineError, match="closed"):
        await served.generate(PROMPT, Sampling())


Answer = Callable[[RequestHandler], Any]


@contextlib.asynccontextmanager
async def answering(answer: Answer, on_close: Callable[[], None] = lambda: None) -> AsyncIterator[str]:
    """The URL of a server of this process that answers so."""

    class Handler(RequestHandler):
        async def post(self) -> None:
            await answer(self)

        def on_connection_close(self) -> None:
            on_close()

    server = HTTPServer(Application([("/v1/completions", Handler)], log_function=lambda _: None))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}/v1"
    finally:
        server.stop()
        await server.close_all_connections()


def choice(**fields: Any) -> dict[str, Any]:
    """A good answer of two tokens, changed."""
    good = {"finish_reason": "stop", "token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0, -2.0]}}
    return {"choices": [good | fields]}


async def test_what_is_asked() -> None:
    seen: list[dict[str, Any]] = []

    async def answer(handler: RequestHandler) -> None:
        seen.append({**json.loads(handler.request.body), "token": handler.request.headers["Authorization"]})
        handler.finish(choice())

    sampling = Sampling(0.7, 0.9, 33, ("</execute>",), 2**62)
    async with answering(answer) as url, engine(url, token="secret") as served:
        assert (await served.generate(np.asarray([1, 2, 3]).tolist(), sampling)).finish_reason == "eos"
    asked = seen[0]
    assert (asked["prompt"], asked["max_tokens"], asked["seed"]) == ([1, 2, 3], 33, 2**62)
    assert (asked["temperature"], asked["top_p"], asked["stop"]) == (0.7, 0.9, ["</execute>"])
    assert asked["return_token_ids"] and asked["include_stop_str_in_output"] and not asked["skip_special_tokens"]
    assert (asked["logprobs"], asked["model"], asked["token"]) == (0, "mock", "Bearer secret")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, choice(token_ids=None), "returns no token ids"),
        (200, choice(prompt_token_ids=[0, 1, 2, 3]), "changed the prompt's token ids"),
        (200, choice(logprobs=None), "one finite log-prob for each"),
        (200, choice(logprobs={"token_logprobs": [-1.0]}), "one finite log-prob for each"),
        (200, choice(logprobs={"token_logprobs": [-1.0, None]}), "one finite log-prob for each"),
        (200, choice(logprobs={"token_logprobs": [-1.0, float("nan")]}), "one finite log-prob for each"),
        (200, choice(finish_reason="abort"), "not answer like a completions server.*abort"),
        (200, {"choices": []}, "not answer like a completions server"),
        (200, "hello", "not answer like a completions server"),
        (400, {"error": {"message": "the prompt is\n too long"}}, "status 400.: the prompt is too long"),
        (400, {"message": "too long"}, "status 400.: too long"),
        (503, "x" * 5000, "status 503.: x{300}$"),
    ],
)
async def test_an_answer_that_the_ledger_cannot_hold_is_refused(status: int, body: Any, message: str) -> None:
    async def answer(handler: RequestHandler) -> None:
        handler.set_status(status)
        handler.finish(body if isinstance(body, str) else json.dumps(body))

    async with answering(answer) as url, engine(url) as served:
        with pytest.raises(EngineError, match=message):
            await served.generate([1, 2, 3], Sampling())


async def test_a_silent_server_is_given_up() -> None:
    async def answer(handler: RequestHandler) -> None:
        await asyncio.sleep(5)

    async with answering(answer) as url, engine(url, timeout_s=0.1) as served:
        with pytest.raises(EngineError, match=r"silent for 0\.1 s"):
            await served.generate([1], Sampling())


async def test_a_connection_that_breaks_and_one_that_the_server_closes() -> None:
    calls: list[int] = []

    async def answer(handler: RequestHandler) -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            handler.request.connection.stream.close()  # type: ignore[attr-defined]
        handler.set_header("Connection", "close")
        handler.finish(choice())

    async with answering(answer) as url, engine(url) as served:
        with pytest.raises(EngineError, match="broke"):
            await served.generate([1], Sampling())
        for _ in range(2):
            assert (await served.generate([1], Sampling())).ids == [5, 6]


async def test_no_more_requests_at_once_than_connections() -> None:
    under_way = [0, 0]

    async def answer(handler: RequestHandler) -> None:
        under_way[0] += 1
        under_way[1] = max(under_way)
        await asyncio.sleep(0.01)
        under_way[0] -= 1
        handler.finish(choice())

    async with answering(answer) as url, engine(url, connections=3) as served:
        await asyncio.gather(*(served.generate([1], Sampling()) for _ in range(20)))
    assert under_way == [0, 3]


async def test_cancelling_drops_the_connection_and_gives_back_its_place() -> None:
    dropped, asked, patient = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(handler: RequestHandler) -> None:
        if not patient.is_set():
            asked.set()
            await patient.wait()
            return
        handler.finish(choice())

    async with answering(answer, dropped.set) as url, engine(url, connections=1) as served:
        task = asyncio.create_task(roll(served))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(dropped.wait(), 5)
        patient.set()
        assert (await asyncio.wait_for(served.generate([1], Sampling()), 5)).ids == [5, 6]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://[::1/v1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(EngineError, match="engine URL"):
        OpenAIEngine(url, "mock")


async def test_weights_are_not_sent(url: str) -> None:
    async with engine(url) as served:
        with pytest.raises(EngineError, match="takes no weights"):
            await served.load_weights(1, Path("weights.safetensors"))
