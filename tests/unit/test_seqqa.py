"""Generated sequence questions: each has one right option, which plain code finds, and nothing else gives it away."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError
from biomni_lib.lake.sequences import read_sequence_table
from biomni_lib.tasks import Instance
from biomni_lib.tasks.choices import LETTERS, number_options, read_options
from biomni_lib.tasks.seqqa import KINDS, LabBenchSeqQA
from biomni_lib.tasks.seqqa.digests import cut_places, fragment_lengths
from biomni_lib.tasks.seqqa.frames import reading_frames
from biomni_lib.tasks.seqqa.pcr import amplicon
from biomni_lib.tasks.splits import SPLITS
from tests.seqqa_solver import ENZYMES, cuts, other_strand, products, right_letters

EACH = 30
CONFIG = DataConfig(
    train_instances=EACH * len(KINDS), dev_instances=EACH * len(KINDS), heldout_instances=EACH * len(KINDS)
)
DNA = st.text("ACGT", min_size=30, max_size=120)


@pytest.fixture(scope="module")
def task() -> LabBenchSeqQA:
    return LabBenchSeqQA(None, CONFIG, seed=0)


def of_kind(task: LabBenchSeqQA, kind: str, split: str) -> list[Instance]:
    return [one for one in task.instances(split) if one.meta["kind"] == kind]


def test_there_are_fifteen_kinds(task: LabBenchSeqQA) -> None:
    assert len(KINDS) == 15
    assert all(len(of_kind(task, kind, split)) == EACH for kind in KINDS for split in SPLITS)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_plain_code_finds_the_gold_and_no_other_right_option(task: LabBenchSeqQA, kind: str, split: str) -> None:
    for one in of_kind(task, kind, split):
        assert right_letters(kind, one.prompt) == [one.gold], one.id


def test_vectors_are_cut_as_the_prompts_say(task: LabBenchSeqQA) -> None:
    """Every enzyme that a prompt names beside a vector cuts that record once, and in the order told."""
    records = {record.name: record for record in read_sequence_table()}
    for one in (one for split in SPLITS for one in task.instances(split) if "Vector" in one.meta["facts"]):
        told = one.meta["facts"]["Vector"]
        record = records[told.split(" ")[0]]
        names = [word for word in re.findall(r"\w+", told) if word in ENZYMES]
        places = [cuts(record.sequence, name, record.topology == "circular") for name in names]
        assert names and all(len(found) == 1 for found in places), told
        if "further on" in told:
            assert places[0] < places[1]


@pytest.mark.parametrize("split", SPLITS)
def test_sequences_shown_are_of_the_split(task: LabBenchSeqQA, split: str) -> None:
    texts = [record.sequence + record.sequence[:500] for record in read_sequence_table() if record.split == split]
    strands = [strand for text in texts for strand in (text, other_strand(text))]
    for one in task.instances(split)[:150]:
        for label in ("Sequence", "Template"):
            shown = one.meta["facts"].get(label)
            assert shown is None or any(shown in strand for strand in strands)


def test_prompt_has_the_asked_shape(task: LabBenchSeqQA) -> None:
    shape = r"Task: .+[?.]\n([A-Z][A-Za-z ]+: .+\n)*Options:\n([a-f]: .+\n){6}Output format: one letter, a to f"
    for one in task.instances("dev"):
        assert re.fullmatch(shape, task.prompt(one))
        assert list(read_options(one.prompt).values()) == one.meta["options"]
        assert len(set(one.meta["options"])) == len(LETTERS)
        assert len(one.prompt) < 1400


def test_gold_answer_scores_one_and_others_do_not(task: LabBenchSeqQA) -> None:
    for one in task.instances("dev")[:60]:
        answer = task.gold_answer(one)
        assert task.grade(one, answer) == task.grade(one, f" {answer.upper()}\n", strict=True) == 1.0
        assert not any(task.grade(one, letter) for letter in LETTERS if letter != answer)
        assert not any(
            task.grade(one, text) for text in (None, "", answer * 2, f"{answer}.", read_options(one.prompt)[answer])
        )


def test_gold_letters_are_uniform() -> None:
    """A chi-squared test over 2,400 instances; no letter is preferred."""
    made = LabBenchSeqQA(None, DataConfig(train_instances=2400), seed=1)
    golds = Counter(one.gold for one in made.instances("train"))
    assert set(golds) == set(LETTERS)
    assert chisquare(list(golds.values())).pvalue > 1e-3


def test_nothing_but_the_facts_tells(task: LabBenchSeqQA) -> None:
    """Guesses that know no biology are right as often as chance, within 4 standard errors over all instances."""
    instances = [one for split in SPLITS for one in task.instances(split)]
    chance = 1 / len(LETTERS)
    band = 4 * np.sqrt(chance * (1 - chance) / len(instances))
    for name, answer in task.baselines().items():
        assert abs(np.mean([task.grade(one, answer(one)) for one in instances]) - chance) < band, name


@pytest.mark.parametrize("kind", ["gc_percent", "primers_length"])
def test_every_rank_of_a_number_can_be_right(kind: str) -> None:
    made = LabBenchSeqQA(None, DataConfig(train_instances=40 * len(KINDS)), 0)
    ranks = Counter[int]()
    for one in of_kind(made, kind, "train"):
        options = read_options(one.prompt)
        ranks[sorted(map(int, options.values())).index(int(options[one.gold]))] += 1
    assert set(ranks) == set(range(len(LETTERS)))


@given(st.integers(0, 500), st.sets(st.integers(0, 1000), max_size=8), st.integers(0, 2**32 - 1))
def test_number_options_are_five_others_within_bounds(gold: int, plausible: set[int], seed: int) -> None:
    made = number_options(gold, plausible, np.random.default_rng(seed))
    assert len(set(made)) == 5 and str(gold) not in made
    assert all(int(number) >= 0 for number in made)


def test_same_seed_same_questions_and_counts_do_not_matter(task: LabBenchSeqQA) -> None:
    shorter = DataConfig(train_instances=20, dev_instances=20)
    again, other = LabBenchSeqQA(None, shorter, seed=0), LabBenchSeqQA(None, shorter, seed=1)
    assert again.instances("train") == task.instances("train")[:20]
    assert other.instances("train") != again.instances("train")
    assert other.instances("dev") == task.instances("dev")[:20]


def test_ids_are_unique_and_other_splits_refused(task: LabBenchSeqQA) -> None:
    ids = [one.id for split in SPLITS for one in task.instances(split)]
    assert len(set(ids)) == len(ids)
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        task.instances("test")


@given(DNA)
def test_reading_frames_agree_with_codon_by_codon_reading(text: str) -> None:
    assert sorted(frame.protein for frame in reading_frames(text)) == sorted(protein for protein, _ in products(text))


@given(DNA, st.sampled_from(["AluI", "NlaIII", "MboI", "HinfI"]), st.booleans())
def test_fragments_sum_to_the_whole_and_turning_a_circle_changes_nothing(text: str, name: str, linear: bool) -> None:
    sizes = fragment_lengths(len(text), cut_places(text, [name], linear=linear), linear=linear)
    assert sum(sizes) == len(text)
    if not linear:
        turned = text[7:] + text[:7]
        assert sizes == fragment_lengths(len(text), cut_places(turned, [name], linear=False), linear=False)


def test_amplicon_of_primers_that_face_away_is_none() -> None:
    template = next(record.sequence for record in read_sequence_table() if record.name == "phiX174")[:300]
    forward, reverse = template[200:218], other_strand(template[20:38])
    assert amplicon(template, forward, reverse) is None
    assert amplicon(template, template[20:38], other_strand(template[200:218])) == template[20:218]
