"""The ledger: what is appended stays, what is saved comes back equal, what is inconsistent is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomni_lib.agent.ledger import COLUMNS, Trajectory, Turn, load_trajectories, save_trajectories
from biomni_lib.errors import DataError, LedgerError

TEXT = st.text(max_size=20)
IDS = st.integers(0, 2**31 - 1)
SECONDS = st.floats(0, 1e6)
SCORES = st.sampled_from([0.0, 0.5, 1.0, float("nan")])
PIECES = st.lists(st.tuples(st.lists(IDS, max_size=4), st.sampled_from(["prompt", "text", "sampled"])), max_size=5)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    made = Trajectory(draw(TEXT), draw(TEXT), draw(st.integers(0, 99)), draw(TEXT), draw(TEXT))
    for ids, kind in draw(PIECES):
        start = len(made.token_ids)
        if kind == "sampled":
            logprobs = draw(st.lists(st.floats(-50, 0, width=32), min_size=len(ids), max_size=len(ids)))
            made.append(ids, sampled=True, logprobs=logprobs, policy_versions=[start] * len(ids))
        else:
            made.append(ids, sampled=kind == "text")
        if kind != "prompt":
            tag = draw(st.sampled_from(["execute", "solution", "none"]))
            told, times = [draw(TEXT) for _ in range(3)], [draw(SECONDS) for _ in range(4)]
            made.turns.append(Turn(start, len(made.token_ids), tag, *told, *times))
    made.answer = draw(st.none() | TEXT)
    made.ending = draw(st.sampled_from(["solved", "turn_limit", "error:malformed_turn", ""]))
    made.correctness, made.format, made.total = draw(SCORES), draw(SCORES), draw(SCORES)
    return made


def parts(trajectory: Trajectory) -> dict[str, object]:
    """Everything in a trajectory, comparable: NaN equals NaN, and types count."""
    fields = {field.name: getattr(trajectory, field.name) for field in dataclasses.fields(trajectory)}
    for name in COLUMNS:
        fields[name] = (fields[name].dtype, fields[name].tobytes())
    return {name: (type(value), repr(value)) for name, value in fields.items()}


@settings(max_examples=25)
@given(batch=st.lists(trajectories(), max_size=4))
def test_what_is_saved_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, batch: list[Trajectory]) -> None:
    path = tmp_path_factory.mktemp("ledger") / "t.parquet"
    save_trajectories(path, batch)
    assert [parts(t) for t in load_trajectories(path)] == [parts(t) for t in batch]
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]


@given(pieces=PIECES)
def test_appending_leaves_everything_before_as_it_was(pieces: list[tuple[list[int], str]]) -> None:
    made = Trajectory("t", "i")
    for ids, kind in pieces:
        before = {name: getattr(made, name).copy() for name in COLUMNS}
        made.append(ids, sampled=kind != "prompt")
        for name, column in before.items():
            np.testing.assert_array_equal(getattr(made, name)[: len(column)], column)
            assert getattr(made, name).dtype == COLUMNS[name]
    assert made.token_ids.tolist() == [token for ids, _ in pieces for token in ids]
    assert made.response_tokens == sum(len(ids) for ids, kind in pieces if kind != "prompt")
    made.validate()


def test_what_no_engine_sampled_has_no_log_probability_and_no_version() -> None:
    made = Trajectory("t", "i")
    made.append([1, 2], sampled=False)
    assert made.oldest_version == -1
    made.append([3], sampled=True, logprobs=[-1.5], policy_versions=[4])
    made.append([5, 6], sampled=False)
    made.append([7, 8], sampled=True, logprobs=[-0.5, 0.0], policy_versions=[3, 5])
    assert made.loss_mask.tolist() == [False, False, True, False, False, True, True]
    assert made.policy_versions.tolist() == [-1, -1, 4, -1, -1, 3, 5]
    assert np.isnan(made.logprobs).tolist() == [True, True, False, True, True, False, False]
    assert made.oldest_version == 3


@pytest.mark.parametrize("column", ["logprobs", "policy_versions"])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_lengths_that_disagree_are_refused(column: str, count: int) -> None:
    made = Trajectory("t", "i")
    with pytest.raises(LedgerError, match=f"{column}: {count} values for 3 token ids"):
        made.append([1, 2, 3], sampled=True, **{column: [0] * count})
    assert len(made.token_ids) == 0


def broken(fault: str) -> Trajectory:
    made = Trajectory("task", "one", 7)
    made.append([1, 2], sampled=False)
    made.append([3, 4], sampled=True)
    made.turns = [Turn(2, 4, "none", "")]
    if fault == "column":
        made.logprobs = made.logprobs[:-1]
    else:
        made.turns = [Turn(*{"outside": (2, 5), "backwards": (4, 3), "observed": (1, 3)}[fault], "none", "")]
    return made


@pytest.mark.parametrize("fault", ["column", "outside", "backwards", "observed"])
def test_an_inconsistent_trajectory_is_named_and_nothing_is_written(tmp_path: Path, fault: str) -> None:
    with pytest.raises(LedgerError, match=r"trajectory task/one/7: .*"):
        save_trajectories(tmp_path / "t.parquet", [Trajectory("task", "good"), broken(fault)])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(DataError, match=r"t\.parquet cannot be read"):
        load_trajectories(path)
    path.write_bytes(b"half a file")
    with pytest.raises(DataError, match=r"t\.parquet cannot be read"):
        load_trajectories(path)
    pq.write_table(pa.table({"task": ["x"]}), path)
    with pytest.raises(DataError, match=r"t\.parquet has other columns"):
        load_trajectories(path)


def test_the_code_of_a_turn_too_many_was_not_run() -> None:
    made = Trajectory("t", "i", turns=[Turn(0, 0, "execute", ""), Turn(0, 0, "execute", "")])
    assert made.tool_calls == 2
    made.ending = "turn_limit"
    assert made.tool_calls == 1
