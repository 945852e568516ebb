"""This library's client: real rollouts, over HTTP or with the server's program in this very process.

python -m biomni_lib.stages.loadtest.rollouts JOB.json [URL]
"""

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.rollout import RolloutSettings, rollout
from biomni_lib.config import AgentConfig
from biomni_lib.engines.base import Completion, Engine, EngineStats, Sampling
from biomni_lib.engines.openai_engine import OpenAIEngine
from biomni_lib.sandbox.observation import Observation
from biomni_lib.stages.loadtest.job import Job, Round
from biomni_lib.stages.loadtest.mock_server import Program
from biomni_lib.tasks import Instance

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT_S = 600.0


class ProgramEngine:
    """An `Engine` that answers with the server's program, without a server."""

    def __init__(self, program: Program) -> None:
        self.program = program

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        """The turn that is due."""
        reply = self.program.reply(self.program.next_turn(prompt_ids), sampling.stop, sampling.max_tokens)
        ids, logprobs = [token.id for token in reply.tokens], [token.logprob for token in reply.tokens]
        return Completion(ids, logprobs, [0] * len(ids), reply.finish_reason)

    async def release(self, session: str) -> None:
        """Nothing to free."""

    async def load_weights(self, version: int, source: Path | Mapping[str, "Tensor"]) -> None:
        """A program has no weights."""

    def stats(self) -> EngineStats:
        """All zero."""
        return EngineStats()

    async def close(self) -> None:
        """Nothing to free."""


@dataclasses.dataclass(frozen=True)
class InstantTools:
    """A `ToolEnvironment`, and the session that it opens, in which every block answers the same at once."""

    answer: Observation

    async def open(self, seed: int) -> "InstantTools":
        """The one session."""
        return self

    async def execute(self, code: str, timeout_s: float) -> Observation:
        """The observation of any block."""
        return self.answer

    async def close(self) -> None:
        """Nothing to free."""


class Client:
    """Does a job with an engine.

    Args:
        engine: who answers, as the job's program tells.
    """

    def __init__(self, job: Job, engine: Engine) -> None:
        self.job, self.engine = job, engine
        self.renderer = ChatRenderer.load(Path(job.model_dir))
        agent = AgentConfig(
            max_turns=job.turns,
            max_turn_tokens=1 << 10,
            max_tokens=1 << 16,
            turn_timeout_s=TIMEOUT_S,
            trajectory_timeout_s=TIMEOUT_S,
        )
        self.settings = RolloutSettings(agent, lambda task: job.system_prompt, TIMEOUT_S)
        self.tools = InstantTools(Observation(job.observation, ok=True, seconds=0.0, truncated=False))

    async def run(self) -> list[Trajectory]:
        """All rollouts at once."""
        return await asyncio.gather(*(self._one(number, prompt) for number, prompt in enumerate(self.job.prompts)))

    async def _one(self, number: int, prompt: str) -> Trajectory:
        instance = Instance(prompt, "", "loadtest", str(number))
        return await rollout(instance, self.engine, self.tools, self.renderer, self.settings, seed=number)

    async def round(self) -> Round:
        """The job, timed; every trajectory must have gone through all its turns to a solution."""
        began, cpu = time.perf_counter(), time.process_time()
        made = await self.run()
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        assert all(t.ending == "solved" and len(t.turns) == self.job.turns for t in made), made[0]
        return Round(sum(len(t.turns) for t in made), seconds, cpu_s)


async def main(job_file: str, url: str | None = None) -> None:
    """Do the job once for each line on standard input."""
    job = Job.load(Path(job_file))
    engine = OpenAIEngine(url, "mock") if url else ProgramEngine(Program.load(Path(job.program_file)))
    client = Client(job, engine)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(dataclasses.asdict(await client.round())), flush=True)
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
