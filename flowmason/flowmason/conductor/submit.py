"""From a Plan and an input to a run that exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from flowmason import event as ev
from flowmason import value
from flowmason.errors import Code, Fault, FlowMasonError, RefusedError
from flowmason.ids import LOCAL_ORG, Digest, OrgId, PlanId, RunId, sha256
from flowmason.inputs import blobs_in, prepare_input
from flowmason.journal import NewRun
from flowmason.plan import Plan
from flowmason.policy import INLINE_LIMIT
from flowmason.value import Value
from flowmason.values import ValueStore

_NO_DATA = (TypeError, ValueError, OverflowError, RecursionError)
_PUT_AGAIN_MS = 60_000
_PLANS_NOTED = 1024
_MOST_BLOBS = 1000
"""Of one input: each is looked up before the run is recorded."""
_put: WeakKeyDictionary[ValueStore, dict[tuple[OrgId, PlanId], int]] = WeakKeyDictionary()
"""When (ms) which Plan was last put into which store."""


def keep(values: ValueStore, org_id: OrgId, data: Any) -> Value:
    """Plain data as a value: inline where it is small, else stored."""
    encoded = value.encode(data)
    if len(encoded) <= INLINE_LIMIT:
        return value.Inline(encoded)
    digest = sha256(encoded)
    values.put(org_id, digest, encoded)
    return value.Stored(digest, len(encoded))


def _kept(values: ValueStore, org_id: OrgId, given: Any) -> Value:
    try:
        return keep(values, org_id, given)
    except _NO_DATA as error:
        place, odd = _odd(given, "$.input", 64)
        reason = f"{type(odd).__name__} is no data that a run could record: {error}"
        raise RefusedError([Fault(reason, place, code=Code.INVALID_INPUT)]) from None


def _odd(given: Any, place: str, deeper: int) -> tuple[str, Any]:
    """What of an input cannot be written, and where it stands."""
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(given, Mapping) and all(isinstance(key, str) for key in given):
        parts = ((f"{place}.{key}", each) for key, each in given.items())
    elif isinstance(given, list | tuple):
        parts = ((f"{place}[{number}]", each) for number, each in enumerate(given))
    for inside, each in parts if deeper else ():
        try:
            value.encode(each)
        except _NO_DATA:
            return _odd(each, inside, deeper - 1)
    return place, given


def _put_plan(plan: Plan, org_id: OrgId, values: ValueStore, now: int) -> None:
    """Put the Plan where workers find it, unless that was done within the last minute."""
    put = _put.setdefault(values, {})
    key = (org_id, plan.id)
    if not 0 <= now - put.get(key, -_PUT_AGAIN_MS) < _PUT_AGAIN_MS:
        values.put(org_id, sha256(plan.encoded), plan.encoded)
        if len(put) >= _PLANS_NOTED:
            put.clear()
        put[key] = now


def _require_blobs(given: dict[str, Any], values: ValueStore, org_id: OrgId) -> None:
    places: dict[Any, list[str]] = {}
    faults = []
    for pointer, digest in blobs_in(given):
        if isinstance(digest, str):
            places.setdefault(digest, []).append(pointer)
        else:
            faults.append(Fault("the $blob is no digest, which is a text", pointer, code=Code.INVALID_INPUT))
    if len(places) > _MOST_BLOBS:
        more = f"the input names {len(places)} blobs; {_MOST_BLOBS} are possible"
        raise RefusedError([Fault(more, "$.input", code=Code.INVALID_INPUT)])
    for digest, pointers in places.items():
        if not _is_there(values, org_id, Digest(digest)):
            reason = f"there is no blob {digest[:80]!r}; upload the file first, or again"
            faults += [Fault(reason, pointer, code=Code.INVALID_INPUT) for pointer in pointers]
    if faults:
        raise RefusedError(sorted(faults, key=lambda fault: fault.pointer))


def _is_there(values: ValueStore, org_id: OrgId, digest: Digest) -> bool:
    try:
        # Marked, not only looked up: a sweep that has seen it old and unmentioned leaves it alone then.
        return values.touch(org_id, digest)
    except FlowMasonError as error:
        if error.failure.code == Code.VALUE_MISSING:  # no digest at all
            return False
        raise


def new_run(
    plan: Plan,
    given: Any,
    *,
    run_id: RunId,
    now: int,
    by: str,
    values: ValueStore,
    org_id: OrgId = LOCAL_ORG,
    options: dict[str, Any] | None = None,
    priority: int = 0,
    parent: RunId | None = None,
    variables: Value | None = None,
    idempotency_key: str | None = None,
    debug: ev.DebugChanged | None = None,
) -> NewRun:
    """What `Journal.submit` takes. Applies the input's defaults; raises `RefusedError` for a wrong input,
    also one that names a `$blob` which is not there.

    `debug` is what stops the run from its start on. The Plan is put into the value store, where workers find it.
    """
    prepared = prepare_input(plan.input_schema, given)
    if parent is None:  # a stage that names none fails by itself, as anywhere in a run
        _require_blobs(prepared, values, org_id)
    _put_plan(plan, org_id, values, now)
    submitted = ev.RunSubmitted(
        plan=plan.id,
        input=_kept(values, org_id, prepared),
        pipeline=plan.name,
        version=plan.version,
        format=2 if plan.capped or (options or {}).get("budget") else 1,
        parent=parent,
        variables=variables,
        options=options or {},
    )
    return NewRun(
        run_id=run_id,
        org_id=org_id,
        plan_id=plan.id,
        plan=plan.encoded,
        pipeline=plan.name,
        version=plan.version,
        events=(submitted,) if debug is None else (submitted, debug),
        at=now,
        by=by,
        priority=priority,
        parent=parent,
        idempotency_key=idempotency_key,
    )
