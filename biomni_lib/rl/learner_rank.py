"""One rank of the learner: a process that runs on its share of the weights what the driver asks all ranks for.

Started by `learner_ranks.RankedLearner` as a fresh interpreter. It talks over one pipe:

    in:  (LearnerSpec, rank), then (function, arguments) again and again
    out: ("done", result, version), None as the result of all ranks but the first, or ("failed", error)

When the pipe closes, or the driver is no longer its parent, the rank ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from multiprocessing.connection import Connection

import torch
from torch import distributed

from biomni_lib.errors import BiomniError, RunError
from biomni_lib.rl.learner_ranks import LearnerSpec, device_of

PARENT_POLL_S = 1.0


def main(descriptor: int) -> int:
    """Entry of the process; `descriptor` is its end of the pipe."""
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(descriptor)
    spec, rank = connection.recv()
    torch.set_num_threads(spec.config.rl.threads)
    try:
        _serve(connection, spec, rank)
    except Exception as error:  # noqa: BLE001  the process's boundary: the driver must learn of every failure
        traceback.print_exc()
        told = error if isinstance(error, BiomniError) else RunError(f"rank {rank} of the learner failed: {error!r}")
        with contextlib.suppress(OSError):
            connection.send(("failed", told))
        return 1
    return 0


def _serve(connection: Connection, spec: LearnerSpec, rank: int) -> None:
    count, device = spec.config.placement.learner_ranks, device_of(spec.config, rank)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, init_method=f"file://{spec.rendezvous}", rank=rank, world_size=count)
    learner = spec.load(rank)
    connection.send(("done", None, learner.version))
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            distributed.destroy_process_group()
            return
        result = function(learner, *arguments)
        connection.send(("done", result if rank == 0 else None, learner.version))


def _end_with(parent: int) -> None:
    """In the middle of a step too: a rank that waits for the others does not read its pipe."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)
