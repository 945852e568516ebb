"""This process and a Ray cluster: join or start one, and ask its actors."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from biomni_lib.errors import BiomniError, RunError

ALONE = "local"
"""The address that stands for a Ray of this process's own."""
NICENESS = "RAY_worker_niceness"
"""How much less urgent nodes that start with it set make actors; Ray's own 15 starves them beside a busy learner."""
_STORE_BYTES = 100 << 20
"""Ray's shared memory where this process starts Ray: on one machine only text travels, and weights are files."""


def join(address: str, setting: str) -> bool:
    """Connect this process to Ray.

    Args:
        address: `auto` or `HOST:PORT`, or `local` to start Ray on this machine. setting: where the address comes from.
    Returns: whether it was not connected before, so that this caller is to end it.
    Raises: RunError when there is no such cluster.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    os.environ.setdefault(NICENESS, "0")
    alone: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **(alone if address == ALONE else {}))
    except (ConnectionError, ValueError, RayError) as error:
        raise RunError(f"{setting}: no Ray cluster there ({error})") from None
    return True


async def answer(call: Any) -> Any:
    """The answer to a call of an actor; cancelling the wait cancels the call.

    Raises: what the actor raised on purpose, as itself; RayError when the actor or its node is gone.
    """
    try:
        return await call
    except asyncio.CancelledError:
        ray.cancel(call)
        raise
    except RayTaskError as error:
        if isinstance(error.cause, BiomniError):
            raise error.cause from None
        raise
