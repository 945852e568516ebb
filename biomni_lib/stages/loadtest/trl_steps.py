"""TRL's GRPO trainer as a client, run by the Python of its own environment; nothing of this library is imported here.

    python trl_steps.py BATCH.json GRADIENTS.safetensors

Its rollouts are the job's trajectories, handed over ready by `rollout_func`. What TRL does with them before it learns
(decoding, rewards, advantages, padding) is left out of the seconds, in its favour; so is its gradient checkpointing.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print, some while they are imported, goes to standard error

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

STEPS_MAX = 10_000


class Trainer(GRPOTrainer):
    """Knows how long it prepared batches, which is not learning."""

    prepare_s = prepare_cpu_s = 0.0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        began, cpu = time.perf_counter(), time.process_time()
        made = super()._generate_and_score_completions(inputs)
        self.prepare_s += time.perf_counter() - began
        self.prepare_cpu_s += time.process_time() - cpu
        return made


class Pace(TrainerCallback):
    """Waits for a line before each step, and tells afterwards what it took."""

    trainer: Trainer
    before: tuple[float, float]

    def __init__(self, tokens: int, gradients: str) -> None:
        self.tokens, self.gradients = tokens, gradients

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if not sys.stdin.readline():
            sys.exit(0)
        self.before = time.perf_counter() - self.trainer.prepare_s, time.process_time() - self.trainer.prepare_cpu_s

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """See `TrainerCallback`; gradients are clipped by now."""
        if not state.global_step:
            named = model.named_parameters()
            save_file({n: p.grad.contiguous() for n, p in named if p.grad is not None}, self.gradients)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        after = time.perf_counter() - self.trainer.prepare_s, time.process_time() - self.trainer.prepare_cpu_s
        seconds, cpu_s = (b - a for a, b in zip(self.before, after, strict=True))
        print(json.dumps({"done": self.tokens, "seconds": seconds, "cpu_s": cpu_s}), file=ANSWERS, flush=True)


def main(job_file: str, gradients: str) -> None:
    """Train, telling of each step; the first leaves its gradient, after clipping."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    rl, made = json.loads(job["settings"])["rl"], job["trajectories"]
    torch.set_num_threads(rl["threads"])

    def rollouts(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        return {
            "prompt_ids": [one["ids"][: one["prompt"]] for one in made],
            "completion_ids": [one["ids"][one["prompt"] :] for one in made],
            "env_mask": [one["mask"][one["prompt"] :] for one in made],
            "logprobs": [[0.0] * (len(one["ids"]) - one["prompt"]) for one in made],
            "reward": [one["reward"] for one in made],
        }

    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            output_dir=folder,
            max_steps=STEPS_MAX,
            per_device_train_batch_size=job["rows"],
            gradient_accumulation_steps=len(made) // job["rows"],
            num_generations=job["group_size"],
            loss_type="dapo",
            beta=0.0,
            scale_rewards="none",
            epsilon=0.2,
            epsilon_high=0.28,
            temperature=rl["temperature"],
            learning_rate=rl["learning_rate"],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=rl["grad_clip"],
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        pace = Pace(sum(len(one["ids"]) for one in made), gradients)
        pace.trainer = Trainer(
            model=AutoModelForCausalLM.from_pretrained(job["model_dir"], dtype=torch.float32),
            reward_funcs=lambda reward, **kwargs: reward,
            args=args,
            train_dataset=Dataset.from_list([{"prompt": "as told"}] * (len(made) // job["group_size"])),
            processing_class=AutoTokenizer.from_pretrained(job["model_dir"]),
            rollout_func=rollouts,
            callbacks=[pace],
        )
        pace.trainer.train()


if __name__ == "__main__":
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    main(*sys.argv[1:])
