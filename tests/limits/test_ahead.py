"""Places that are let in ahead of their calls, on a clock of their own: whoever takes them, no limit is passed."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason.limiter import AHEAD_S, Ahead, Finish, Line, Rate, Terms, Ticket, names
from flowmason.limiter.ahead import room

TICK_S = 1 / 32
_CALLS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from("abc"), st.integers(1, 6), st.integers(1, 30)),
    min_size=4,
    max_size=24,
)
"""When a process begins (in ticks), which one, how long each of its calls takes, and how many it makes in a row."""


@dataclass
class Row:
    """Calls that a process makes one after the other."""

    at: int
    process: str
    takes: int
    left: int


class Process:
    """One of those that call, as `SharedCallLimiter` does it."""

    def __init__(self, name: str, line: Line, terms: Terms) -> None:
        self.name, self.line, self.terms = name, line, terms
        self.ahead = Ahead()
        self.asked = 0

    @property
    def key(self) -> tuple[str, str, Terms]:
        return ("them", "org", self.terms)

    def call(self, n: int, now: float) -> tuple[Ticket, int] | Ticket:
        """The place that it takes, or the ticket with which it lines up and how many places it asks for."""
        place = self.ahead.take(self.key, now)
        if place is not None:
            return place
        self.asked += 1
        ticket = Ticket(f"{self.name}{n}", "", "org", self.terms, 1e9)
        return ticket, self.ahead.wanted(self.key, now)

    def let_in(self, ticket: Ticket, wanted: int, asked_at: float, now: float) -> None:
        found = names(ticket, room(wanted, self.line.free(ticket, now)))
        more = [Ticket(name, "", "org", self.terms, 1e9) for name in found]
        for each in more:
            self.line.let_in(each, now)
        self.ahead.put(self.key, more, asked_at)


@given(
    concurrency=st.integers(1, 24),
    per_minute=st.none() | st.integers(200, 2000),
    calls=_CALLS,
)
@settings(max_examples=80, deadline=None)
def test_no_limit_is_passed_everybody_gets_in_and_all_places_go_back(
    concurrency: int, per_minute: int | None, calls: list[tuple[int, str, int, int]]
) -> None:
    rate = None if per_minute is None else Rate.window(per_minute, 60 + AHEAD_S)
    line, terms = Line(), Terms(concurrency, rate)
    processes = {name: Process(name, line, terms) for name in "abc"}
    rows = {n: Row(*each) for n, each in enumerate(calls)}
    waiting: dict[str, tuple[int, Ticket, int, float]] = {}
    under_way: list[tuple[int, int, Ticket]] = []
    begun: list[float] = []
    numbers = iter(range(10_000))
    tick = 0

    def begin(row: int, ticket: Ticket) -> None:
        begun.append(tick * TICK_S)
        under_way.append((tick + rows[row].takes, row, ticket))

    while rows or under_way or waiting:
        now = tick * TICK_S
        for each in [each for each in under_way if each[0] <= tick]:
            under_way.remove(each)
            line.leave(each[2], Finish(reached=True), now)
            row = rows[each[1]]
            row.at, row.left = tick, row.left - 1
            if not row.left:
                del rows[each[1]]
        for process in processes.values():
            for _, ticket in process.ahead.over(now):
                line.leave(ticket, Finish(tokens=0), now)
        busy = {n for _, n, _ in under_way} | {n for n, *_ in waiting.values()}
        for n in [n for n, row in rows.items() if row.at <= tick and n not in busy]:
            found = processes[rows[n].process].call(next(numbers), now)
            if isinstance(found, Ticket):
                begin(n, found)
            else:
                waiting[found[0].id] = (n, *found, now)
                line.arrive(found[0], now)
        for id in line.look(now)[0]:
            n, ticket, wanted, asked_at = waiting.pop(id)
            begin(n, ticket)
            processes[rows[n].process].let_in(ticket, wanted, asked_at, now)
        assert len(under_way) <= concurrency
        assert len(line.held) <= concurrency
        tick += 1
        assert tick < 40_000, "somebody waits for ever"
    assert len(begun) == sum(count for *_, count in calls)
    if per_minute is not None:
        assert all(sum(first <= at < first + 60 for at in begun) <= per_minute for first in begun)
    later = (tick + 1) * TICK_S + AHEAD_S
    for process in processes.values():
        for _, ticket in process.ahead.over(later):
            line.leave(ticket, Finish(tokens=0), later)
    assert not line.held


def test_places_ahead_are_taken_from_those_that_others_can_have() -> None:
    line, terms = Line(), Terms(concurrency=8)
    busy, taken = Process("a", line, terms), 0
    for n in range(8):
        found = busy.call(n, 0.0)
        if not isinstance(found, Ticket):
            line.arrive(found[0], 0.0)
            assert line.look(0.0)[0]
            busy.let_in(*found, 0.0, 0.0)
            found = found[0]
        line.leave(found, Finish(reached=True), 0.0)
    ahead = len(busy.ahead.free)
    assert ahead == len(line.held) > 0
    for n in range(8):
        line.arrive(Ticket(f"b{n}", "", "other", terms, 1e9), 0.1)
    assert len(line.look(0.1)[0]) == 8 - ahead
    while busy.ahead.take(busy.key, 0.2) is not None:
        taken += 1
    assert taken == ahead


def test_a_place_keeps_for_a_second() -> None:
    ahead, key = Ahead(), ("them", "org", Terms(concurrency=8))
    places = [Ticket(name, "", "org", key[2], 1e9) for name in "123"]
    ahead.put(key, places, 5.0)
    assert ahead.take(key, 5.9) == places[0] and ahead.over(5.9) == []
    assert ahead.take(key, 6.0) is None
    assert ahead.over(6.0) == [("them", places[1]), ("them", places[2])] and ahead.free == []


def test_a_process_that_calls_often_asks_seldom_and_one_that_calls_now_and_then_each_time() -> None:
    def asked(every_s: float) -> int:
        line, terms = Line(), Terms(concurrency=100)
        process = Process("a", line, terms)
        for n in range(100):
            now = n * every_s
            for _, ticket in process.ahead.over(now):
                line.leave(ticket, Finish(tokens=0), now)
            found = process.call(n, now)
            if isinstance(found, Ticket):
                line.leave(found, Finish(reached=True), now)
                continue
            line.arrive(found[0], now)
            assert found[0].id in line.look(now)[0]
            process.let_in(*found, now, now)
            line.leave(found[0], Finish(reached=True), now)
        return process.asked

    assert asked(0.01) < 25 and asked(0.5) == 100


def test_where_somebody_waits_or_nobody_is_reached_no_place_is_let_in_ahead() -> None:
    line, terms = Line(), Terms(concurrency=1)
    first, second = (Ticket(name, "", "org", terms, 1e9) for name in "12")
    line.arrive(first, 0.0)
    assert line.look(0.0)[0] and line.free(first, 0.0) == 0
    line.arrive(second, 0.0)
    line.look(0.0)
    assert line.free(first, 0.0) == 0
    line.leave(first, Finish(reached=False), 1.0)
    line.look(1.0)
    line.leave(second, Finish(), 1.0)
    assert line.free(first, 1.0) == 0
    line.arrive(first, 1.0)
    line.look(1.0)
    line.leave(first, Finish(reached=True, come_back_s=5.0), 2.0)
    assert line.free(first, 3.0) == 0 and line.free(first, 7.5) == 1
