"""What may be spent is never passed: by property, and by a thousand fan-outs with usage drawn by chance."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from compiling_kit import read
from flowmason import event as ev
from flowmason import value
from flowmason.allowing import Allowed, Held, allow
from flowmason.budget import Account, Granted, Key, Never, Purse, Waits, account_path, ask, refusal
from flowmason.compiler import compile_pipeline
from flowmason.errors import Failure
from flowmason.ids import PlanId, RunId
from flowmason.registry import find_components
from flowmason.slices import Day, take
from flowmason.state import RunState, StageState, Status, decide
from flowmason.usage import Amount, Call, Limit, dollars, limit_of, nanodollars, total, used

MONEY = st.integers(0, 10**12)
TOKENS = st.integers(0, 10**7)
AMOUNTS = st.builds(Amount, MONEY, TOKENS)
LIMITS = st.builds(Limit, st.none() | MONEY, st.none() | TOKENS).filter(bool)
ONE: Key = ("run", ())
OTHER: Key = ("stage", ("a",))


@given(MONEY)
def test_dollars_are_written_and_read(amount: int) -> None:
    assert nanodollars(dollars(amount)) == amount


@given(
    st.lists(LIMITS, min_size=1, max_size=3),
    st.lists(st.tuples(st.none() | AMOUNTS, st.booleans(), st.booleans(), st.floats(0, 1), st.booleans()), max_size=40),
)
def test_no_sequence_of_grants_and_settlements_passes_a_limit(
    limits: list[Limit], steps: list[tuple[Amount | None, bool, bool, float, bool]]
) -> None:
    purse = Purse()
    keys: list[Key] = [("stage", (str(n),)) for n in range(len(limits))]
    for key, limit in zip(keys, limits, strict=True):
        purse.account(key, str(key), limit)
    accounts = [purse.accounts[key] for key in keys]
    for number, (need, whole, generous, part, ends) in enumerate(steps):
        found = ask(accounts, need, whole=whole, generous=generous)
        if isinstance(found, Granted):
            if need is not None:
                assert found.allowance.fits(need)
            purse.reserve((("s",), number), keys, found.allowance)
        elif isinstance(found, Waits):
            assert found.account.reserved
        else:
            assert isinstance(found, Never) and not found.account.reserved
        if ends and purse.open:
            ticket = next(iter(purse.open))
            held = purse.open[ticket][0].amount
            spent = Amount(int(held.nanodollars * part), int(held.tokens * part))
            purse.settle(ticket, keys, spent)
        assert all(account.limit.fits(account.spent + account.reserved) for account in accounts)
    for ticket in list(purse.open):
        purse.settle(ticket, keys, Amount())
    assert all(account.reserved == Amount() for account in accounts)


@given(LIMITS, AMOUNTS)
def test_what_is_refused_says_the_limit_and_what_was_needed(limit: Limit, need: Amount) -> None:
    found = ask([Account("the run", limit)], need)
    if isinstance(found, Never):
        text, details = refusal(found)
        assert "the budget of the run is" in text
        assert details["budget"] == "the run" and any(name.startswith("limit_") for name in details)
    else:
        assert isinstance(found, Granted) and (limit.fits(need))


def test_what_waits_is_granted_once_others_settle() -> None:
    purse = Purse()
    purse.account(ONE, "the run", Limit(None, 100))
    account = purse.accounts[ONE]
    purse.reserve((("a",), 1), [ONE], Limit(None, 80))
    assert isinstance(ask([account], Amount(0, 40)), Waits)
    purse.settle((("a",), 1), [ONE], Amount(0, 10))
    assert ask([account], Amount(0, 40)) == Granted(Limit(None, 40))
    assert ask([account], Amount(0, 40), generous=True) == Granted(Limit(None, 80))
    assert isinstance(ask([account], Amount(0, 91)), Never)


def test_what_cannot_be_begun_again_gets_all_that_is_left_and_waits_for_others() -> None:
    purse = Purse()
    purse.account(ONE, "the run", Limit(1000))
    account = purse.accounts[ONE]
    purse.reserve((("a",), 1), [ONE], Limit(1))
    assert isinstance(ask([account], None, whole=True), Waits)
    purse.settle((("a",), 1), [ONE], Amount(1))
    assert ask([account], None, whole=True) == Granted(Limit(999))


def test_items_and_rounds_share_the_budget_of_their_stage() -> None:
    assert account_path(("each", 3, "guard~2", "ask")) == account_path(("each", 0, "guard~1", "ask"))
    assert limit_of("0.50", None) == Limit(500_000_000)


# -- a hundred stages at once --------------------------------------------------------------------

_FAN = {
    "name": "fan",
    "stages": [{"id": f"s{n}", "component_type": "generator", "config": {"prompt": "p"}} for n in range(100)],
}


class _Fan:
    """A hundred stages under one budget, driven by chance through the real state and the real decisions."""

    def __init__(self, plan: object, rng: random.Random, limit: Limit) -> None:
        budget: dict[str, str | int] = {}
        if limit.nanodollars is not None:
            budget["max_cost"] = dollars(limit.nanodollars)
        if limit.tokens is not None:
            budget["max_tokens"] = limit.tokens
        self.rng, self.limit = rng, limit
        self.state = RunState(RunId("run_fan"), plan)  # type: ignore[arg-type]
        self.billed = Amount()
        self.under_way: dict[StageState, Limit] = {}
        self.state.apply(ev.RunSubmitted(plan=PlanId(""), input=value.inline({}), options={"budget": budget}))
        self.state.apply(ev.RunStarted())
        ready: list[StageState] = []
        decide(self.state, 0, ready)
        self.ready = ready

    def run(self) -> None:
        while self.ready or self.under_way:
            self.start()
            assert self.under_way or not self.ready, "everything waits, and nothing is reserved"
            for stage in self.rng.sample(list(self.under_way), min(len(self.under_way), self.rng.randint(1, 30))):
                self.end(stage)
        assert self.state.purse.reserved == Amount()

    def start(self) -> None:
        left: list[StageState] = []
        for stage in self.ready:
            found = allow(self.state, stage)
            if isinstance(found, Held):
                left.append(stage)
            elif isinstance(found, Failure):
                # As in a loop that goes on: the others are not brought down.
                self.state.end(stage, Status.FAILED)
            else:
                assert isinstance(found, Allowed) and found.allowance is not None
                start = ev.StageStarted(path=stage.path, attempt=stage.attempt, epoch=1, allowance=found.allowance)
                self.state.apply(start)
                self.under_way[stage] = found.allowance
        self.ready = left
        self.check()

    def end(self, stage: StageState) -> None:
        """Up to three calls, each held at its worst, each billed anything up to that."""
        rng, allowance = self.rng, self.under_way.pop(stage)
        spent, calls, short = Amount(), [], None
        for _ in range(rng.randint(1, 3)):
            worst = Amount(rng.randint(1, 3) * 1_000_000, rng.randint(1, 3) * 1_000)
            if not allowance.fits(spent + worst):
                short = spent + worst
                break
            call = Call(
                "p", "m", cost_nanodollars=rng.randint(0, worst.nanodollars), input_tokens=rng.randint(0, worst.tokens)
            )
            calls.append(call)
            spent += used(call.usage)
        self.billed += spent
        made = tuple(calls)
        path, attempt = stage.path, stage.attempt
        if short is not None:
            self.state.apply(ev.StageDeferred(path=path, attempt=attempt, need=short, usage=total(made), calls=made))
            self.ready += self.state.drain_fresh()
        elif rng.random() < 0.1:
            failure = Failure(code="LOST", message="died")
            rest = allowance.less(spent).amount
            made = (*made, Call("", "", "lost", input_tokens=rest.tokens, cost_nanodollars=rest.nanodollars))
            self.billed += Amount(rng.randint(0, rest.nanodollars), rng.randint(0, rest.tokens))
            self.state.apply(ev.StageLost(path=path, attempt=attempt, failure=failure, usage=total(made), calls=made))
            self.ready += self.state.drain_fresh()
        else:
            output = value.inline({})
            self.state.apply(ev.StageFinished(path=path, attempt=attempt, output=output, usage=total(made), calls=made))
        self.check()

    def check(self) -> None:
        account = self.state.purse.accounts[("run", ())]
        assert account.limit == self.limit
        assert self.limit.fits(account.spent + account.reserved)
        assert self.limit.fits(self.billed)


def test_a_thousand_fan_outs_never_pass_their_budget() -> None:
    plan = compile_pipeline(read(_FAN), find_components(None))
    ends = {True: 0, False: 0}
    for trial in range(1_000):
        rng = random.Random(trial)
        limit = rng.choice(
            (Limit(rng.randint(1, 1_500) * 1_000_000), Limit(None, rng.randint(500, 1_500_000)),
             Limit(rng.randint(1, 1_500) * 1_000_000, rng.randint(500, 1_500_000)))
        )  # fmt: skip
        fan = _Fan(plan, rng, limit)
        fan.run()
        ends[all(stage.status is Status.COMPLETED for stage in fan.state.stages.values())] += 1
    assert min(ends.values()) > 50, ends


# -- slices of an org's budget -------------------------------------------------------------------


@given(
    LIMITS,
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(("take", "reserve", "settle", "die")), AMOUNTS), max_size=40),
)
def test_slices_never_add_up_to_more_than_the_budget(limit: Limit, steps: list[tuple[int, str, Amount]]) -> None:
    """Three conductors take, reserve, settle and die in any order; what the dead had reserved stays reserved."""
    free, reserved, spent = [Amount()] * 3, Amount(), Amount()

    def day() -> Day:
        return Day(limit, spent, sum(free, Amount()), reserved)

    for who, what, amount in steps:
        if what == "take":
            taken = take(day(), amount, free[who])
            if taken.got is not None:
                assert limit.of(taken.got).fits(limit.of(amount).amount) or limit.fits(amount)
                free[who] += taken.got
        elif what == "reserve" and limit.of(free[who]).fits(amount):
            held = limit.of(amount).amount
            free[who] -= held
            reserved += held
        elif what == "settle":
            used_up = Amount(reserved.nanodollars // 3, reserved.tokens // 3)
            free[who] += reserved - used_up
            reserved, spent = Amount(), spent + used_up
        elif what == "die":
            free[who] = Amount()
        assert limit.fits(day().taken)
