"""Replies and tools that take turns: never both at once, and everybody gets through."""

import asyncio
import random

import pytest

from biomni_lib.rl.coupled_world import Phase, Phases


@pytest.mark.parametrize("seed", range(5))
async def test_replies_and_tools_never_overlap_and_all_get_through(seed: int) -> None:
    rng, phases = random.Random(seed), Phases()
    running = {"reply": 0, "tool": 0}
    most = {"reply": 0, "tool": 0}
    done = []

    async def agent(turns: list[tuple[Phase, float]]) -> None:
        for phase, seconds in turns:
            async with phases.take_part(phase):
                running[phase] += 1
                most[phase] = max(most[phase], running[phase])
                assert not running["tool" if phase == "reply" else "reply"]
                await asyncio.sleep(seconds)
                running[phase] -= 1
        done.append(turns)

    work = [[(phase, rng.random() / 200) for phase in ("reply", "tool") * 4] for _ in range(12)]
    async with asyncio.timeout(20):
        await asyncio.gather(*map(agent, work))
    assert len(done) == len(work)
    assert min(most.values()) > 1  # of one phase, many go on together


async def test_a_tool_waits_for_every_reply_and_new_replies_wait_for_the_tool() -> None:
    phases, log = Phases(), []

    async def take(phase: Phase, name: str, seconds: float) -> None:
        async with phases.take_part(phase):
            log.append(f"{name} begins")
            await asyncio.sleep(seconds)
            log.append(f"{name} ends")

    long = asyncio.create_task(take("reply", "long reply", 0.05))
    await asyncio.sleep(0.01)
    tool = asyncio.create_task(take("tool", "tool", 0.01))
    await asyncio.sleep(0.01)
    late = asyncio.create_task(take("reply", "late reply", 0.0))
    await asyncio.gather(long, tool, late)
    assert log == [f"{name} {when}" for name in ("long reply", "tool", "late reply") for when in ("begins", "ends")]


async def test_whoever_gives_up_while_waiting_holds_nobody_up() -> None:
    phases = Phases()

    async def wait_for_a_tool() -> None:
        async with phases.take_part("tool"):
            pass

    async with phases.take_part("reply"):
        waiting = asyncio.create_task(wait_for_a_tool())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(1), phases.take_part("reply"):
            pass
