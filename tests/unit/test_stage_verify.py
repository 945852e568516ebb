import copy
import json

import pytest

from biomni_lib.errors import DataError
from biomni_lib.stages import results, verify

NUMBERS = {
    "score": 0.5,
    "ci_low": 0.4,
    "ci_high": 0.6,
    "format": 0.97,
    "n": 600,
    "seeds": 1,
    "mean_tokens": 120.0,
    "mean_turns": 2.0,
}
PUBLISHED = {
    "all": {
        "overlap": NUMBERS | {"format": None, "mean_tokens": 0.0, "mean_turns": 0.0},
        "teacher": dict(NUMBERS),
        "rl": dict(NUMBERS),
    }
}


def missed(model=None, **changes):
    found = copy.deepcopy(PUBLISHED)
    if model:
        found["all"][model] |= changes
    return [check for check in verify.compare(found, PUBLISHED) if not check.met]


def test_the_same_summary_is_met():
    assert not missed()


@pytest.mark.parametrize("model", ["overlap", "teacher"])
@pytest.mark.parametrize("change", [{"score": 0.5001}, {"n": 599}, {"mean_turns": 2.01}])
def test_what_is_promised_to_be_equal_must_be_equal(model, change):
    [miss] = missed(model, **change)
    assert miss.what == f"all, {model}" and str(next(iter(change.values()))) in miss.found


@pytest.mark.parametrize("change", [{"score": 0.4}, {"score": 0.6}, {"format": 0.93}, {"mean_tokens": 300.0}])
def test_a_model_may_move_within_its_band(change):
    assert not missed("rl", **change)


@pytest.mark.parametrize("change", [{"score": 0.39}, {"score": 0.61}, {"format": 0.9}, {"format": None}, {"n": 32}])
def test_a_model_out_of_its_band_is_a_miss(change):
    assert len(missed("rl", **change)) == 1


def test_a_model_that_was_not_evaluated_is_a_miss():
    found = {"all": {name: numbers for name, numbers in PUBLISHED["all"].items() if name != "teacher"}}
    assert [(c.what, c.found) for c in verify.compare(found, PUBLISHED) if not c.met] == [
        ("all, teacher", "not evaluated")
    ]


def test_an_empty_run_misses_every_stage_and_says_what_to_do(config, capsys):
    assert not verify.run(config)
    said = capsys.readouterr().out
    assert said.count("not run yet") == 6 and "make reproduce PRESET=smoke" in said and "0 of 7 checks met" in said


def test_a_broken_published_summary_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "results_dir", lambda: tmp_path)
    results.summary_file(config).write_text(json.dumps({"preset": "smoke"}))
    with pytest.raises(DataError, match=r"summary-smoke\.json: not a readable summary"):
        verify.published(config)
    results.summary_file(config).write_text(json.dumps({"preset": "cpu", "tasks": {"all": {}}}))
    with pytest.raises(DataError, match=r"summary-smoke\.json: is of preset cpu, not smoke"):
        verify.published(config)
