"""Run the attacks named on the standard input."""

import asyncio
import json
import sys
import traceback

from tests.attacks import files, kernel_calls, processes, protocol, resources  # noqa: F401 - they register attacks
from tests.attacks.arena import ATTACKS, Arena
from tests.attacks.soak import open_and_drop, soak

COUNTED = {"open_and_drop": open_and_drop, "soak": soak}


async def run_attack(arena: Arena, name: str, count: str) -> str | None:
    """Run one attack by name, or a counted one; its failure, or None."""
    try:
        await (COUNTED[name](arena, int(count)) if count else ATTACKS[name](arena))
        await arena.require_all_well()
    except Exception:  # noqa: BLE001 - the test that asked reports it
        return traceback.format_exc()
    finally:
        await arena.session.close()
        arena.session = await arena.sandbox.open(2)
    return None


async def main(tier: str) -> None:
    """Open the arena, say what protects it, and serve until the input ends."""
    async with Arena.open(tier) as arena:
        print(json.dumps(arena.sandbox.protection.describe()), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, _, count = line.strip().partition(" ")
            print(json.dumps(await run_attack(arena, name, count)), flush=True)


asyncio.run(main(sys.argv[1]))
