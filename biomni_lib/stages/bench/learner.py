"""The learner: its memory for one very long trajectory and a large vocabulary, and its speed beside TRL's.

Both learners are given the same model, batch, threads and objective (a token mean over the batch, mean-centred
advantages, clip 0.2 / 0.28, no KL, one update), so that their first gradients must be equal within rounding.
"""

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from biomni_lib.agent.ledger import Trajectory, load_trajectories
from biomni_lib.config import RunConfig, load_config
from biomni_lib.errors import RunError
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.scheduler import Group
from biomni_lib.stages import loadtest
from biomni_lib.stages.bench.measured import Missing, Ratio, Reading, Side, conditions, take_turns
from biomni_lib.stages.bench.peer_environment import peer_python, peer_version
from biomni_lib.stages.bench.processes import ClientProcess
from biomni_lib.stages.loadtest.job import Batch
from biomni_lib.stages.paths import paths

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
PEER, OURS, THEIRS = "trl", "this learner", "TRL's GRPO trainer, its learning alone"
ROUNDS, ROWS = 5, 8
"""Steps of each that count, and trajectories that TRL pads together in a pass: of 2 to 32 none was faster."""
REWARDS = (0.0, 1.0, 2.0)
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


def steps_against_trl(config: RunConfig) -> Ratio | Reading:
    """Tokens trained on a second of both; our number alone where TRL cannot be installed."""
    try:
        peer: Path | Missing = peer_python(PEER, config.lake_dir.parent / "peers", beside_ours=True)
    except RunError as error:
        peer = Missing(PEER, str(error))
    batch = make_batch(config, load_trajectories(paths(config).accepted))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        batch.save(Path(folder) / "batch.json")
        found = _steps(Path(folder), peer, config.rl.threads)
    rates = {name: Side(name, "tokens trained on per second", batch.tokens / s) for name, s in found.seconds.items()}
    sizes = {"trajectories": len(batch.trajectories), "tokens": batch.tokens, "learner_threads": config.rl.threads}
    told = {**conditions(config), **sizes}
    if isinstance(peer, Missing):
        return Reading(rates[OURS], told, (peer,))
    told |= {PEER: peer_version(PEER), "rows_padded_together": batch.rows, "gradient_difference": found.difference}
    return Ratio(rates[OURS], rates[THEIRS], told)


def make_batch(config: RunConfig, trajectories: Sequence[Trajectory]) -> Batch:
    """A batch of the run's size, drawn from trajectories, with rewards drawn at random."""
    rl, rng = config.rl, np.random.default_rng(np.random.SeedSequence([config.seed, ROWS]))
    drawn = [trajectories[i] for i in rng.integers(len(trajectories), size=rl.groups_per_step * rl.group_size)]
    settings = config.model_copy(update={"rl": rl.model_copy(update={"recipe": "uncorrected"})})
    made = [
        {
            "ids": t.token_ids[: t.turns[-1].end].tolist(),
            "prompt": t.turns[0].start,
            "mask": t.loss_mask[: t.turns[-1].end].astype(int).tolist(),
            "reward": float(rng.choice(REWARDS)),
        }
        for t in drawn
    ]
    return Batch(str(paths(config).sft_model), settings.model_dump_json(), rl.group_size, min(ROWS, len(made)), made)


def gradient_difference(file: str, other: str) -> float:
    """The largest difference of two gradients, in units of the largest entry of the first.

    Raises: RunError when they are not of the same parameters.
    """
    one, two = load_file(file), load_file(other)
    if one.keys() != two.keys():
        raise RunError(f"the two learners train other parameters: {', '.join(sorted(one.keys() ^ two.keys())[:3])}")
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    return max(float((gradient - two[name]).abs().max()) for name, gradient in one.items()) / largest


class _Steps(NamedTuple):
    """Seconds of each side, and the largest difference of their first gradients, in units of the largest gradient."""

    seconds: dict[str, float]
    difference: float | None


def _steps(folder: Path, peer: Path | Missing, threads: int) -> _Steps:
    commands = {OURS: [sys.executable, "-m", f"{loadtest.__name__}.learner_steps"]}
    if isinstance(peer, Path):
        commands[THEIRS] = [str(peer), "-P", str(Path(loadtest.__path__[0]) / "trl_steps.py")]
    files = {name: str(folder / f"{number}.safetensors") for number, name in enumerate(commands)}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, command in commands.items():
            told = [*command, str(folder / "batch.json"), files[name]]
            client = ClientProcess(told, None, OMP_NUM_THREADS=str(threads))
            running[name] = stack.enter_context(contextlib.closing(client))
        seconds = take_turns({name: client.seconds for name, client in running.items()}, ROUNDS)
    return _Steps(seconds, gradient_difference(files[OURS], files[THEIRS]) if THEIRS in files else None)


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
