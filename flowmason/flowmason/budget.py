"""What may be spent: limits on stages, runs and orgs, what was spent, and what is reserved for calls under way. Pure.

An *account* is one limit and what was taken from it. A stage's attempt that may ask models reserves an allowance in all
accounts that it is under before it starts, and settles it when it ends: what it really spent stays, the rest is free
again. `spent + reserved` never passes a limit.

    ask(accounts, need)  →  Granted | Waits | Never
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flowmason.ids import StagePath, format_path
from flowmason.usage import Amount, Limit, limit_words

FIRST_PART = 16
"""An attempt of which nobody knows yet what it needs gets such a part of the tightest limit, and learns it so."""

Key = tuple[str, StagePath]
"""`("run", ())`, `("stage", path without items and rounds)`, `("pipeline", path of a sub-pipeline)`, `("org", ())`."""
Ticket = tuple[StagePath, int]
"""An attempt: path and number."""
RUN: Key = ("run", ())


@dataclass(slots=True)
class Account:
    """One limit, and what was taken from it."""

    name: str
    """For people: `the run`, `the stage each.ask`, `today's budget of the org`."""
    limit: Limit
    spent: Amount = field(default_factory=Amount)
    reserved: Amount = field(default_factory=Amount)

    @property
    def free(self) -> Limit:
        """What may be reserved now."""
        return self.limit.less(self.spent + self.reserved)


@dataclass(slots=True)
class Slice(Account):
    """What a conductor holds of an org's budget of a day: `limit` is all that it was given, and may grow."""

    day: str = ""
    exhausted: Account | None = None
    """How the org's whole budget stood when nothing more was to be had of it; None: more may be had."""
    growing: bool = False
    """Whether more is being asked for."""
    waited_for: bool = False
    """Whether some attempt waits for what is reserved."""
    again_at: float = 0.0
    """When (loop time) to ask again."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The allowance of an attempt."""

    allowance: Limit


@dataclass(frozen=True, slots=True)
class Waits:
    """It does not fit now, and may when what is reserved in `account` is settled."""

    account: Account
    need: Amount = field(default_factory=Amount)


@dataclass(frozen=True, slots=True)
class Never:
    """It will not fit, whatever is settled."""

    account: Account
    need: Amount


Verdict = Granted | Waits | Never


def ask(accounts: Sequence[Account], need: Amount | None, *, whole: bool = False, generous: bool = False) -> Verdict:
    """What an attempt is allowed under these accounts (at least one).

    `need`: what it is known to need at least; None: nobody knows yet. With `generous` it gets twice that where there
    is so much. With `whole` (it cannot be begun again) it gets all that is left, once nothing else is reserved.
    """
    free = Limit()
    for account in accounts:
        free = free.tightest(account.free)
    wanted = need
    if whole and wanted is None:
        for account in accounts:
            if account.reserved:
                return Waits(account)
        wanted = _all(free)
    elif wanted is None:
        wanted = _first(accounts)
        if not free.fits(wanted) and not any(account.reserved for account in accounts):
            wanted = _all(free)
    elif generous and free.fits(wanted + wanted):
        wanted = wanted + wanted
    for account in accounts:
        if not account.free.fits(wanted) or _no_tokens(account):
            if account.reserved:
                return Waits(account, wanted)
            return Never(account, wanted)
    return Granted(free.of(wanted))


def _first(accounts: Iterable[Account]) -> Amount:
    tightest = Limit()
    for account in accounts:
        tightest = tightest.tightest(account.limit)
    return Amount(-(-(tightest.nanodollars or 0) // FIRST_PART), -(-(tightest.tokens or 0) // FIRST_PART))


def _all(free: Limit) -> Amount:
    return Amount(max(0, free.nanodollars or 0), max(0, free.tokens or 0))


def _no_tokens(account: Account) -> bool:
    """Whether no token is left. With no money left, a model that costs nothing may still be asked."""
    tokens = account.free.tokens
    return tokens is not None and tokens <= 0


def refusal(verdict: Never) -> tuple[str, dict[str, int | str]]:
    """Why, in words and as details of the failure: the limit, what was spent and reserved, what is needed."""
    account, need = verdict.account, verdict.need
    limit, spent = account.limit, account.spent
    text = f"the budget of {account.name} is {limit_words(limit)}: {limit_words(limit.of(spent))} is spent"
    text += f", {limit_words(limit.of(_all(account.free)))} left"
    text += f", and a model call of this stage may need {limit_words(limit.of(need))}" if need else ""
    details: dict[str, int | str] = {"budget": account.name}
    for name, limited, parts in (
        ("nanodollars", limit.nanodollars, (spent.nanodollars, account.reserved.nanodollars, need.nanodollars)),
        ("tokens", limit.tokens, (spent.tokens, account.reserved.tokens, need.tokens)),
    ):
        if limited is not None:
            details[f"limit_{name}"] = limited
            details.update(zip((f"spent_{name}", f"reserved_{name}", f"needed_{name}"), parts, strict=True))
    return text, details


@dataclass(slots=True)
class Purse:
    """The accounts of one run, and the reservations that are open in them."""

    accounts: dict[Key, Account] = field(default_factory=dict)
    open: dict[Ticket, tuple[Limit, tuple[Key, ...]]] = field(default_factory=dict)
    """The allowances of attempts under way, and the accounts they are reserved in."""
    needs: dict[tuple[StagePath, bool], tuple[Amount, bool]] = field(default_factory=dict)
    """What attempts of a stage (all its items together; with its cheaper model or without) were seen to need, and
    whether it is likely more: it had asked before."""

    def account(self, key: Key, name: str, limit: Limit) -> None:
        """Open an account, unless it is open."""
        if key not in self.accounts:
            self.accounts[key] = Account(name, limit)

    def reserve(self, ticket: Ticket, keys: Sequence[Key], allowance: Limit) -> None:
        """An attempt starts with an allowance. Doing it twice does it once."""
        if ticket not in self.open:
            self.open[ticket] = (allowance, tuple(keys))
            for key in keys:
                self.accounts[key].reserved += allowance.amount

    def settle(self, ticket: Ticket, keys: Sequence[Key], spent: Amount) -> None:
        """An attempt ended: its reservation is free again, and what it spent is gone."""
        held, reserved_in = self.open.pop(ticket, (Limit(), ()))
        for key in reserved_in:
            self.accounts[key].reserved -= held.amount
        for key in keys:
            self.accounts[key].spent += spent

    def forfeit(self, below: StagePath) -> None:
        """Nobody hears any more of the attempts at a path and below it: all that they were allowed counts as spent."""
        for ticket in [ticket for ticket in self.open if ticket[0][: len(below)] == below]:
            held, keys = self.open[ticket]
            self.settle(ticket, keys, held.amount)

    def learn(self, path: StagePath, fallback: bool, need: Amount, more: bool) -> None:
        """An attempt of a stage needed so much, and likely more."""
        key = (account_path(path), fallback)
        known, asked = self.needs.get(key, (Amount(), False))
        self.needs[key] = (need.most(known), more or asked)

    def need(self, path: StagePath, fallback: bool) -> tuple[Amount, bool] | None:
        """What the stage is known to need, and whether it is likely more; None: nobody knows yet."""
        return self.needs.get((account_path(path), fallback))

    @property
    def reserved(self) -> Amount:
        """All open reservations together."""
        return sum((allowance.amount for allowance, _ in self.open.values()), Amount())


def account_path(path: StagePath) -> StagePath:
    """A path without items of loops and rounds: what a stage's budget counts together."""
    return tuple(
        part.partition("~")[0] if isinstance(part, str) else part for part in path if not isinstance(part, int)
    )


def stage_name(path: StagePath) -> str:
    """How an account of a stage is told."""
    return f"the stage {format_path(path)}"
