"""Published results of a small made-up study, whose scores follow from how many instances a model has right."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.analysis import summarize
from biomni_lib.analysis.budgets import FREE
from biomni_lib.evaluate import ROWS, load_rows, rows_file
from biomni_lib.stages import results
from biomni_lib.stages.paths import paths

TASKS = ("rare_disease_diagnosis", "patient_gene_detection")
INSTANCES = 40
RIGHT = {"random": 4, "overlap": 36, "teacher": 20, "base": 0, "sft": 20, "rl": 32}
"""Of the instances of each task, the first so many are right; seeds add up to two."""
RULES = ("random", "overlap")
PAGE = """# Benchmarks

Made by `make bench` with the preset smoke on: Some CPU, 2 cores.
Sides of a ratio were measured within one run; short ones took turns, and the number is a median.

| key | result | measured | against | beside |
|---|---|---|---|---|
| `sandbox.start_vs_fork` | **0.36** | 97.4 starts a second (ours) | 268.7 starts a second (fork) | 6.5 ms (gap) |
| `learner.peak_gb` | **2.1 GB** | peak resident memory | | 39.8 GB (the logits held whole) |

## Conditions

- `learner.peak_gb`: tokens 65536
"""


def model_rows(model, right, seed):
    """One row an instance; right answers of a model are longer by its position in the list."""
    rule = model in RULES
    return pd.DataFrame(
        {
            "task": task,
            "instance_id": f"heldout-{number}",
            "sample": 0,
            "seed": seed,
            "model": model,
            "score": float(number < right),
            "ids": 1,
            "correctness": float(number < right),
            "format": None if rule else 1.0,
            "tokens": 0 if rule else 100 + 3 * (number < right) + number % 5,
            "turns": 0 if rule else 2,
            "tool_calls": 0 if rule else 1,
            "ending": "solved",
            "strategy": "",
            "answer": "",
            "seconds": 0.0,
            "generate_seconds": 0.0,
            "tool_seconds": 0.0,
            "usd": 0.0,
        }
        for task in TASKS
        for number in range(INSTANCES)
    )


def save_evaluation(config, right=None):
    """Rows of every model, as the evaluation of one seed leaves them."""
    for model, count in (right or RIGHT).items():
        more = 0 if model in RULES or count == 0 else config.seed % 3
        path = rows_file(paths(config).evaluate, model)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pandas(model_rows(model, count + more, config.seed), schema=ROWS, preserve_index=False)
        pq.write_table(table, path)


def publish_toy(config, *, seeds=(0, 1), right=None):
    """Write the summary of the first seed and the rows of all to the folder of the published results."""
    for seed in seeds:
        save_evaluation(results.with_seed(config, seed), right)
    results.publish_seeds(config, seeds)
    first = results.with_seed(config, seeds[0])
    found = summarize(load_rows([paths(first).evaluate]), first) | {"seconds": {"evaluate": 90.0}}
    results.summary_file(config).write_text(json.dumps(found, indent=1))


def publish_toy_budgets(config, *, seed=0):
    """SFT and RL under one budget of turns, which leaves a quarter of the right answers right and no answer to the
    last question; and the answers of the toy's evaluation without one."""
    parts = []
    for model in ("sft", "rl"):
        free = pd.read_parquet(rows_file(paths(results.with_seed(config, seed)).evaluate, model))
        number = free["instance_id"].str.removeprefix("heldout-").astype(int)
        first = number < free["correctness"].sum() / len(TASKS) / 4
        cut = free.assign(unit="turns", budget=1.0, told=True, correctness=first.astype(float))
        cut["answer"] = cut["answer"].where(number < INSTANCES - 1, None)
        parts += [cut, free.assign(unit=FREE, budget=float("nan"), told=False)]
    return results.publish_budgets(config, pd.concat(parts, ignore_index=True))


def publish_toy_ablations(config):
    """A table of two ablations, the second clear of the first."""
    table = pd.DataFrame(
        {
            "ablation": ["default", "no_sft"],
            "changed": ["Nothing", "No SFT before"],
            "score": [0.8, 0.1],
            "ci_low": [0.7, 0.05],
            "ci_high": [0.9, 0.2],
            "format": [1.0, 0.5],
            "n": [100, 100],
        }
    )
    curves = pd.DataFrame({"ablation": ["default", "no_sft"] * 3, "step": [0, 0, 1, 1, 2, 2]})
    results.publish_ablations(config, table, curves)
