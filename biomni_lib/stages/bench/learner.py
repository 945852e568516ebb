"""How much memory the learner needs for one very long trajectory and the vocabulary of a large model."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Qwen3Config, Qwen3ForCausalLM

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig, load_config
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.scheduler import Group
from biomni_lib.stages.bench.measured import Reading, Side, conditions

TOKENS, VOCABULARY = 65_536, 151_936
"""The longest trajectory of the original recipe, and the vocabulary of Qwen3's embedding."""
BODY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
PROMPT_TOKENS = 16
_GB = 1e9


def peak_memory(config: RunConfig) -> Reading:
    """Peak memory of a process that does one learner step on one trajectory of 65,536 tokens, in float32.

    Everything the process ever held counts, Python and its libraries included; the model's body is tiny. Beside it: the
    logits alone, which a learner that holds them whole keeps at least once.
    """
    side = Side("peak resident memory of the process, one learner step", "GB", peak_gb(TOKENS, VOCABULARY))
    logits = Side("the logits in float32, held whole", "GB", TOKENS * VOCABULARY * 4 / _GB)
    sizes = {"tokens": TOKENS, "vocabulary": VOCABULARY, "dtype": "float32", **BODY}
    return Reading(side, {**conditions(config), **sizes}, (logits,))


def peak_gb(tokens: int, vocabulary: int) -> float:
    """Peak memory in GB of a fresh process that trains one step on a trajectory of so many tokens."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_train_and_measure, tokens, vocabulary).result()


def _train_and_measure(tokens: int, vocabulary: int) -> float:
    learner = _learner(tokens, vocabulary)
    metrics = learner.step([Group(0, [_trajectory(tokens, vocabulary, 1.0), _trajectory(PROMPT_TOKENS + 1, 2, 0.0)])])
    assert metrics["policy/tokens"] == tokens - PROMPT_TOKENS + 1 and metrics["optim/skipped"] == 0
    return _peak_bytes() / _GB


def _learner(tokens: int, vocabulary: int) -> Learner:
    agent = {"max_tokens": tokens, "max_turn_tokens": tokens}
    config = load_config(
        "smoke", model={"context": tokens}, agent=agent, rl={"micro_batch_tokens": tokens, "recipe": "default"}
    )
    shape = Qwen3Config(vocab_size=vocabulary, max_position_embeddings=tokens, tie_word_embeddings=True, **BODY)
    return Learner(Qwen3ForCausalLM(shape), load_recipe("default"), config)


def _trajectory(tokens: int, vocabulary: int, reward: float) -> Trajectory:
    """A prompt, and written tokens up to `tokens` in all."""
    ids = np.random.default_rng(0).integers(0, vocabulary, tokens).tolist()
    written = ids[PROMPT_TOKENS:]
    made = Trajectory("long", "long", total=reward, format=1.0, ending="solved")
    made.append(ids[:PROMPT_TOKENS], sampled=False)
    flat = [-float(np.log(vocabulary))] * len(written)
    made.append(written, sampled=True, logprobs=flat, policy_versions=[0] * len(written))
    return made


def _peak_bytes() -> int:
    """Most resident memory that this process had since it began (Linux); what its parent held does not count."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
