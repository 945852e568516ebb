"""What new weights cost conversations under way: keeping their KV cache, or computing it again. Measured on the engine.

The SFT model writes; in the midst of it the reinforced model's weights arrive, then the first again, and so on. A kept
cache costs nothing but holds keys and values of older weights, so what is sampled after a swap is not exactly what the
new weights would have said; a recomputed one is exact, and costs the reading.
"""

import asyncio
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from biomni_lib.agent.prompt import system_prompts
from biomni_lib.config import RunConfig
from biomni_lib.engines.base import Completion, Sampling
from biomni_lib.engines.transformers_engine import KvOnUpdate, TransformersEngine
from biomni_lib.stages.paths import paths
from biomni_lib.tasks import Instance

CHOICES: tuple[KvOnUpdate, ...] = ("keep", "recompute")
CONVERSATIONS, SWAPS, TOKENS_BETWEEN = 16, 4, 20
POLL_S = 0.002


async def weights_in_flight(config: RunConfig, instances: Sequence[Instance]) -> pd.DataFrame:
    """Swap weights under conversations that all are generating, with either choice.

    Returns: a row a choice: kv_on_update, swaps, spanning (share of replies that span versions), pause_ms and
        recompute_ms a swap, recomputed_tokens a swap, gap_mean and gap_max, the absolute difference in log-probability
        between what was sampled under the last weights and what these say of the same tokens when they read it all.
    """
    rows, count = [], min(CONVERSATIONS, config.engine.slots)
    for choice in CHOICES:
        engine = TransformersEngine.load(
            paths(config).sft_model,
            slots=count,
            context=config.model.context,
            kv_on_update=choice,
        )
        told = system_prompts(config.prompt.tools, config.prompt.biomni_tools)
        prompts = [engine.renderer.prompt(told(one.task), one.prompt) for one in instances[:count]]
        replies = await _write(engine, prompts, config)
        stats = engine.stats()
        await engine.close()
        gaps = _gaps(config, prompts, replies)
        rows.append(
            {
                "kv_on_update": choice,
                "swaps": stats.swaps,
                "spanning": float(np.mean([len(set(reply.policy_versions or ())) > 1 for reply in replies])),
                "pause_ms": 1000 * (stats.swap_s + stats.recompute_s) / stats.swaps,
                "recompute_ms": 1000 * stats.recompute_s / stats.swaps,
                "recomputed_tokens": stats.recomputed_tokens / stats.swaps,
                "gap_mean": float(gaps.mean()),
                "gap_max": float(gaps.max()),
            }
        )
    return pd.DataFrame(rows)


async def _write(engine: TransformersEngine, prompts: list[list[int]], config: RunConfig) -> list[Completion]:
    """Let all conversations write until the last weights have sampled some tokens of each that is left."""
    here, between = paths(config), TOKENS_BETWEEN * len(prompts)
    weights = [load_file(folder / "model.safetensors") for folder in (here.sft_model, here.rl_model)]
    engine.renderer.end_of_turn = -1  # no reply ends before its length
    room = min(TOKENS_BETWEEN * (SWAPS + 2), config.model.context - max(map(len, prompts)) - 1)
    waits = [
        asyncio.ensure_future(engine.generate(prompt, Sampling(max_tokens=room, seed=n), session=str(n)))
        for n, prompt in enumerate(prompts)
    ]
    for version in range(1, SWAPS + 1):
        aim = engine.stats().generated_tokens + between
        while engine.stats().generated_tokens < aim and not all(wait.done() for wait in waits):
            await asyncio.sleep(POLL_S)
        await engine.load_weights(version, weights[version % 2])
    return list(await asyncio.gather(*waits))


@torch.inference_mode()
def _gaps(config: RunConfig, prompts: list[list[int]], replies: list[Completion]) -> np.ndarray:
    """Absolute differences of log-probabilities of the tokens that the last weights sampled."""
    folder = (paths(config).sft_model, paths(config).rl_model)[SWAPS % 2]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([[*prompt, *reply.ids]])
        told = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        read = told.gather(-1, torch.tensor(reply.ids)[:, None])[:, 0].numpy()
        last = np.asarray(reply.policy_versions) == SWAPS
        found.append(np.abs(read - np.asarray(reply.logprobs))[last])
    return np.concatenate(found)
