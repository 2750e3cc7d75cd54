"""Limits of calls, on a clock of their own: whatever comes and goes, no limit is passed and nobody is forgotten."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason.limiter import Breaker, Cause, Finish, Line, MemoryCallLimiter, Rate, Terms, Ticket
from flowmason.limiter.lines import LEASE_S

_NONE = Terms()
_TERMS = st.builds(
    Terms,
    st.none() | st.integers(1, 4),
    st.none() | st.builds(Rate.window, st.integers(1, 30), st.just(60.0)),
    tokens_per_minute=st.none() | st.integers(50, 500),
)
_CALLS = st.lists(
    st.tuples(
        st.floats(0, 120), st.sampled_from("abc"), st.floats(0.1, 90), st.integers(0, 300), st.none() | st.floats(0, 1)
    ),
    min_size=1,
    max_size=40,
)
"""When each comes, its group, how long it takes, how many tokens it may use, and how much of that it says it used."""


def ticket(
    name: str, terms: Terms = _NONE, *, group: str = "a", holder: str = "", patience_s: float = 1e9, tokens: int = 0
) -> Ticket:
    return Ticket(name, holder, group, terms, patience_s, tokens)


@given(terms=_TERMS, calls=_CALLS)
@settings(max_examples=150, deadline=None)
def test_no_limit_is_ever_passed_and_everybody_gets_in(
    terms: Terms, calls: list[tuple[float, str, float, int, float | None]]
) -> None:
    line, now = Line(), 0.0
    coming = sorted((at, n, group) for n, (at, group, *_) in enumerate(calls))
    leaving: list[tuple[float, Ticket]] = []
    let_in: dict[str, float] = {}
    again: float | None = None
    takes_of = {str(n): takes for n, (_, _, takes, _, _) in enumerate(calls)}
    most_tokens = terms.tokens_per_minute or 0
    tokens_of = {str(n): min(tokens, most_tokens) for n, (*_, tokens, _) in enumerate(calls)}
    used_of = {str(n): int(tokens_of[str(n)] * (1 if share is None else share)) for n, (*_, share) in enumerate(calls)}
    tickets: dict[str, Ticket] = {}
    while coming or leaving or line.waiting:
        moments = [each for each in (again,) if each is not None and not math.isinf(each)]
        moments += [coming[0][0]] if coming else []
        moments += [min(at for at, _ in leaving)] if leaving else []
        assert moments, "somebody waits for ever"
        now = max(now, min(moments))
        while coming and coming[0][0] <= now:
            _, n, group = coming.pop(0)
            tickets[str(n)] = ticket(str(n), terms, group=group, tokens=calls[n][3])
            line.arrive(tickets[str(n)], now)
        for due in [each for each in leaving if each[0] <= now]:
            leaving.remove(due)
            name = due[1].id
            used = None if calls[int(name)][4] is None else used_of[name]
            line.leave(due[1], Finish(reached=True, tokens=used), now)
        settled, again = line.look(now)
        for name, entry in settled.items():
            assert entry.refused is None
            let_in[name] = now
            leaving.append((now + takes_of[name], tickets[name]))
        if terms.concurrency is not None:
            assert len(line.held) <= terms.concurrency
    assert len(let_in) == len(calls)
    if terms.rate is not None:
        most = terms.rate.count + terms.rate.burst - 1
        starts = sorted(let_in.values())
        assert all(sum(begin <= at < begin + 59.999 for at in starts) <= most for begin in starts)
    if terms.tokens_per_minute is not None:
        for begin in let_in.values():
            used = sum(used_of[name] for name, at in let_in.items() if begin <= at < begin + 59.999)
            assert used <= terms.tokens_per_minute


def test_tokens_that_a_call_leaves_are_there_for_the_next_at_once_and_those_it_used_after_a_minute() -> None:
    line, terms = Line(), Terms(tokens_per_minute=100)
    first, second, third = (ticket(name, terms, tokens=80) for name in ("1", "2", "3"))
    for each in (first, second, third):
        line.arrive(each, 0.0)
    settled, again = line.look(0.0)
    assert set(settled) == {"1"} and again == 60.0 and line.why(second, 0.0) is Cause.TOKENS
    line.leave(first, Finish(reached=True, tokens=20), 5.0)
    assert set(line.look(5.0)[0]) == {"2"}
    line.leave(second, Finish(reached=True, tokens=90), 6.0)  # more than it was thought to use
    assert line.look(59.9)[0] == {}
    assert line.look(60.0) == ({}, 65.0)
    assert set(line.look(65.0)[0]) == {"3"}


def test_a_call_of_more_tokens_than_there_are_goes_alone() -> None:
    line, terms = Line(), Terms(tokens_per_minute=100)
    line.arrive(ticket("1", terms, tokens=1), 0.0)
    line.arrive(ticket("2", terms, tokens=1000), 1.0)
    assert set(line.look(1.0)[0]) == {"1"}
    assert set(line.look(61.0)[0]) == {"2"} and not line.idle(61.0)
    for name in ("1", "2"):
        line.leave(ticket(name, terms), Finish(), 62.0)
    assert not line.idle(120.9) and line.idle(121.0)


def test_groups_take_turns() -> None:
    line, one = Line(), Terms(concurrency=1)
    tickets = [ticket(f"{group}{n}", one, group=group) for group, count in (("a", 5), ("b", 2)) for n in range(count)]
    for each in tickets:
        line.arrive(each, 0.0)
    order: list[str] = []
    while line.waiting:
        ((name, _),) = line.look(0.0)[0].items()
        order.append(name)
        line.leave(next(each for each in tickets if each.id == name), Finish(), 0.0)
    assert order == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


def test_who_asked_to_come_back_later_is_left_alone_until_then() -> None:
    line = Line()
    first, patient, hurried = ticket("1"), ticket("2", patience_s=60), ticket("3", patience_s=5)
    line.arrive(first, 0.0)
    line.look(0.0)
    line.leave(first, Finish(reached=True, come_back_s=30), 10.0)
    line.arrive(hurried, 15.0)
    line.arrive(patient, 15.0)
    settled, again = line.look(15.0)
    assert settled["3"].refused is Cause.ASKED and settled["3"].wait_s == 25.0 and "2" not in settled
    assert again == 40.0 and line.look(39.9)[0] == {}
    assert line.look(40.0)[0]["2"].refused is None


@given(st.lists(st.sampled_from([True, False, None]), max_size=60), st.integers(1, 4))
def test_the_breaker_opens_after_so_many_failures_in_a_row_and_one_call_tries_again(
    ends: list[bool | None], failures: int
) -> None:
    line, now = Line(), 0.0
    terms = Terms(breaker=Breaker(failures, 30.0))
    in_a_row = 0
    for n, reached in enumerate(ends):
        mine = ticket(str(n), terms)
        line.arrive(mine, now)
        entry = line.look(now)[0][str(n)]
        assert (entry.refused is Cause.BROKEN) == (in_a_row >= failures)
        if entry.refused is not None:
            assert 0 < entry.wait_s <= 30
            now += entry.wait_s
            line.arrive(mine, now)
            assert line.look(now)[0][str(n)].refused is None
            other = ticket(f"{n} too", terms)
            line.arrive(other, now)
            assert line.look(now)[0][other.id].refused is Cause.BROKEN
        line.leave(mine, Finish(reached=reached), now)
        if reached:
            in_a_row = 0
        elif reached is False:
            in_a_row += 1
        elif in_a_row >= failures:
            now += 0.0  # a try that was given up says nothing: the next one tries
            retry = ticket(f"{n} again", terms)
            line.arrive(retry, now)
            assert line.look(now)[0][retry.id].refused is None
            line.leave(retry, Finish(reached=True), now)
            in_a_row = 0


def test_places_of_a_holder_that_died_are_free_after_a_while_and_those_of_one_that_lives_are_not() -> None:
    line, one = Line(), Terms(concurrency=2)
    dead, living, next_ = (ticket(name, one, holder=name) for name in ("dead", "living", "next"))
    for each in (dead, living, next_):
        line.arrive(each, 0.0)
    assert set(line.look(0.0)[0]) == {"dead", "living"}
    line.beat("living", 20.0)
    line.beat("next", 20.0)
    settled, again = line.look(20.0)
    assert settled == {} and again == LEASE_S
    assert set(line.look(LEASE_S)[0]) == {"next"} and set(line.held) == {"living", "next"}


def test_a_new_keeper_of_the_line_hears_of_those_who_are_in() -> None:
    line, one = Line(), Terms(concurrency=1)
    line.beat("p", 0.0, (ticket("old", one, holder="p"),))
    line.arrive(ticket("new", one, holder="p"), 0.0)
    assert line.look(0.0)[0] == {}


async def test_calls_from_many_loops_share_one_line() -> None:
    limiter, terms = MemoryCallLimiter(), Terms(concurrency=3)
    inside: Counter[str] = Counter()
    most = 0

    async def call(name: str) -> None:
        nonlocal most
        mine = ticket(name, terms)
        assert (await limiter.enter("them", mine)).refused is None
        inside["now"] += 1
        most = max(most, inside["now"])
        await asyncio.sleep(0.001)
        inside["now"] -= 1
        await limiter.leave("them", mine, Finish(reached=True))

    async def many(prefix: str) -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(call(f"{prefix}{n}") for n in range(50)))

    await asyncio.gather(*(asyncio.to_thread(asyncio.run, many(prefix)) for prefix in "ab"))
    assert most <= 3 and not limiter.busy


async def test_who_is_cancelled_gives_the_place_back() -> None:
    limiter, terms = MemoryCallLimiter(), Terms(concurrency=1)
    first = ticket("1", terms)
    await limiter.enter("them", first)
    waits = asyncio.create_task(limiter.enter("them", ticket("2", terms)))
    third = asyncio.create_task(limiter.enter("them", ticket("3", terms)))
    await asyncio.sleep(0)
    waits.cancel()
    await limiter.leave("them", first, Finish())
    async with asyncio.timeout(60):
        assert (await third).refused is None


async def test_a_rate_lets_the_next_in_when_its_time_has_come() -> None:
    limiter, terms = MemoryCallLimiter(), Terms(rate=Rate(1, 0.05, 1))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.timeout(60):
        for n in range(3):
            await limiter.enter("them", ticket(str(n), terms))
    assert loop.time() - begun >= 0.09
