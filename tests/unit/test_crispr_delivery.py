"""The written cases of crispr_delivery, their checks, and the task over them."""

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.rewards import correctness
from biomni_lib.tasks import refuse_evaluation_only
from biomni_lib.tasks.crispr import KEYWORDS, LETTERS, CrisprDelivery, letter_of, order_of_options, read_case
from biomni_lib.tasks.crispr_cases import CASES_FILE, METHODS, Case, load_cases
from biomni_lib.tasks.splits import SPLITS

CASES = load_cases()
BY_ID = {case.id: case for case in CASES}


@pytest.fixture(scope="module")
def task() -> CrisprDelivery:
    return CrisprDelivery(None, DataConfig(train_instances=400), seed=0)


def row(**changes: Any) -> dict[str, Any]:
    """A valid case as it stands in a file, with changes; None takes a field out."""
    made = {
        "id": "one",
        "split": "train",
        "cells": "HeLa cells",
        "goal": "knock-out",
        "text": "HeLa cells shall lose a gene.",
        "right": "plasmid",
        "reason": "They take it up. It is cheap.",
    } | changes
    return {key: value for key, value in made.items() if value is not None}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    """A file of cases."""
    lines = []
    for one in rows:
        lines.append("[[case]]")
        lines += [f"{key} = {value!r}" for key, value in one.items() if not isinstance(value, dict)]
        for key, table in one.items():
            if isinstance(table, dict):
                lines += [f"[case.{key}]", *(f"{name} = {value}" for name, value in table.items())]
    path = folder / "cases.toml"
    path.write_text("\n".join(lines))
    return path


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def test_every_method_is_right_equally_often() -> None:
    assert Counter(case.split for case in CASES) == {"train": 40, "dev": 10, "heldout": 10}
    assert Counter(case.right for case in CASES) == dict.fromkeys(METHODS, 10)
    for split in SPLITS:
        right = Counter(case.right for case in CASES if case.split == split)
        assert set(right) == set(METHODS) and max(right.values()) - min(right.values()) <= 1


def test_splits_share_no_situation() -> None:
    for name, other in (("train", "dev"), ("train", "heldout"), ("dev", "heldout")):
        first, second = (
            {(case.cells.lower(), case.goal) for case in CASES if case.split == split} for split in (name, other)
        )
        assert not first & second


@pytest.mark.parametrize("method", METHODS)
def test_names_are_those_of_the_option(method: str) -> None:
    """The words that a text may not say include what the option itself is called."""
    assert re.search(METHODS[method].names, METHODS[method].option, re.IGNORECASE)
    assert re.search(METHODS[method].names, method, re.IGNORECASE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_text_gives_nothing_away(case: Case) -> None:
    """No method's name, and no five words in a row of the reason, occurs in the text."""
    assert not [name for name, method in METHODS.items() if re.search(method.names, case.text, re.IGNORECASE)]
    reason, text = words(case.reason), " ".join(words(case.text))
    assert not [at for at in range(len(reason) - 4) if " ".join(reason[at : at + 5]) in text]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_text_states_facts_and_the_reason_is_two_sentences(case: Case) -> None:
    assert 40 <= len(case.text.split()) <= 90
    assert len(re.findall(r"[.](?= |$)", case.reason)) == 2
    assert not re.search(r"\w- \w", case.text + case.reason)


def test_references_say_where_they_were_found() -> None:
    """Every reference in the file has all five fields; only some cases have one, and none is cited for two cases."""
    rows = tomllib.loads(CASES_FILE.read_text())["case"]
    references = [one["reference"] for one in rows if "reference" in one]
    assert 0 < len(references) < len(rows)
    assert all(set(one) == {"title", "identifier", "found_at", "found_on", "says"} for one in references)
    assert len({one["identifier"] for one in references}) == len(references)


@pytest.mark.parametrize("missing", ["title", "identifier", "found_at", "found_on", "says"])
def test_a_reference_without_its_source_is_refused(tmp_path: Path, missing: str) -> None:
    fields = {
        "title": "'On cells'",
        "identifier": "'doi:1'",
        "found_at": "'https://example.org/1'",
        "found_on": "2026-11-25",
        "says": "'It works.'",
    }
    assert load_cases(write(tmp_path, row(reference=fields)))[0].reference is not None
    del fields[missing]
    with pytest.raises(DataError, match=rf"case 1 \(one\): reference.{missing}: Field required"):
        load_cases(write(tmp_path, row(reference=fields)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"right": "magnet"}, "right: Input should be 'plasmid', 'lentivirus'"),
        ({"second": "plasmid"}, "second is the right method 'plasmid' itself; leave it out"),
        ({"text": "Lipofectamine is at hand."}, "the text says 'Lipofect', which names the method plasmid"),
        ({"text": "An AAV6 donor follows."}, "the text says 'AAV', which names the method aav"),
        ({"text": "  "}, "text: Value error, '  ' is no text; write some"),
        ({"cells": 7}, "cells: Value error, 7 is no text; write some"),
        ({"reason": None}, "reason: Field required"),
        ({"split": "test"}, "split: Input should be 'train', 'dev' or 'heldout'"),
        ({"goal": "wonder"}, "goal: Input should be 'guide testing'"),
        ({"id": "One Case"}, "id: String should match pattern"),
        ({"source": "memory"}, "source: Extra inputs are not permitted"),
    ],
)
def test_a_case_that_breaks_a_rule_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"cases\.toml, case 1 \(.+\): ") as error:
        load_cases(write(tmp_path, row(**changes)))
    assert message in str(error.value)


def test_cases_that_clash_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="id one comes twice"):
        load_cases(write(tmp_path, row(), row(cells="CHO cells")))
    with pytest.raises(DataError, match="knock-out in HeLa cells is in train and in dev"):
        load_cases(write(tmp_path, row(), row(id="two", split="dev")))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.toml cannot be read"):
        load_cases(tmp_path / "none.toml")
    for text, message in (("[[case", "cannot be read"), ("", r"has no \[\[case\]\]"), ("case = 1", "has no")):
        (tmp_path / "cases.toml").write_text(text)
        with pytest.raises(DataError, match=message):
            load_cases(tmp_path / "cases.toml")


def test_gold_earns_all_a_second_half_and_the_rest_nothing(task: CrisprDelivery) -> None:
    halves = 0.0
    for split in SPLITS:
        for one in task.instances(split):
            case = BY_ID[one.meta["case"]]
            for letter, method in zip(LETTERS, one.meta["options"], strict=True):
                right, half = method == case.right, method == case.second
                assert task.grade(one, letter) == task.grade(one, letter.upper(), strict=True) == float(right)
                assert correctness(letter, one) == (1.0 if right else 0.5 if half else 0.0)
                halves += half
            assert task.gold_answer(one) == one.gold and task.grade(one, None) == 0.0
            assert task.grade(one, f"{one.gold} or {LETTERS[0]}") == 0.0
    assert halves > 0


def test_prompt_has_the_asked_shape(task: CrisprDelivery) -> None:
    options = "".join(rf"{letter}\. .+\n" for letter in LETTERS)
    shape = rf"Task: choose the delivery method .+\.\nCase: .+\nOptions:\n{options}Output format: one letter, a to f"
    for split in SPLITS:
        for one in task.instances(split):
            assert re.fullmatch(shape, task.prompt(one))
            assert read_case(one.prompt) == BY_ID[one.meta["case"]].text
            assert "".join(letter_of(one.prompt, method) for method in one.meta["options"]) == LETTERS
            assert one.meta["reason"] not in one.prompt


@given(st.sampled_from(list(METHODS)), st.integers(0, 2**32), st.integers(0, 5000))
def test_a_block_of_six_has_six_right_letters(right: str, seed: int, number: int) -> None:
    orders = [order_of_options(right, (seed, 3, 0), number // 6 * 6 + turn) for turn in range(6)]
    assert all(sorted(order) == sorted(METHODS) for order in orders)
    assert sorted(order.index(right) for order in orders) == list(range(6))


def test_a_letter_tells_neither_case_nor_method() -> None:
    """Every method stands at every letter as often as chance has it, within 4 standard errors."""
    large = CrisprDelivery(None, DataConfig(train_instances=6000), seed=1).instances("train")
    band = 4 * np.sqrt(1 / 6 * 5 / 6 / len(large))
    for method in METHODS:
        share = np.bincount([one.meta["options"].index(method) for one in large], minlength=6) / len(large)
        assert abs(share - 1 / 6).max() < band
    for case in ("k562-dropout-screen", "amyloidosis-liver"):
        assert {one.gold for one in large if one.meta["case"] == case} == set(LETTERS)


def test_no_letter_is_a_good_guess(task: CrisprDelivery) -> None:
    for split in SPLITS:
        gold = Counter(one.gold for one in task.instances(split))
        assert max(gold.values()) <= np.ceil(gold.total() / 6)


def test_instances_repeat_and_do_not_depend_on_the_count(task: CrisprDelivery) -> None:
    shorter = DataConfig(train_instances=50, dev_instances=4, heldout_instances=300)
    again, other = (CrisprDelivery(None, shorter, seed) for seed in (0, 1))
    assert again.instances("train") == task.instances("train")[:50]
    assert [one.prompt for one in other.instances("train")] != [one.prompt for one in again.instances("train")]
    assert other.instances("dev") == task.instances("dev")[:4]
    assert other.instances("heldout") == task.instances("heldout")
    assert [len(task.instances(split)) for split in SPLITS] == [400, 10, 10]
    ids = [one.id for split in SPLITS for one in task.instances(split)]
    assert len(set(ids)) == len(ids)
    refuse_evaluation_only(ids, "a test")


def test_any_first_part_of_a_split_is_balanced(task: CrisprDelivery) -> None:
    for split in SPLITS:
        assert {BY_ID[one.meta["case"]].right for one in task.instances(split)[:6]} == set(METHODS)


def test_baselines(task: CrisprDelivery) -> None:
    """random and majority near chance; the rule of thumb well above, and short of right."""
    instances = task.instances("train")
    score = {
        name: np.mean([task.grade(one, answer(one)) for one in instances]) for name, answer in task.baselines().items()
    }
    assert list(score) == ["random", "majority", "keywords"]
    assert abs(score["random"] - 1 / 6) < 4 * np.sqrt(1 / 6 * 5 / 6 / len(instances))
    assert score["majority"] == pytest.approx(7 / 40)
    assert 0.5 < score["keywords"] < 0.95
    assert all(answer(one) == answer(one) for one in instances[:3] for answer in task.baselines().values())


def test_every_keyword_serves() -> None:
    texts = [case.text for case in CASES if case.split == "train"]
    assert all(any(re.search(pattern, text) for text in texts) for pattern, _ in KEYWORDS)


def test_unknown_split_is_refused(task: CrisprDelivery) -> None:
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        task.instances("test")
