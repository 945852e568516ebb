"""Places by class: heavy blocks wait for each other and never hold up light ones."""

import asyncio

import pytest

from biomni_lib.sandbox.observation import Latency
from biomni_lib.sandbox.places import Places, tool_class


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("#!BASH\nls", "shell"),
        ("\n  #!R\nmean(x)", "shell"),
        ("x = 1", "python"),
        ("x = 1\n#!BASH", "python"),
        ("#!BASH", "shell"),
        ("# R code", "python"),
        ("#!Rust", "python"),
        ("", "python"),
    ],
)
def test_the_first_line_declares_the_class(code: str, name: str) -> None:
    assert tool_class(code) == name


async def test_each_class_has_its_own_places_and_waiting_counts_as_queueing() -> None:
    places = Places({"python": 2, "shell": 1})
    running: set[str] = set()
    most: dict[str, int] = {}
    release = asyncio.Event()

    async def block(code: str, number: int) -> Latency:
        latency = Latency()
        async with places.take(code, latency):
            running.add(f"{code}{number}")
            most[code] = max(most.get(code, 0), sum(name.startswith(code) for name in running))
            await release.wait()
            running.discard(f"{code}{number}")
        return latency

    heavy = [asyncio.create_task(block("#!BASH", number)) for number in range(3)]
    await asyncio.sleep(0.02)
    light = asyncio.create_task(block("1", 0))
    await asyncio.sleep(0.02)
    assert running == {"#!BASH0", "10"}  # two shell blocks wait, the Python block does not
    release.set()
    waits = [latency.queue_s for latency in await asyncio.gather(*heavy)]
    assert most["#!BASH"] == 1
    assert waits[0] < waits[1] <= waits[2] and (await light).queue_s < waits[1]


async def test_a_cancelled_waiter_and_a_failed_block_give_their_places_back() -> None:
    places = Places({"python": 1, "shell": 1})
    with pytest.raises(ValueError):
        async with places.take("1", Latency()):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), places.take("1", Latency()):
                    pass
            raise ValueError
    async with asyncio.timeout(5), places.take("1", Latency()):
        pass
