"""The tools: their answers, their documentation and their behaviour on nonsense."""

import inspect
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.errors import ConfigError
from biomni_lib.lake import Lake
from biomni_lib.tools import tool_docs, tool_functions, tool_names, tool_signatures
from biomni_lib.tools.scoring import overlap_with_all

MARFAN, FBN1 = "154700", "ENSG00000166147"
ARGUMENTS = {
    "search_terms": ("seizure",),
    "term_info": ("HP:0001250",),
    "ancestors": ("HP:0001250",),
    "information_content": (["HP:0001250"],),
    "diseases_for_terms": (["HP:0001166", "HP:0001083"],),
    "genes_for_terms": (["HP:0001166", "HP:0001083"],),
    "disease_profile": (MARFAN,),
    "gene_profile": (FBN1,),
    "diseases_of_gene": (FBN1,),
    "genes_of_disease": (MARFAN,),
    "match_score": (["HP:0001166"], MARFAN),
    "contradictions": (["HP:0001166"], FBN1),
}


@pytest.fixture(scope="module")
def tools(lake: Lake) -> dict:
    return tool_functions(lake)


def test_every_tool_answers_small_plain_values(tools: dict) -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float)

    assert set(tools) >= set(ARGUMENTS) == set(tool_names())
    for name, arguments in ARGUMENTS.items():
        answer = tools[name](*arguments)
        assert plain(answer) and 0 < len(repr(answer)) < 1000, name


@pytest.mark.parametrize("name", tool_names())
def test_examples_in_the_documentation_are_true(tools: dict, name: str) -> None:
    example = re.search(r"Example: (.+) -> (.+)", inspect.getdoc(tools[name]) or "")
    assert example is not None
    assert eval(example[1], dict(tools)) == eval(example[2])  # noqa: S307 - text of this package


@pytest.mark.parametrize("name", tool_names())
def test_documentation_names_every_argument_and_not_the_lake(tools: dict, name: str) -> None:
    signature, docs = inspect.signature(tools[name]), tool_docs([name])
    assert list(signature.parameters) and "lake" not in signature.parameters
    assert docs.startswith(f"{name}(") and "Returns:" in docs
    assert all(f"{parameter}:" in docs for parameter in signature.parameters)
    assert "lake" not in docs.splitlines()[0]


def test_signatures_are_chosen_and_checked() -> None:
    assert tool_signatures(["ancestors"]) == ["ancestors(id: str) -> list[str]"]
    with pytest.raises(ConfigError, match="unknown tool 'rm'"):
        tool_signatures(["rm"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("term_info", ("HP:9999999",)),
        ("ancestors", ("seizure",)),
        ("information_content", (["HP:0001250", "OMIM:1"],)),
        ("information_content", (7,)),
        ("disease_profile", ("999999",)),
        ("gene_profile", ("FBN1",)),
        ("match_score", (["HP:0001250"], "ENSG00000000000")),
        ("contradictions", (["HP:0001250"], None)),
        ("diseases_for_terms", (["HP:0001250"], 0)),
        ("search_terms", ("  ",)),
    ],
)
def test_nonsense_is_refused_in_one_short_line(tools: dict, name: str, arguments: tuple) -> None:
    with pytest.raises(ValueError) as caught:
        tools[name](*arguments)
    assert len(str(caught.value)) < 120 and "\n" not in str(caught.value)


def test_no_tool_takes_candidates(tools: dict) -> None:
    """Comparing candidates is the agent's work: two entities at once are refused."""
    for name in ("match_score", "contradictions"):
        with pytest.raises(ValueError):
            tools[name](["HP:0001250"], [FBN1, MARFAN])


def test_own_findings_match_fully_and_the_root_says_nothing(tools: dict) -> None:
    terms = [term for term, _ in tools["disease_profile"](MARFAN)["terms"]]
    assert tools["match_score"](terms, MARFAN) == 1.0
    assert tools["match_score"](terms, int(MARFAN)) == 1.0
    assert tools["match_score"](["HP:0000118"], MARFAN) == 0.0
    assert tools["match_score"]([], MARFAN) == 0.0


def test_ranking_agrees_with_single_scores(lake: Lake, tools: dict) -> None:
    terms = ["HP:0001166", "HP:0001083", "HP:0004322"]
    for entity, score in tools["diseases_for_terms"](terms, top=20) + tools["genes_for_terms"](terms, top=20):
        assert tools["match_score"](terms, entity) == pytest.approx(score, abs=1e-3)
    rows = np.array([lake.term_row(term) for term in terms])
    assert overlap_with_all(lake, rows, lake.disease_closure).max() <= 1


@given(st.data())
def test_scores_stay_in_range_and_ignore_order(lake: Lake, tools: dict, data: st.DataObject) -> None:
    known = np.flatnonzero(lake.annotated > 0)
    rows = data.draw(st.lists(st.sampled_from(known.tolist()), min_size=1, max_size=8))
    entity = lake.omim(data.draw(st.integers(0, len(lake.omims) - 1)))
    terms = [lake.term_id(row) for row in rows]
    match, against = tools["match_score"](terms, entity), tools["contradictions"](terms, entity)
    assert 0 <= match <= 1 and 0 <= against <= len(terms)
    assert tools["match_score"](terms[::-1], entity) == pytest.approx(match, abs=1e-3)


def test_absent_findings_do_not_contradict(lake: Lake, tools: dict) -> None:
    """A finding never seen in a disease speaks neither for it nor, when excluded, against it."""
    profiles = lake.disease_profiles
    at = int(np.flatnonzero(profiles.frequencies.values == 0)[0])
    row = int(np.searchsorted(profiles.frequencies.starts, at, side="right")) - 1
    term, omim = lake.term_id(profiles.terms.values[at]), lake.omim(row)
    assert term in tools["disease_profile"](omim, top=100)["absent"]
    assert tools["contradictions"]([term], omim) == 0


def test_search_finds_synonyms_and_orders_exact_first(tools: dict) -> None:
    assert tools["search_terms"]("Seizure", top=1) == [("HP:0001250", "Seizure")]
    assert ("HP:0001943", "Hypoglycemia") in tools["search_terms"]("low blood sugar")
    assert tools["search_terms"]("no such finding anywhere") == []
