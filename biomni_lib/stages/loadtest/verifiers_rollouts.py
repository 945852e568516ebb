"""The client of `verifiers`, run by the Python of its own environment; nothing of this library is imported here.

    python verifiers_rollouts.py JOB.json URL

In `verifiers` 0.4 a harness plays the agent, usually a program started for each rollout, and every model call goes
through its interception server. Here, in its favour, the harness is a loop in the same process over one HTTP session,
which the contract of `Harness.launch` allows. The observation is a user message.
"""

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import verifiers.v1 as vf
from verifiers.v1.clients import ModelContext
from verifiers.v1.configs.client import EvalClientConfig
from verifiers.v1.env import Env
from verifiers.v1.envs.single_agent import SingleAgentEnvConfig
from verifiers.v1.utils.loaders import load_environment

__all__ = ["Conversations", "InProcess"]
NAME = "verifiers_rollouts"
JOB: dict[str, Any] = {}
SESSIONS: list[aiohttp.ClientSession] = []


class Data(vf.TaskData):
    """A prompt."""


class Conversation(vf.Task[Data]):
    """One rollout, without a reward."""


class ConversationsConfig(vf.TasksetConfig):
    """Nothing to set."""


class Conversations(vf.Taskset[Conversation, ConversationsConfig]):
    """One conversation for each prompt of the job."""

    def load(self) -> list[Conversation]:
        """See `Taskset.load`."""
        system = JOB["system_prompt"]
        return [Conversation(Data(prompt=text, system_prompt=system), self.config.task) for text in JOB["prompts"]]


class InProcessConfig(vf.HarnessConfig):
    """Nothing to set."""


class InProcess(vf.Harness[InProcessConfig]):
    """Asks the model, appends the observation, asks again, until there is a solution."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """See `Harness.launch`."""
        system, prompt = self.resolve_prompt(data)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        headers, observation = (
            {"Authorization": f"Bearer {secret}"},
            f"<observation>\n{JOB['observation']}\n</observation>",
        )
        while True:
            asked = {"model": ctx.model, "messages": messages, "stop": ["</execute>", "</solution>"]}
            async with SESSIONS[0].post(f"{endpoint}/chat/completions", json=asked, headers=headers) as response:
                response.raise_for_status()
                text = (await response.json())["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": text})
            if text.endswith("</solution>"):
                return vf.ProgramResult(0, "", "")
            messages.append({"role": "user", "content": observation})


async def one_round(env: Env, ctx: ModelContext) -> dict[str, float]:
    """All episodes at once, timed; each must have gone through all its turns."""
    slots = [slot for task in env.taskset for slot in env.slots(task)]
    began, cpu = time.perf_counter(), time.process_time()
    episodes = await asyncio.gather(*(env.run_slot(slot, ctx) for slot in slots))
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    traces = [trace for episode in episodes for trace in episode.traces]
    turns = [trace.num_turns for trace in traces]
    assert turns == [JOB["turns"]] * len(JOB["prompts"]), [trace.errors for trace in traces][:1]
    return {"done": sum(turns), "seconds": seconds, "cpu_s": cpu_s}


async def main(job_file: str, url: str) -> None:
    """Do the job once for each line on standard input."""
    JOB.update(json.loads(Path(job_file).read_text(encoding="utf-8")))
    sys.modules[NAME] = sys.modules["__main__"]  # where `verifiers` looks for a taskset and a harness by name
    os.environ["MOCK_KEY"] = "none"
    agent = {"harness": {"id": NAME}, "runtime": {"type": "subprocess"}}
    settings = {"taskset": {"id": NAME}, "agent": agent, "interception": {"type": "server"}}
    env = load_environment(SingleAgentEnvConfig.model_validate(settings))
    ctx = ModelContext(model="mock", client=EvalClientConfig(base_url=url, api_key_var="MOCK_KEY"))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, env.serving():
        SESSIONS.append(session)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await one_round(env, ctx)), flush=True)


if __name__ == "__main__":
    logging.getLogger("verifiers").setLevel(logging.WARNING)
    asyncio.run(main(*sys.argv[1:]))
