"""`Till`: what people's calls of served models use, in the ledger of their org and within its budget of a day.

An endpoint stands in the list of conductors, under an id of its own kind, and holds a slice as they do while calls of
an org are under way. It walks no runs. Whoever buries it settles what it held.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

import msgspec

from flowmason.assembly.engine import host_name
from flowmason.errors import Code, FencedError, FlowMasonError, JournalError, UsageError
from flowmason.ids import ConductorId, Ids, OrgId
from flowmason.journal import Journal
from flowmason.ledger import OrgCall
from flowmason.providers.counting import LONGEST_ANSWER, about, dearest, fits, input_bound, within
from flowmason.providers.prices import price
from flowmason.served import names
from flowmason.slices import Taken
from flowmason.studio.identity.callers import Caller
from flowmason.usage import Amount, Call, CallEnd, Limit, Usage, call_of, limit_words
from flowmason_serve_apps.llm.engines import Body, Card, Chunk, usage_of

log = logging.getLogger("flowmason.studio.models")

PROVIDER = "models"
_FRESH_S = 5.0
"""How old what is known of an org's budget may be."""
_BEAT_S = 2.0
WAITS_S = 10.0
"""For so long a call waits for what others may leave of what they hold; then it is refused for now."""
_LOOK_S = 0.5
_SOON_MS = 1000
_LONGEST_REASON = 300


class Models(Protocol):
    """Who answers: `Handles` on a cluster."""

    def answer(self, body: Body) -> AsyncGenerator[Chunk, None]: ...

    async def cards(self) -> dict[str, Card]: ...

    async def card(self, model: str) -> Card: ...


class Till:
    """One per endpoint process; lives on its event loop."""

    def __init__(self, journal: Journal, now: Callable[[], int], *, waits_s: float = WAITS_S) -> None:
        self._journal = journal
        self._now = now
        self._waits_s = waits_s
        self._ids = Ids(time.time)
        self._id: ConductorId | None = None
        self._beating: asyncio.Task[None] | None = None
        self._enlisting = asyncio.Lock()
        self._limits: dict[OrgId, tuple[Limit, float]] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Finish what is being noted, and leave the list."""
        if self._notes:
            await asyncio.wait(self._notes)
        if self._beating is not None and self._id is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
            await self._journal.retire(self._id)

    async def answered(self, models: Models, body: Body, caller: Caller) -> AsyncGenerator[Chunk, None]:
        """The chunks of the answer; however it ends, the call is noted.

        Raises `UsageError` where it does not fit in what the caller's org may spend today: `BUDGET_EXCEEDED`, or
        `RATE_LIMITED` where others hold for longer than `waits_s` what they may leave.
        """
        made = OrgCall(self._ids.call(), caller.org_id, caller.actor, PROVIDER, str(body["model"]))
        card = await models.card(names.adapted(made.model)[0])
        body = await self._held(card, body, made)
        begun, given, usage, failure, whole = self._now(), 0, None, "", False
        try:
            async with aclosing(models.answer(body)) as answer:
                async for chunk in answer:
                    if "error" in chunk:
                        failure = str(chunk["error"].get("message") or "it failed")
                    for choice in chunk.get("choices", ()):
                        given += len((choice.get("delta") or {}).get("content") or choice.get("text") or "")
                    usage = usage_of(chunk) or usage
                    yield chunk
            whole = not failure
        except Exception as error:
            failure = str(error) or type(error).__name__
            raise
        finally:
            call = _call(made, card, body, given, usage, failure, whole)
            call = msgspec.structs.replace(call, started_at=begun, duration_ms=max(0, self._now() - begun))
            note = asyncio.create_task(self._note(made, call))
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)
        await asyncio.shield(note)

    async def _note(self, made: OrgCall, call: Call) -> None:
        try:
            await self._journal.end_call(made, call, self._now())
        except JournalError as error:
            log.error("the call %s of %s is in no ledger: %s", made.id, made.org_id, error)

    async def _held(self, card: Card, body: Body, made: OrgCall) -> Body:
        """What is sent, once it is held: under a budget an answer has a bound, ours or the model's context."""
        if not await self._limit(made.org_id):
            return body
        schema = msgspec.json.encode(body.get("response_format")) if "response_format" in body else b""
        read = input_bound(msgspec.json.encode(body), len(body.get("messages", ())) + 1, schema) + card.system_bytes
        most = body.get("max_completion_tokens") or body.get("max_tokens") or card.max_tokens
        if most is None and fits(card.context, read):
            most = LONGEST_ANSWER
            body = {**body, "max_tokens": most}
        read, written = within(card.context, read, most)
        money = None if card.price is None else dearest(card.price, read, written)
        need = Amount(money or 0, read + written)
        give_up = time.monotonic() + self._waits_s
        refused = await self._hold(made, need)
        while refused is not None and refused.may_come and time.monotonic() < give_up:
            await asyncio.sleep(_LOOK_S)
            refused = await self._hold(made, need)
        if refused is None:
            return body
        limit, left = refused.day.limit, refused.day.limit.less(refused.day.taken)
        text = (
            f"this call may use {limit_words(limit.of(need))}; of the {limit_words(limit)} that the org may spend on "
            f"models today {limit_words(left)} are left"
        )
        if refused.may_come:
            raise UsageError(f"{text} until others settle", code=Code.RATE_LIMITED, retry_after_ms=_SOON_MS)
        raise UsageError(
            text,
            code=Code.BUDGET_EXCEEDED,
            help="Say a lower max_tokens: a call is held at the longest answer that it may give. Days are by UTC.",
        )

    async def _hold(self, made: OrgCall, need: Amount) -> Taken | None:
        me = await self._enlisted()
        try:
            return await self._journal.hold_call(me, made, need, self._now())
        except FencedError:  # a pause of this process was taken for its death
            self._buried(me)
            return await self._journal.hold_call(await self._enlisted(), made, need, self._now())

    async def _enlisted(self) -> ConductorId:
        """The name under which this endpoint stands in the list; a fresh one where it stands there no more."""
        async with self._enlisting:
            if self._id is None:
                name = self._ids.gate()
                await self._journal.enlist(name, host_name(), os.getpid())
                self._id, self._beating = name, asyncio.create_task(self._beat(name))
            return self._id

    def _buried(self, me: ConductorId) -> None:
        if self._id == me:
            log.warning("the endpoint %s was declared dead; it goes on under another name", me)
            self._id = None

    async def _beat(self, me: ConductorId) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            try:
                if not await self._journal.beat(me):
                    self._buried(me)
                    return
            except FlowMasonError as error:
                log.warning("no beat: %s", error)

    async def _limit(self, org_id: OrgId) -> Limit:
        clock = time.monotonic()
        known = self._limits.get(org_id)
        if known is None or clock - known[1] > _FRESH_S:
            limits = await self._journal.budgets([org_id])
            known = self._limits[org_id] = (limits.get(org_id, Limit()), clock)
        return known[0]


def _call(made: OrgCall, card: Card, body: Body, given: int, usage: Usage | None, failure: str, whole: bool) -> Call:
    """What is noted of a call: what the engine counted, else our own count."""
    if not whole and failure and not given:
        return Call(made.provider, made.model, CallEnd.FAILED, failure=failure[:_LONGEST_REASON])
    if usage is None:
        asked = len(body.get("prompt", "")) + sum(len(turn["content"]) for turn in body.get("messages", ()))
        usage = about(asked, given)
    counted = price(made.provider, made.model, usage, own=card.price)
    call = call_of(counted, made.provider, made.model, CallEnd.ANSWERED if whole else CallEnd.ABORTED)
    return msgspec.structs.replace(call, failure=failure[:_LONGEST_REASON])
