"""The token ledger: one `Trajectory` from the prompt to the reward.

Tokens are appended, never edited and never re-tokenised: the learner trains on exactly the ids that the engine sampled.
Departure from the original recipe, which rebuilt every turn from text with two different templates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomni_lib.errors import DataError, LedgerError
from biomni_lib.provenance import atomic_path

TurnKind = Literal["execute", "solution", "none"]
COLUMNS = {"token_ids": np.int32, "loss_mask": np.bool_, "logprobs": np.float32, "policy_versions": np.int32}
"""The ledger's columns and their types."""


@dataclasses.dataclass
class Turn:
    """One assistant turn, and what the environment answered.

    `start` and `end` bound the turn's sampled tokens in the trajectory's columns. Times are in seconds: the block's run
    (`tool_s`), its wait for a place (`queue_s`), the start of its session where it had none (`start_s`).
    """

    start: int
    end: int
    kind: TurnKind
    text: str
    code: str = ""
    observation: str = ""
    tool_s: float = 0.0
    generate_s: float = 0.0
    queue_s: float = 0.0
    start_s: float = 0.0


def _column(dtype: Any) -> Any:
    return dataclasses.field(default_factory=lambda: np.empty(0, dtype))


@dataclasses.dataclass
class Trajectory:
    """Everything that is known of one rollout.

    The four columns have one entry a token, shape (tokens,): `token_ids`; `loss_mask`, True where the model wrote the
    token; `logprobs`, at the sampling temperature and before top-p, NaN where no engine sampled the token;
    `policy_versions`, the weights that sampled it, -1 where none did.

    `ending` is one of solved, gave_up, turn_limit, token_limit, timeout, error:KIND. Scores are NaN until graded. `usd`
    is what an endpoint was paid for its turns.
    """

    task: str
    instance_id: str
    sample: int = 0
    model: str = ""
    strategy: str = ""
    token_ids: NDArray[np.int32] = _column(np.int32)
    loss_mask: NDArray[np.bool_] = _column(np.bool_)
    logprobs: NDArray[np.float32] = _column(np.float32)
    policy_versions: NDArray[np.int32] = _column(np.int32)
    turns: list[Turn] = dataclasses.field(default_factory=list)
    answer: str | None = None
    ending: str = ""
    correctness: float = float("nan")
    format: float = float("nan")
    total: float = float("nan")
    usd: float = 0.0

    def append(
        self,
        ids: Sequence[int],
        *,
        sampled: bool,
        logprobs: Sequence[float] | None = None,
        policy_versions: Sequence[int] | None = None,
    ) -> None:
        """Append tokens to the end of the ledger.

        Args:
            ids: (n,) token ids.
            sampled: True when the model wrote them (they carry loss), False for the prompt and observations.
            logprobs, policy_versions: (n,) as the engine returned them; None where there are none.
        Raises: LedgerError when the lengths disagree.
        """
        n = len(ids)
        for name, column in (("logprobs", logprobs), ("policy_versions", policy_versions)):
            if column is not None and len(column) != n:
                raise LedgerError(f"{name}: {len(column)} values for {n} token ids; an engine must return one a token")
        logprobs = [float("nan")] * n if logprobs is None else logprobs
        versions = [-1] * n if policy_versions is None else policy_versions
        self.token_ids = np.concatenate([self.token_ids, np.asarray(ids, np.int32)])
        self.loss_mask = np.concatenate([self.loss_mask, np.full(n, sampled)])
        self.logprobs = np.concatenate([self.logprobs, np.asarray(logprobs, np.float32)])
        self.policy_versions = np.concatenate([self.policy_versions, np.asarray(versions, np.int32)])

    @property
    def response_tokens(self) -> int:
        """Tokens that the model wrote, over all turns."""
        return int(self.loss_mask.sum())

    @property
    def tool_calls(self) -> int:
        """Code blocks that were run; the one of a last turn too many was not."""
        return sum(turn.kind == "execute" for turn in self.turns) - (self.ending == "turn_limit")

    @property
    def assistant_turns(self) -> list[str]:
        """The text of each assistant turn, in order."""
        return [turn.text for turn in self.turns]

    @property
    def oldest_version(self) -> int:
        """The oldest policy version among the sampled tokens; -1 when nothing was sampled by an engine."""
        sampled = self.policy_versions[self.loss_mask]
        return int(sampled.min()) if len(sampled) else -1

    def validate(self) -> None:
        """Raise LedgerError when the columns' lengths disagree or a turn lies outside them."""
        who, tokens = f"trajectory {self.task}/{self.instance_id}/{self.sample}", len(self.token_ids)
        lengths = {name: len(getattr(self, name)) for name in COLUMNS}
        if len(set(lengths.values())) != 1:
            raise LedgerError(f"{who}: column lengths disagree: {lengths}")
        for turn in self.turns:
            inside = 0 <= turn.start <= turn.end <= tokens
            if not inside or not self.loss_mask[turn.start : turn.end].all():
                raise LedgerError(f"{who}: turn {turn.start}:{turn.end} is not a span of written tokens of {tokens}")


_TURN = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("code", pa.string()),
        ("observation", pa.string()),
        ("tool_s", pa.float64()),
        ("generate_s", pa.float64()),
        ("queue_s", pa.float64()),
        ("start_s", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("instance_id", pa.string()),
        ("sample", pa.int32()),
        ("model", pa.string()),
        ("strategy", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),
        ("policy_versions", pa.list_(pa.int32())),
        ("turns", pa.list_(_TURN)),
        ("answer", pa.string()),
        ("ending", pa.string()),
        ("correctness", pa.float64()),
        ("format", pa.float64()),
        ("total", pa.float64()),
        ("usd", pa.float64()),
    ]
)


def _row(trajectory: Trajectory) -> dict[str, Any]:
    trajectory.validate()
    row = {field: getattr(trajectory, field) for field in SCHEMA.names}
    row["turns"] = [dataclasses.asdict(turn) for turn in trajectory.turns]
    return row


def save_trajectories(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """Write trajectories to a Parquet file, one row each, atomically. Raises: LedgerError for an inconsistent one."""
    table = pa.Table.from_pylist([_row(trajectory) for trajectory in trajectories], schema=SCHEMA)
    with atomic_path(Path(path)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def load_trajectories(path: Path) -> list[Trajectory]:
    """Read trajectories saved by `save_trajectories`, equal to those saved. Raises: DataError when unreadable."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"trajectory file {path} cannot be read ({error}); rerun the stage that writes it") from error
    if table.schema == SCHEMA.remove(SCHEMA.get_field_index("usd")):  # written before costs were kept
        table = table.append_column("usd", pa.array([0.0] * len(table)))
    if table.schema != SCHEMA:
        raise DataError(f"trajectory file {path} has other columns than a ledger's; rerun the stage that writes it")
    trajectories = []
    for row in table.to_pylist():
        row["turns"] = [Turn(**turn) for turn in row["turns"]]
        row.update({name: np.asarray(row[name], dtype) for name, dtype in COLUMNS.items()})
        trajectories.append(Trajectory(**row))
    return trajectories
