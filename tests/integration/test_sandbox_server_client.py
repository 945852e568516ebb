"""One interface, three fronts: the pool of this process, the environment server, and a Ray actor."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from biomni_lib.agent.ledger import COLUMNS, Trajectory
from biomni_lib.agent.rollout import RolloutSettings, rollout
from biomni_lib.config import AgentConfig, RunConfig, load_config
from biomni_lib.engines.scripted import Conversation, ScriptedEngine
from biomni_lib.errors import ConfigError, RunError, SandboxError
from biomni_lib.sandbox import Environment, Observation, Sandbox, start_environment
from biomni_lib.sandbox.client import HttpTransport
from biomni_lib.sandbox.remote import RemoteSandbox
from biomni_lib.tasks import Instance
from tests.acting_toy import renderer
from tests.sandbox_servers import Server, serving, start_server, wait_until

BLOCKS = (
    "import numpy as np\nx = np.random.rand(3)\nprint(x)\nx.sum()",
    "print(x.sum(), callable(match_score))",
    "raise ValueError('no')",
    "import os; os._exit(3)",
    "'x' in globals()",
    "while True: pass",
    "print('\\ud800', 'é' * 9000)",
)
SEEDS = (1, 2, 3)
AGENT = AgentConfig(max_turns=9, max_turn_tokens=400, max_tokens=6000)


@pytest.fixture(scope="module")
def server(lake_dir: Path):
    with serving(lake_dir.parent) as started:
        yield started


def configured(lake_dir: Path, url: str | None, **changed: object) -> RunConfig:
    return load_config("smoke", runs_root=lake_dir.parent, **{"environment.url": url, **changed})


@contextlib.asynccontextmanager
async def joined(lake_dir: Path, url: str | None, **changed: object) -> AsyncIterator[Environment]:
    config = configured(lake_dir, url, **changed)
    async with await start_environment(config, config.lake_dir) as environment:
        yield environment


async def roll_out(environment: Environment, seed: int) -> Trajectory:
    """A rollout that runs every block, then answers."""

    def script(seen: Conversation, rng: np.random.Generator) -> str:
        number = len(seen.turns)
        if number == len(BLOCKS):
            return "<think>\nx\n</think>\n<solution>done</solution>"
        return f"<think>\nx\n</think>\n<execute>\n{BLOCKS[number]}\n</execute>"

    given = RolloutSettings(AGENT, lambda task: "Be brief.", 0.5)
    return await rollout(
        Instance("Run.", "", "toy", "one"),
        ScriptedEngine(script, renderer()),
        environment,
        renderer(),
        given,
        seed=seed,
    )


def ledger(made: Trajectory) -> dict[str, object]:
    """All of a trajectory but its times."""
    made.validate()
    columns = {name: getattr(made, name).tobytes() for name in COLUMNS}
    turns = [{name: value for name, value in vars(turn).items() if not name.endswith("_s")} for turn in made.turns]
    return {**columns, "turns": turns, "answer": made.answer, "ending": made.ending}


async def ledgers(lake_dir: Path, url: str | None) -> list[dict[str, object]]:
    async with joined(lake_dir, url) as environment:
        return [ledger(made) for made in await asyncio.gather(*(roll_out(environment, seed) for seed in SEEDS))]


async def test_rollouts_over_the_server_give_the_same_ledger(server: Server, lake_dir: Path):
    local, remote = await ledgers(lake_dir, None), await ledgers(lake_dir, server.url)
    assert local == remote
    assert local[0] != local[1] and local[0]["ending"] == "solved"
    observed = "\n".join(turn["observation"] for turn in remote[0]["turns"])
    for expected in ("True", "ValueError: no", "the interpreter died", "TimeLimit", "False", "cut"):
        assert expected in observed
    assert server.metric("sessions") == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_rollouts_over_a_ray_actor_give_the_same_ledger_and_a_dead_actor_is_replaced(lake_dir: Path):
    async with joined(lake_dir, "ray:local") as environment:
        made = await asyncio.gather(*(roll_out(environment, seed) for seed in SEEDS))
        assert [ledger(one) for one in made] == await ledgers(lake_dir, None)
        async with joined(lake_dir, "ray:auto") as other, await other.open(1) as session:
            await goes_on_after_a_cancelled_block(session)
            with pytest.raises(SandboxError, match="above 0"):
                await session.execute("1", -1)
            running = asyncio.create_task(session.execute("import time; time.sleep(50)", 50))
            await asyncio.sleep(0.5)
            ray.kill(session.transport._actor, no_restart=False)
            lost = await running
            assert not lost.ok and "Ray actor is gone" in lost.text and "the namespace is lost" in lost.text
            assert (await session.execute("'x' in globals()")).text == "False"
        assert ray.is_initialized()
    assert not ray.is_initialized()
    with pytest.raises(RunError, match="environment.url = 'ray:auto': no Ray cluster there"):
        await start_environment(configured(lake_dir, "ray:auto"), None)


async def goes_on_after_a_cancelled_block(session) -> None:
    await session.execute("x = 2")
    running = asyncio.create_task(session.execute("import time; time.sleep(50)", 50))
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    after = await session.execute("'x' in globals()")
    assert after.text.endswith("this is a fresh namespace]\nFalse")


async def test_a_cancelled_block_ends_on_the_server_and_the_session_goes_on_afresh(server: Server, lake_dir: Path):
    lost = server.metric('sessions_ended_total{why="lost"}')
    async with joined(lake_dir, server.url) as environment, await environment.open(1) as session:
        await goes_on_after_a_cancelled_block(session)
    assert server.metric('sessions_ended_total{why="lost"}') == lost + 1 and server.metric("sessions") == 0


async def test_a_session_is_used_as_a_local_one(server: Server, lake_dir: Path):
    for url in (None, server.url):
        async with joined(lake_dir, url) as environment:
            session = await environment.open(1)
            running = asyncio.create_task(session.execute("import time; time.sleep(0.5); 1"))
            await asyncio.sleep(0.1)
            with pytest.raises(SandboxError, match="running a block"):
                await session.execute("2")
            assert (await running).text == "1"
            for wrong in (0, -1, 1e9, float("nan")):
                with pytest.raises(SandboxError, match="timeout"):
                    await session.execute("1", wrong)
            assert "TimeLimit" in (await session.execute("while True: pass", 0.2)).text
            await session.close()
            await session.close()
            with pytest.raises(SandboxError, match="closed"):
                await session.execute("1")
            left_open = await environment.open(2)
            await left_open.execute("1")
        with pytest.raises(SandboxError, match="closed"):
            await environment.open(3)
    assert server.metric("sessions") == 0


@settings(max_examples=10)
@given(code=st.text(max_size=60))
def test_any_text_as_code_is_an_observation(server: Server, lake_dir: Path, code: str):
    async def run() -> Observation:
        async with joined(lake_dir, server.url) as environment, await environment.open(1) as session:
            return await session.execute(code, 5)

    assert isinstance(asyncio.run(run()), Observation)


async def test_a_full_server_is_waited_for(lake_dir: Path):
    with serving(lake_dir.parent, "sandbox.sessions_max=2", "environment.running_max=1") as server:
        async with joined(lake_dir, server.url) as environment:
            first, second, third = [await environment.open(seed) for seed in range(3)]
            await asyncio.gather(first.execute("x = 1"), second.execute("x = 2"))
            waiting = asyncio.create_task(third.execute("x = 3; x"))
            while not server.metric('refusals_total{kind="sessions"}'):
                await asyncio.sleep(0.01)
            assert not waiting.done()
            await first.close()
            assert (await waiting).text == "3"
        async with joined(lake_dir, server.url, **{"environment.patience_s": 0}) as environment:
            sessions = [await environment.open(seed) for seed in range(3)]
            await asyncio.gather(*(session.execute("1") for session in sessions[:2]))
            with pytest.raises(SandboxError, match="all 2 sessions are taken"):
                await sessions[2].execute("1")


async def test_sessions_last_as_long_as_their_client(lake_dir: Path):
    with serving(lake_dir.parent) as server:
        async with joined(lake_dir, server.url, **{"environment.lease_s": 1.2}) as environment:
            session = await environment.open(1)
            await session.execute("x = 4")
            await asyncio.sleep(3.5)
            assert (await session.execute("x")).text == "4"
            environment._sign_of_life.cancel()  # as if the client were gone
            assert await asyncio.to_thread(wait_until, lambda: server.metric("sessions") == 0)
            assert (await session.execute("'x' in globals()")).text.endswith("fresh namespace]\nFalse")


async def test_a_server_that_dies_costs_namespaces_and_no_rollout(lake_dir: Path):
    server = start_server(lake_dir.parent)
    async with joined(lake_dir, server.url) as environment:
        busy, idle = await environment.open(1), await environment.open(2)
        await asyncio.gather(busy.execute("x = 1"), idle.execute("x = 1"))
        running = asyncio.create_task(busy.execute("import time; time.sleep(50)", 50))
        while not server.metric("running"):
            await asyncio.sleep(0.01)
        server.process.kill()
        server.process.communicate()
        lost = await running
        assert not lost.ok and "broke" in lost.text and "the namespace is lost" in lost.text
        waiting = asyncio.create_task(idle.execute("'x' in globals()"))
        successor = await asyncio.to_thread(
            start_server, lake_dir.parent, args=("--port", server.url.rpartition(":")[2])
        )
        try:
            assert (await waiting).text.endswith("this is a fresh namespace]\nFalse")
            assert (await busy.execute("'x' in globals()")).text == "False"
        finally:
            successor.process.send_signal(signal.SIGTERM)
            successor.process.communicate(timeout=60)
        impatient = configured(lake_dir, server.url, **{"environment.patience_s": 0.2})
        async with RemoteSandbox([HttpTransport.from_config(impatient)], impatient.environment) as nowhere:
            with pytest.raises(SandboxError, match="cannot be reached"):
                await (await nowhere.open(1)).execute("1")


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"sandbox.isolation": "process"}, "sandbox.isolation = 'process' here and 'strict'"),
        ({"sandbox.memory_mb": 300}, "sandbox.memory_mb = 300"),
        ({"sandbox.output_chars": 300}, "sandbox.output_chars = 300"),
    ],
)
async def test_a_server_with_other_settings_is_refused_at_start(server: Server, lake_dir: Path, changed, names):
    config = configured(lake_dir, server.url, **changed)
    with pytest.raises(SandboxError, match=names):
        await start_environment(config, config.lake_dir)


async def test_a_server_with_another_lake_or_none_at_all_is_refused_at_start(server: Server, lake_dir: Path):
    with pytest.raises(SandboxError, match="lake = None here"):
        await start_environment(configured(lake_dir, server.url), None)
    with pytest.raises(SandboxError, match="cannot be reached"):
        await start_environment(configured(lake_dir, "http://127.0.0.1:9", **{"environment.patience_s": 0}), None)
    with pytest.raises(ConfigError, match="environment.url"):
        await start_environment(configured(lake_dir, "http://127.0.0.1:port"), None)
    with pytest.raises(ConfigError, match="environment.url"):
        configured(lake_dir, "127.0.0.1:8765")


async def test_the_token_comes_from_the_environment(lake_dir: Path, monkeypatch, tmp_path: Path):
    token = "a-token-for-tests-only"
    (tmp_path / "token").write_text(token + "\n")
    monkeypatch.delenv("BIOMNI_SANDBOX_TOKEN", raising=False)
    with serving(lake_dir.parent, BIOMNI_SANDBOX_TOKEN=token) as server:
        with pytest.raises(SandboxError, match="no token or a wrong one"):
            async with joined(lake_dir, server.url):
                pass
        monkeypatch.setenv("BIOMNI_SANDBOX_TOKEN_FILE", str(tmp_path / "token"))
        async with joined(lake_dir, server.url) as environment:
            assert isinstance(environment, RemoteSandbox) and not isinstance(environment, Sandbox)
            assert (await (await environment.open(1)).execute("6 * 7")).text == "42"
