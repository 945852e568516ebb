"""The rows that notebook 05 reads: answers with their lengths, from the evaluation, from the teacher and from RL.

Heuristics write no tokens and are left out.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Turn, load_trajectories
from biomni_lib.agent.structure import count_structure, thinking_tokens
from biomni_lib.analysis import TRUNCATED
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.evaluate import trajectories_file
from biomni_lib.stages.evaluate import evaluated_rows
from biomni_lib.stages.paths import paths
from biomni_lib.stages.results import pooled_rows
from biomni_lib.stages.rl import trained_rows

READ = ["task", "instance_id", "sample", "strategy", "loss_mask", "turns", "ending", "correctness", "format"]
COMPARED = ["task", "instance_id", "sample", "seed", "model", "tokens", "turns", "ending", "correctness", "format"]
READ_FOR_LENGTH = ("teacher", "sft", "rl")
PHASES = 3
"""Parts of the training of RL, of as many steps each as nearly as can be."""


def answered_rows(config: RunConfig) -> pd.DataFrame:
    """Held-out rows of everything that writes tokens: models and teacher, not heuristics.

    Raises: RunError when the evaluation has not finished.
    """
    rows = evaluated_rows(config)
    return rows[rows["format"].notna()].reset_index(drop=True)


def repeated_rows(config: RunConfig) -> pd.DataFrame:
    """Several answers to the same training questions: the teacher's samples, and the groups of RL.

    Returns: the columns of `COMPARED`, `model` being `teacher, sampling` or `rl, training`. In RL the policy moves, but
        the answers of one group come from nearly the same weights.
    Raises: DataError when a stage before has not run.
    """
    trained = trained_rows(config).assign(model="rl, training", seed=config.seed)
    return pd.concat([teacher_rows(config)[COMPARED], trained[COMPARED]], ignore_index=True)


def modelled_rows(config: RunConfig) -> pd.DataFrame:
    """What the logistic models are fitted to: `READ_FOR_LENGTH` on held-out questions, and `repeated_rows`.

    Held-out rows are those of all published seeds, or this run's own where none were published for its settings: the
    answers to one question are then those of different trainings.
    Returns: the columns of `COMPARED`. Raises: DataError when a stage before has not run.
    """
    heldout = pooled_rows(config)
    heldout = heldout[heldout["model"].isin(READ_FOR_LENGTH)]
    return pd.concat([heldout[COMPARED], repeated_rows(config)], ignore_index=True)


def phase_rows(config: RunConfig) -> pd.DataFrame:
    """The trajectories of RL by part of the training, `model` being `rl, steps A to B`.

    Returns: the columns of `COMPARED`. Raises: DataError when RL has not run.
    """
    rows = trained_rows(config).assign(seed=config.seed)
    parts = [part for part in np.array_split(np.unique(rows["step"]), PHASES) if len(part)]
    named = {step: f"rl, steps {part[0] + 1} to {part[-1] + 1}" for part in parts for step in part}
    return rows.assign(model=rows["step"].map(named))[COMPARED]


def teacher_rows(config: RunConfig) -> pd.DataFrame:
    """Every trajectory that the teacher sampled, one row each, without its tokens.

    Returns: the columns of `COMPARED` (`model`: `teacher, sampling`; `tokens` that it wrote), strategy, and of its code
        what `count_structure` counts.
    Raises: DataError when there are none.
    """
    path = paths(config).teacher
    try:
        table = pq.read_table(path, columns=READ)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}); run notebook 02_rejection_sampled_sft"
        ) from None
    rows = table.drop(["loss_mask", "turns"]).to_pandas()
    turns = [[Turn(**turn) for turn in turns] for turns in table["turns"].to_pylist()]
    counts = [count_structure(*pair) for pair in zip(turns, rows["ending"], strict=True)]
    known = {"model": "teacher, sampling", "seed": config.seed, "tokens": _true_counts(table["loss_mask"])}
    return rows.assign(**known, turns=[len(one) for one in turns], **pd.DataFrame(counts))


def structured_rows(config: RunConfig) -> pd.DataFrame:
    """The held-out answers of `READ_FOR_LENGTH` with what they are made of, counted from their trajectories.

    Returns: task, instance_id, sample, model, seed, ending, correctness, and the columns of `FEATURES`.
    Raises: DataError when a model was not evaluated.
    """
    folder, renderer = paths(config).evaluate, ChatRenderer.load(paths(config).sft_model)
    found = [t for model in READ_FOR_LENGTH for t in load_trajectories(trajectories_file(folder, model))]
    return pd.DataFrame(
        {name: getattr(t, name) for name in ("task", "instance_id", "sample", "model", "ending", "correctness")}
        | {"seed": config.seed, "thinking_tokens": thinking_tokens(t, renderer), "tool_calls": t.tool_calls}
        | count_structure(t.turns, t.ending)
        for t in found
    )


def without_truncated(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that no limit cut off."""
    return rows[~rows["ending"].isin(TRUNCATED)]


def _true_counts(masks: pa.ChunkedArray) -> np.ndarray:
    """How many entries of each list are true."""
    column = masks.combine_chunks()
    total = np.concatenate([[0], np.cumsum(column.flatten().to_numpy(zero_copy_only=False), dtype=np.int64)])
    ends = np.cumsum(pc.list_value_length(column).to_numpy())
    return total[ends] - total[np.concatenate([[0], ends[:-1]])]
