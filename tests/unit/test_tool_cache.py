"""The cache of tool results: nobody can tell that it is there, but by the time."""

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.config import SandboxConfig
from biomni_lib.lake import Lake
from biomni_lib.sandbox import Sandbox
from biomni_lib.tools import ResultCache, tool_functions
from biomni_lib.tools.cache import ENTRY_BYTES_MAX

TERMS = ["HP:0001166", "HP:0001083", "HP:0004322", "HP:0001166 ", "seizure", "HP:9999999"]
ENTITIES = ["154700", 154700, "OMIM:154700", "ENSG00000166147", "FBN1", None, True]
IDS = st.lists(st.sampled_from(TERMS[:3]), max_size=3)
ABOUT_TERMS = ["term_info", "ancestors", "information_content", "search_terms"]
COUNTS = [1, 2, True, 0, 1.0, "2", [1], {1}]
CALLS = st.one_of(
    st.tuples(st.sampled_from(["match_score", "contradictions"]), IDS | IDS.map(tuple), st.sampled_from(ENTITIES)),
    st.tuples(st.sampled_from(ABOUT_TERMS), st.sampled_from(TERMS)),
    st.tuples(st.just("disease_profile"), st.sampled_from(ENTITIES), st.sampled_from(COUNTS)),
)


def outcome(tools: dict, call: tuple) -> tuple[Any, ...]:
    """What a call gives, types included, or how it fails; a list that came back is spoilt afterwards."""
    name, *arguments = call
    try:
        result = tools[name](*arguments)
    except ValueError as error:
        return type(error), str(error)
    told = type(result), repr(result)
    if isinstance(result, list | dict):
        result.clear()
    return told


@given(calls=st.lists(CALLS, max_size=8))
def test_results_are_the_same_with_and_without_it(lake: Lake, calls: list[tuple]) -> None:
    plain, cached = tool_functions(lake), tool_functions(lake, ResultCache("v"))
    for call in [*calls, *calls]:
        assert outcome(cached, call) == outcome(plain, call)


def counted(cache: ResultCache) -> tuple[list[tuple], Any]:
    calls: list[tuple] = []

    def tool(*args: object, **kwargs: object) -> object:
        calls.append((args, kwargs))
        return [args, kwargs]

    return calls, cache.over(tool)


def test_only_the_same_call_is_answered_from_it() -> None:
    cache = ResultCache("v")
    calls, tool = counted(cache)
    different = [
        ((1,), {}), ((True,), {}), (("1",), {}), (([1],), {}), (((1,),), {}), (([True],), {}), ((["1", "2"],), {}),
        ((["1"], "2"), {}), ((), {"x": 1}), ((), {"y": 1}), ((1,), {"x": 1}), ((1, "x", 1), {}), ((None,), {}),
        ((), {}),
    ]  # fmt: skip
    for args, kwargs in different * 2:
        assert tool(*args, **kwargs) == [args, kwargs]
    assert len(calls) == len(different) == cache.hits == cache.misses


class Text(str):
    pass


@pytest.mark.parametrize("value", [1.0, {1}, [[1]], Text("a"), [Text("a")], b"a", {"a": 1}, object()])
def test_other_arguments_pass_it_by(value: object) -> None:
    cache = ResultCache("v")
    calls, tool = counted(cache)
    for _ in range(2):
        assert tool(value)[0][0] is value
    assert len(calls) == 2 and cache.hits == cache.misses == 0


def test_it_stays_small() -> None:
    cache = ResultCache("v", entries_max=2)
    calls, tool = counted(cache)
    for value in (1, 2, 3, 3, 2, 1, "x" * ENTRY_BYTES_MAX, "x" * ENTRY_BYTES_MAX):
        tool(value)
    assert [args[0] for args, _ in calls[:4]] == [1, 2, 3, 1] and len(calls) == 6 and len(cache._entries) == 2


def test_another_lake_is_another_key() -> None:
    caches = [ResultCache(version) for version in ("one", "two")]
    for cache in caches:
        counted(cache)[1](1)
    assert not set(caches[0]._entries) & set(caches[1]._entries)


def test_a_cached_tool_looks_like_the_tool(lake: Lake) -> None:
    plain, cached = tool_functions(lake), tool_functions(lake, ResultCache("v"))
    for name, tool in cached.items():
        assert (tool.__name__, tool.__doc__) == (name, plain[name].__doc__)
        assert inspect.signature(tool) == inspect.signature(plain[name]) and not hasattr(tool, "__wrapped__")


CALL = 'match_score(["HP:0001166"], "154700")'
BLOCK = """
before = match_score(["HP:0001166"], "154700")
entries = next(c.cell_contents for c in match_score.__closure__ if hasattr(c.cell_contents, "_entries"))._entries
entries.update({key: __import__("pickle").dumps("forged") for key in entries})
before, match_score(["HP:0001166"], "154700"), len(entries)
"""


async def test_a_session_can_forge_its_own_results_only(lake_dir, lake: Lake) -> None:
    right = tool_functions(lake)["match_score"](["HP:0001166"], "154700")
    async with await Sandbox.start(SandboxConfig(), lake_dir, preload=()) as sandbox:
        hostile, other = await sandbox.open(1), await sandbox.open(2)
        assert (await hostile.execute(BLOCK)).text == f"({right}, 'forged', 1)"
        assert (await other.execute(CALL)).text == repr(right)
    off = SandboxConfig(tool_cache=False)
    async with await Sandbox.start(off, lake_dir, preload=()) as sandbox, await sandbox.open(1) as session:
        assert "StopIteration" in (await session.execute(BLOCK)).text  # there is none
        assert (await session.execute(CALL)).text == repr(right)
