"""The paid endpoints through their providers' clients, against real servers: text, faults, keys, caps, resumption."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.protocol import STOPS
from biomni_lib.agent.rollout import RolloutSettings, rollout
from biomni_lib.config import AgentConfig, ApiConfig
from biomni_lib.engines.api_budget import Reply, SpendingCapError
from biomni_lib.engines.api_clients import EndpointRefusedError, open_client
from biomni_lib.engines.api_engine import ApiEngine, model_price, whole_turn
from biomni_lib.engines.base import Sampling
from biomni_lib.errors import ConfigError, EngineError
from biomni_lib.sandbox.observation import Observation
from biomni_lib.stages.loadtest.rollouts import InstantTools
from biomni_lib.tasks import Instance
from tests.acting_toy import engine as model_engine
from tests.acting_toy import renderer
from tests.chat_endpoints import Endpoint, model_speaks, says, serving

SECRET = "sk-never-to-be-seen-4711"
RUN = "<think>\nx\n</think>\n<execute>\nprint(1)\n</execute>"
ANSWER = "<think>\nx\n</think>\n<solution>4</solution>"
SPEAK = says(RUN + " and more", RUN, ANSWER)
PROMPT = renderer().prompt("Be brief.", "What is 2 + 2?")
ASKED = Sampling(stop=STOPS, max_tokens=200)
SETTINGS = RolloutSettings(AgentConfig(max_turns=3, max_turn_tokens=200, max_tokens=2000), lambda _: "Be brief.", 10)
TOOLS = InstantTools(Observation("1", ok=True, seconds=0.0, truncated=False))
PROVIDERS = ("openai", "anthropic")
PRICES = "[m]\ninput = 1000000.0\noutput = 1000000.0\n"  # one USD a token


@contextlib.asynccontextmanager
async def opened(
    endpoint: Endpoint, folder: Path, provider: str = "openai", prices: str = "", **settings: Any
) -> AsyncIterator[ApiEngine]:
    if prices:
        (folder / "prices.toml").write_text(prices)
        settings["prices"] = folder / "prices.toml"
    url = endpoint.url.removesuffix("/v1") if provider == "anthropic" else endpoint.url
    api = ApiConfig(url=url, **{"timeout_s": 5, "retries": 2} | settings)
    made = ApiEngine.open(provider, "m", api, renderer(), folder / "paid.jsonl")
    try:
        yield made
    finally:
        await made.close()


async def roll(engine: ApiEngine, number: int = 0, seed: int = 1) -> Trajectory:
    instance = Instance("What is 2 + 2?", "", "toy", str(number))
    return await rollout(instance, engine, TOOLS, renderer(), SETTINGS, seed=seed)


def words(*turns: str) -> int:
    """What the servers bill for turns, whose stop string they take away."""
    return sum(len(turn.removesuffix("</execute>").removesuffix("</solution>").split()) for turn in turns)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_conversation_goes_out_as_messages_and_comes_back_as_text(tmp_path: Path, provider: str) -> None:
    async with serving(SPEAK) as endpoint, opened(endpoint, tmp_path, provider) as engine:
        made = await roll(engine)
        made.validate()
        stats = engine.stats()
    assert (made.ending, made.answer, made.assistant_turns) == ("solved", "4", [RUN, RUN, ANSWER])
    assert made.token_ids[made.turns[0].start : made.turns[0].end].tolist() == renderer().assistant(RUN)
    assert set(made.policy_versions) == {-1} and set(map(str, made.logprobs)) == {"nan"}
    last = endpoint.asked[-1]
    system = last.get("system", last["messages"][0]["content"])
    roles = [message["role"] for message in last["messages"] if message["role"] != "system"]
    assert (system, roles) == ("Be brief.", ["user", "assistant", "user", "assistant", "user"])
    assert last["messages"][-2]["content"] == RUN
    assert last["messages"][-1]["content"] == "<observation>\n1\n</observation>"
    assert stats.generated_tokens == words(RUN, RUN, ANSWER)
    sent = {"openai": {"stop"}, "anthropic": {"stop_sequences"}}[provider]
    assert sent <= last.keys() and not {"temperature", "top_p"} & last.keys()


async def test_what_an_openai_server_is_asked_for(tmp_path: Path) -> None:
    """Numbers of sampling that a reasoning model refuses are sent only where they differ from 1."""
    async with serving(SPEAK) as endpoint, opened(endpoint, tmp_path) as engine:
        await engine.generate(PROMPT, Sampling(temperature=0.6, top_p=0.95, max_tokens=9, stop=STOPS, seed=3))
        await engine.generate(PROMPT, Sampling(max_tokens=9))
    first, second = endpoint.asked
    assert {name: first[name] for name in ("temperature", "top_p", "max_completion_tokens", "seed")} == {
        "temperature": 0.6, "top_p": 0.95, "max_completion_tokens": 9, "seed": 3,
    }  # fmt: skip
    assert first["stop"] == list(STOPS) and first["model"] == "m" and "max_tokens" not in first
    assert not {"temperature", "top_p", "stop"} & second.keys()


@pytest.mark.parametrize(
    ("reply", "text", "reason"),
    [
        (Reply("<execute>\nx\n", "stop", "</execute>"), "<execute>\nx\n</execute>", "stop"),
        (Reply("<execute>\nx\n", "stop"), "<execute>\nx\n</execute>", "stop"),
        (Reply("<execute>x</execute> <solution>4", "stop"), "<execute>x</execute>", "stop"),
        (Reply("<execute>a<solution>4", "stop"), "<execute>a<solution>4</solution>", "stop"),
        (Reply("I give up.", "stop"), "I give up.", "eos"),
        (Reply("<execute>x", "length"), "<execute>x", "length"),
        (Reply("<execute>x", "eos"), "<execute>x", "eos"),
        (Reply("done<|im_end|>\n<|im_start|>user <solution>4</solution>", "stop"), "done", "eos"),
        (Reply("<solution>4</solution><|im_end|>", "eos"), "<solution>4</solution>", "stop"),
        (Reply("", "eos"), "", "eos"),
    ],
)
def test_a_reply_as_a_turn(reply: Reply, text: str, reason: str) -> None:
    assert whole_turn(reply, STOPS) == (text, reason)


@pytest.mark.parametrize("names_stop", [True, False])
async def test_a_stop_string_is_put_back(tmp_path: Path, names_stop: bool) -> None:
    async with serving(SPEAK, names_stop=names_stop) as endpoint, opened(endpoint, tmp_path) as engine:
        made = await engine.generate(PROMPT, ASKED)
    assert (made.text, made.finish_reason, list(made.ids), made.logprobs) == (RUN, "stop", [], None)


async def test_a_model_that_takes_no_stop_strings_is_asked_without(tmp_path: Path) -> None:
    async with serving(SPEAK, refuse_stops=True) as endpoint, opened(endpoint, tmp_path) as engine:
        made = await roll(engine)
    assert (made.ending, made.assistant_turns) == ("solved", [RUN, RUN, ANSWER])
    assert ["stop" in asked for asked in endpoint.asked] == [True, False, False, False]


async def test_a_real_model_behind_the_server_is_the_model_itself(tmp_path: Path) -> None:
    """Text over HTTP is what the engine would have written here."""
    own = model_engine(slots=2)
    try:
        async with serving(model_speaks(own, renderer())) as endpoint, opened(endpoint, tmp_path) as engine:
            made = await engine.generate(PROMPT, Sampling(max_tokens=12))
        here = await own.generate(PROMPT, Sampling(max_tokens=12))
    finally:
        await own.close()
    first = " ".join(renderer().decode(here.ids).split())
    assert made.text is not None and first.startswith(" ".join(made.text.split())[:20])


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("faults", [[429], [500, 503], [529, 429]])
async def test_what_fails_for_the_moment_is_tried_again(tmp_path: Path, provider: str, faults: list[int]) -> None:
    async with serving(SPEAK, faults=list(faults)) as endpoint, opened(endpoint, tmp_path, provider) as engine:
        made = await engine.generate(PROMPT, ASKED)
    assert (made.text, len(endpoint.asked)) == (RUN, len(faults) + 1)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_silent_server_is_asked_again_and_then_given_up(tmp_path: Path, provider: str) -> None:
    options: dict[str, Any] = {"timeout_s": 0.2, "retries": 1}
    async with serving(SPEAK, faults=[1.0]) as endpoint, opened(endpoint, tmp_path, provider, **options) as engine:
        assert (await engine.generate(PROMPT, ASKED)).text == RUN
        endpoint.faults += [1.0, 1.0]
        with pytest.raises(EngineError, match="APITimeoutError"):
            await engine.generate([*PROMPT, 30], ASKED)


async def test_a_refusal_after_all_attempts_costs_nothing_and_a_silence_may_have(tmp_path: Path) -> None:
    options: dict[str, Any] = {"prices": PRICES, "retries": 0, "spend_max_usd": 1000, "timeout_s": 0.2}
    async with serving(SPEAK, faults=[500, 1.0]) as endpoint, opened(endpoint, tmp_path, **options) as engine:
        with pytest.raises(EndpointRefusedError, match="openai/m: InternalServerError: .*not now"):
            await engine.generate(PROMPT, ASKED)
        assert engine.spent_usd == 0
        with pytest.raises(EngineError, match="APITimeoutError"):
            await engine.generate(PROMPT, ASKED)
        texts = len(b"Be brief.") + len(b"What is 2 + 2?")
        assert engine.spent_usd == texts + 2 * 64 + ASKED.max_tokens


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    async with serving(SPEAK) as endpoint:
        pass
    async with opened(endpoint, tmp_path, retries=0) as engine:
        with pytest.raises(EngineError, match="openai/m: APIConnectionError"):
            await engine.generate(PROMPT, ASKED)


@pytest.mark.parametrize(
    ("message", "ending"),
    [("This model's maximum context length is 10", "token_limit"), ("blocked: content_filter", "gave_up")],
)
async def test_a_conversation_that_is_refused_ends_and_the_run_does_not(
    tmp_path: Path, message: str, ending: str
) -> None:
    body = {"error": {"message": message, "type": "invalid_request_error"}}
    async with serving(SPEAK, faults=[400], fault_body=body) as endpoint, opened(endpoint, tmp_path) as engine:
        assert (await roll(engine)).ending == ending
        endpoint.faults.append(400)
        endpoint.fault_body = {"error": {"message": "no such field"}}
        with pytest.raises(EngineError, match="no such field"):
            await roll(engine, seed=2)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_key_is_nowhere_but_in_the_request(
    tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even when the server repeats it in an error, and everything is logged."""
    monkeypatch.setenv("BIOMNI_API_KEY", SECRET)
    for name in ("", "openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2"):
        caplog.set_level(logging.DEBUG, logger=name or None)
    body = {"error": {"message": f"wrong key {SECRET}", "type": "authentication_error"}}
    cap = {"spend_max_usd": 1e6}
    async with (
        serving(SPEAK, fault_body=body) as endpoint,
        opened(endpoint, tmp_path, provider, PRICES, **cap) as engine,
    ):
        shown = [repr(engine), repr(engine.client), repr(engine.budget), str(vars(engine.budget))]
        await engine.generate(PROMPT, ASKED)
        endpoint.faults.append(401)
        with pytest.raises(EngineError, match=r"wrong key \[key\]") as refused:
            await engine.generate([*PROMPT, 30], ASKED)
    sent = endpoint.headers[0]
    assert SECRET in (sent.get("Authorization", "") + sent.get("X-Api-Key", ""))
    error = refused.value
    shown += [str(error), repr(error), repr(error.__cause__), str(error.__suppress_context__)]
    shown += [file.read_text() for file in tmp_path.iterdir()] + [caplog.text, *map(str, caplog.records)]
    assert caplog.records and error.__suppress_context__
    assert not any(SECRET in text for text in shown)


def test_a_providers_key_is_not_sent_to_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "BIOMNI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for provider, name in (("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")):
        with pytest.raises(ConfigError, match=f"{name} is not set"):
            open_client(provider, "m", ApiConfig())
        monkeypatch.setenv(name, SECRET)
        assert open_client(provider, "m", ApiConfig())._key == SECRET
        assert open_client(provider, "m", ApiConfig(url="http://localhost:1/v1"))._key == "none"


def test_a_provider_is_not_asked_without_prices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"api\.prices: a provider's own endpoint"):
        model_price("m", ApiConfig())
    file = tmp_path / "prices.toml"
    file.write_text(PRICES)
    with pytest.raises(ConfigError, match="no price of 'n', only of: m"):
        model_price("n", ApiConfig(prices=file))
    assert model_price("n", ApiConfig(url="http://localhost:1/v1")).usd(Reply("", "stop", read=9)) == 0


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_money_is_counted_and_nothing_is_paid_for_twice(tmp_path: Path, provider: str) -> None:
    async with serving(SPEAK) as endpoint:
        async with opened(endpoint, tmp_path, provider, PRICES, spend_max_usd=10_000) as engine:
            first = await roll(engine)
            spent = engine.spent_usd
        used = sum(engine.stats().__dict__[name] for name in ("generated_tokens", "prefilled_tokens"))
        assert spent == used > 0 and len(endpoint.asked) == 3
        async with opened(endpoint, tmp_path, provider, PRICES, spend_max_usd=10_000) as engine:
            again = await roll(engine)
            assert (engine.spent_usd, len(endpoint.asked)) == (spent, 3)
            assert again.token_ids.tolist() == first.token_ids.tolist()
            await roll(engine, 1)  # the same question and seed: the same requests
            assert len(endpoint.asked) == 3
            await engine.generate(PROMPT, Sampling(stop=STOPS, max_tokens=200, seed=9))
            assert len(endpoint.asked) == 4 and engine.spent_usd > spent


async def test_the_cap_stops_before_it_is_passed(tmp_path: Path) -> None:
    async with serving(SPEAK) as endpoint, opened(endpoint, tmp_path, prices=PRICES, spend_max_usd=500) as engine:
        with pytest.raises(SpendingCapError, match=r"api\.spend_max_usd = 500"):
            for number in range(100):
                await engine.generate(PROMPT, Sampling(stop=STOPS, max_tokens=100, seed=number))
        assert 200 < engine.spent_usd <= 500 and 5 < len(endpoint.asked) < 100


async def test_conversations_are_cached_where_the_price_of_that_is_known(tmp_path: Path) -> None:
    prices = PRICES + "cached_input = 100000.0\ncache_write = 1250000.0\n"
    async with serving(SPEAK) as endpoint, opened(endpoint, tmp_path, "anthropic", prices, spend_max_usd=1e6) as engine:
        await engine.generate(PROMPT, ASKED)
        words = len(["Be", "brief.", "What", "is", "2", "+", "2?"])
        assert engine.spent_usd == pytest.approx(words - 7 + 7 * 0.1 + len(RUN.split()) - 1 * 0, abs=1.01)
    assert endpoint.asked[0]["cache_control"] == {"type": "ephemeral"}


async def test_requests_a_minute_hold_requests_back(tmp_path: Path) -> None:
    async with serving(SPEAK) as endpoint, opened(endpoint, tmp_path, requests_per_minute=2) as engine:
        tasks = [asyncio.create_task(engine.generate(PROMPT, Sampling(seed=n))) for n in range(4)]
        done, waiting = await asyncio.wait(tasks, timeout=1.5)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert (len(done), len(waiting), len(endpoint.asked)) == (2, 2, 2)


async def test_weights_are_not_sent(tmp_path: Path) -> None:
    async with serving(SPEAK) as endpoint, opened(endpoint, tmp_path) as engine:
        with pytest.raises(EngineError, match="takes no weights"):
            await engine.load_weights(1, Path("weights.safetensors"))
