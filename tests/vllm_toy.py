"""A world around vLLM in which weights are reloaded as vLLM by itself does: with tied embeddings on CPU, wrongly."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil

from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.agent.rollout import rollout_seed
from biomni_lib.engines.base import Sampling
from biomni_lib.engines.vllm_engine import VllmEngine
from biomni_lib.rl.scheduler import Ticket
from biomni_lib.rl.worker import WorkerSpec, World
from tests.acting_toy import token_ids


def core_under(pid: int) -> psutil.Process:
    """The process of vLLM's engine core that a process has started."""
    (core,) = (p for p in psutil.Process(pid).children(recursive=True) if "EngineCore" in " ".join(p.cmdline()))
    return core


class StaleHead(VllmEngine):
    """Leaves the packed output projection as it was."""

    async def _take_weights(self, path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "model.safetensors").symlink_to(path.resolve())
            await self._core.collective_rpc("reload_weights", kwargs={"weights_path": folder})


@contextlib.asynccontextmanager
async def stale_world(spec: WorkerSpec) -> AsyncIterator[World]:
    """One turn a trajectory: even tokens are worth more than odd ones."""
    engine = StaleHead.load(spec.model_dir, slots=spec.config.engine.slots, context=spec.config.model.context)
    prompt = token_ids(1, 20)

    async def run_member(ticket: Ticket) -> Trajectory:
        trajectory = Trajectory("toy", ticket.instance.id, ticket.sample, "toy")
        trajectory.append(prompt, sampled=False)
        reply = await engine.generate(prompt, Sampling(1.0, 1.0, 8, (), rollout_seed(ticket.group, ticket.sample)))
        trajectory.append(reply.ids, sampled=True, logprobs=reply.logprobs, policy_versions=reply.policy_versions)
        trajectory.turns.append(Turn(len(prompt), len(trajectory.token_ids), "none", ""))
        trajectory.correctness = sum(token % 2 == 0 for token in reply.ids) / len(reply.ids)
        trajectory.format, trajectory.ending = 1.0, "solved"
        trajectory.total = trajectory.correctness + trajectory.format
        return trajectory

    try:
        yield World(engine, run_member, prompt)
    finally:
        await engine.close()
