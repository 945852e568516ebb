"""Which engine a request goes to."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.engines.routes import PROMPTS_KEPT, Routes

ALL = range(3)


def enter(routes: Routes, conversation: object, *prompt: int, ready=ALL) -> int:
    return routes.enter(conversation, prompt, ready)


def test_the_samples_of_a_group_share_an_engine_and_the_next_group_takes_the_emptiest() -> None:
    routes = Routes(3, room=8)
    groups = [{enter(routes, (group, sample), group) for sample in range(4)} for group in range(3)]
    assert sorted(map(tuple, groups)) == [(0,), (1,), (2,)]
    assert routes.loads == [4, 4, 4]


def test_a_conversation_stays_however_full_its_engine_is() -> None:
    routes = Routes(2, room=1)
    first = enter(routes, "a", 1, ready=range(2))
    others = [enter(routes, number, 2, number, ready=range(2)) for number in range(9)]
    assert all(enter(routes, "a", 1, *range(turn), ready=range(2)) == first for turn in range(4))
    assert Counter([first, *others]) == {0: 5, 1: 5}


def test_a_full_engine_draws_no_more_to_its_prompt() -> None:
    routes = Routes(2, room=3)
    assert [enter(routes, number, 7, ready=range(2)) for number in range(6)] == [0, 0, 0, 1, 1, 1]


def test_where_an_engine_is_not_ready_its_conversations_go_on_elsewhere_and_none_is_counted_twice() -> None:
    routes = Routes(2, room=9)
    assert [enter(routes, name, 7, ready=range(2)) for name in "abc"] == [0, 0, 0]
    assert [enter(routes, name, 7, 8, ready=[1]) for name in "ab"] == [1, 1]
    assert routes.loads == [1, 2]
    assert enter(routes, "a", 7, 8, 9, ready=[]) == 1  # nobody is ready: it waits for its own
    assert [routes.leave(name) for name in "aabc"] == [1, None, 1, 0]
    assert routes.loads == [0, 0]


def test_new_weights_make_prompts_unread() -> None:
    routes = Routes(2, room=9)
    assert [enter(routes, name, 7, ready=range(2)) for name in "ab"] == [0, 0]
    routes.forget_prompts()
    assert enter(routes, "c", 7, ready=range(2)) == 1


def test_prompts_are_forgotten_in_time() -> None:
    routes = Routes(2, room=9)
    for number in range(PROMPTS_KEPT + 1):
        enter(routes, number, number, ready=range(2))
        routes.leave(number)
    enter(routes, "blocks", -1, ready=[0])
    assert enter(routes, "last", PROMPTS_KEPT, ready=range(2)) == 0
    assert enter(routes, "first", 0, ready=range(2)) == 1  # nobody has read it any more: the emptier one


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3), st.booleans(), st.sets(st.integers(0, 2))), max_size=60)
)
def test_loads_are_the_open_conversations_and_a_ready_engine_is_taken(steps) -> None:
    routes, where = Routes(3, room=2), {}
    for conversation, prompt, leaves, ready in steps:
        if leaves:
            assert routes.leave(conversation) == where.pop(conversation, None)
            continue
        before = where.get(conversation)
        where[conversation] = engine = routes.enter(conversation, [prompt], ready)
        assert engine in (ready or ALL)
        assert before is None or before == engine or (ready and before not in ready)
        assert Counter({n: load for n, load in enumerate(routes.loads) if load}) == Counter(where.values())
