"""Prices, limits a minute, the journal and the cap: what a run may spend, and what it knows of that after a crash."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.engines.api_budget import Budget, Journal, Price, RateLimit, Reply, SpendingCapError, load_prices
from biomni_lib.errors import ConfigError, DataError

PRICE = Price(input=3.0, output=15.0, cached_input=0.3, cache_write=3.75)


def test_a_reply_costs_what_its_tokens_cost() -> None:
    reply = Reply("", "stop", read=1000, cached=2000, cache_written=400, written=100)
    assert PRICE.usd(reply) == pytest.approx((1000 * 3 + 2000 * 0.3 + 400 * 3.75 + 100 * 15) / 1e6)
    assert Price(3.0, 15.0).usd(reply) == pytest.approx((3400 * 3 + 100 * 15) / 1e6)


@given(st.text(max_size=40), st.integers(1, 50))
def test_no_reply_costs_more_than_the_most(text: str, written: int) -> None:
    """A token is at least a byte long, so no tokenizer reads more tokens than there are bytes."""
    size = len(text.encode())
    dearest = Reply("", "length", cache_written=size, written=written)
    assert PRICE.usd(dearest) <= PRICE.most_usd(size, written)


def test_prices_are_read_by_model(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('["a-1.5"]\ninput = 3\noutput = 15.0\n[b]\ninput = 1\noutput = 2\ncached_input = 0.5\n')
    assert load_prices(file) == {"a-1.5": Price(3, 15.0), "b": Price(1, 2, 0.5)}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[m]\ninput = 3", ['["m"]', "input and output"]),
        ("[m]\ninput = 3\noutput = 1\nprice = 1", ['["m"]', "input and output"]),
        ("[m]\ninput = -3\noutput = 1", ["input = -3", "at least 0"]),
        ("[m]\ninput = nan\noutput = 1", ["input = nan"]),
        ('[m]\ninput = "3"\noutput = 1', ["input = '3'"]),
        ("m = 3", ['["m"]']),
        ("m = ", ["cannot be read"]),
        (None, ["cannot be read"]),
    ],
)
def test_wrong_prices_are_refused_in_one_line(tmp_path: Path, text: str | None, names: list[str]) -> None:
    file = tmp_path / "prices.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_prices(file)
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)
    assert all(name in str(refused.value) for name in names), refused.value


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 30)), max_size=40), st.integers(1, 5), st.integers(10, 80))
def test_no_minute_has_more_than_its_limits(asked: list[tuple[int, float]], requests: int, tokens: int) -> None:
    now = 0.0
    started: list[tuple[float, int]] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def run() -> None:
        nonlocal now
        limit = RateLimit(requests, tokens, clock=lambda: now, sleep=sleep)
        for count, pause in asked:
            now += pause
            await limit.start(count)
            started.append((now, count))

    asyncio.run(run())
    for place, (at, _) in enumerate(started):
        minute = [count for when, count in started[place:] if when < at + 60 - 1e-6]
        assert len(minute) <= requests
        assert sum(minute) <= tokens or len(minute) == 1


async def test_a_corrected_request_makes_room() -> None:
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        raise TimeoutError

    limit = RateLimit(tokens=100, clock=lambda: 0.0, sleep=sleep)
    entry = await limit.start(90)
    with pytest.raises(TimeoutError):
        await limit.start(20)
    assert waits == [60.0]
    limit.correct(entry, 30)
    await limit.start(20)


def test_the_journal_knows_what_was_paid_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "run" / "paid.jsonl"
    first = Journal(path)
    reply = Reply("text </x>", "stop", "</y>", 10, 3, 2, 5)
    first.answer(first.ask(0.5), "key", reply, 0.25)
    first.answer(first.ask(0.5), "other", None, 0.0)
    first.ask(0.125)  # never answered: the process died
    first.close()
    with path.open("ab") as file:
        file.write(b'{"number": 4, "most')
    again = Journal(path)
    assert again.reply("key") == reply and again.reply("other") is None
    assert again.spent_usd == 0.375
    again.answer(again.ask(1.0), "new", reply, 0.5)
    again.close()
    last = Journal(path)
    assert last.spent_usd == 0.875 and last.reply("new") == reply
    last.close()


@pytest.mark.parametrize("line", ["not JSON", '{"usd": 1}', "[]", '{"number": 1, "usd": 1, "key": "k", "reply": {}}'])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "paid.jsonl"
    path.write_text('{"number": 1, "most_usd": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=r"paid\.jsonl, line 2: not a journal"):
        Journal(path)


async def test_the_cap_holds_whatever_is_under_way(tmp_path: Path) -> None:
    """Requests wait for others to come back for less before the cap is said to be reached; and it is never passed."""
    journal = Journal(tmp_path / "paid.jsonl")
    budget, reached, most = Budget(Price(0, 1e6), 10.0, journal), [], 0.0

    async def one(number: int) -> None:
        nonlocal most
        try:
            asked = await budget.ask(4.0)
        except SpendingCapError as error:
            reached.append(str(error))
            return
        most = max(most, journal.spent_usd)
        await asyncio.sleep(0.001)
        await budget.answer(asked, str(number), Reply("", "stop", written=1))

    await asyncio.gather(*(one(number) for number in range(12)))
    assert journal.spent_usd == 7.0 and most <= 10.0  # 7 of 1 USD each; an eighth might have cost 4
    assert len(reached) == 5 and all("api.spend_max_usd = 10: 7.00 USD are spent" in told for told in reached)


async def test_a_request_that_was_cut_off_counts_at_its_most(tmp_path: Path) -> None:
    budget = Budget(Price(0, 1e6), 10.0, Journal(tmp_path / "paid.jsonl"))
    await budget.ask(4.0)
    await budget.abandon()
    assert budget.journal.spent_usd == 4.0
    with pytest.raises(SpendingCapError):
        await budget.ask(7.0)
    await budget.ask(6.0)
