"""Rejection sampling: what is kept is right, well-formed, not twice the same, and not too much of one instance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.sft.rejection import accept, acceptance_table, draw_strategy

ROWS = st.tuples(
    st.sampled_from("ab"),
    st.sampled_from("xyz"),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 1),
)


def made(task: str, instance: str, words: int, correct: float, form: float, strategy: str = "s") -> Trajectory:
    one = Trajectory(task, instance, strategy=strategy, correctness=correct, format=form, total=correct + form)
    one.append([7], sampled=False)
    one.append(list(range(words)), sampled=True)
    one.turns = [Turn(1, 1 + words, "solution", "")]
    return one


@given(st.lists(ROWS, max_size=40), st.integers(1, 3))
def test_the_rules(rows: list[tuple], cap: int) -> None:
    sampled = [made(*row) for row in rows]
    kept = accept(sampled, cap=cap)
    places = [next(i for i, t in enumerate(sampled) if t is one) for one in kept]
    assert places == sorted(places)
    good = [t for t in sampled if t.correctness == 1 and t.format == 1]
    for key in {(t.task, t.instance_id) for t in sampled}:
        distinct = {t.token_ids.tobytes() for t in good if (t.task, t.instance_id) == key}
        mine = [t.token_ids.tobytes() for t in kept if (t.task, t.instance_id) == key]
        assert len(mine) == len(set(mine)) == min(cap, len(distinct))
        assert set(mine) <= distinct


def test_the_same_words_for_two_instances_are_kept_twice() -> None:
    assert len(accept([made("a", "x", 2, 1, 1), made("a", "y", 2, 1, 1), made("b", "x", 2, 1, 1)], cap=1)) == 3


def test_the_table_counts_by_task_and_strategy() -> None:
    sampled = [
        made("a", "x", 2, 1, 1, "short"),
        made("a", "x", 2, 1, 1, "short"),
        made("a", "y", 4, 1, 0, "short"),
        made("a", "y", 8, 0, 1, "long"),
        made("b", "z", 6, 1, 1, "long"),
    ]
    table = acceptance_table(sampled, accept(sampled, cap=2)).set_index(["task", "strategy"])
    assert table.loc[("a", "short")].to_dict() == {
        "sampled": 3, "correct": 1.0, "well_formed": 2 / 3, "accepted": 2 / 3, "tokens": 8 / 3, "turns": 1.0, "kept": 1,
    }  # fmt: skip
    assert table["kept"].to_dict() == {("a", "long"): 0, ("a", "short"): 1, ("b", "long"): 1}


def test_strategies_are_drawn_by_weight() -> None:
    rng = np.random.default_rng(0)
    mix = {"often": 3.0, "seldom": 1.0, "never": 0.0}
    drawn = [draw_strategy(mix, rng) for _ in range(4000)]
    assert drawn.count("never") == 0
    assert drawn.count("often") / 4000 == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 4000))
