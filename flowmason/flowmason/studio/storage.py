"""How much an org keeps, and for how long: sizes, and the deletion of old runs as the org wishes."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from flowmason.answers_fs import LONGEST_S, Answers
from flowmason.errors import Code, FormatError, UsageError
from flowmason.ids import OrgId, RunId
from flowmason.journal import Journal
from flowmason.studio import history, schema
from flowmason.studio.identity import audit
from flowmason.studio.identity.callers import Caller
from flowmason.studio.scope import Scope, StudioStore

ENDED = ("completed", "failed", "cancelled")
_DAY_S = 24 * 3600.0
_runs = sa.table("runs", sa.column("org_id"), sa.column("status"), sa.column("updated_at"))


class Retention(msgspec.Struct, frozen=True, omit_defaults=True):
    """For how long an org keeps runs that have ended."""

    days: int | None = None
    """Older ones are deleted; None: none is."""
    min_kept: int = 0
    """So many of the latest are kept, however old."""


class _Settings(msgspec.Struct, omit_defaults=True):
    retention: Retention = Retention()


def retention_of(scope: Scope) -> Retention:
    """The org's wish."""
    row = scope.one(schema.orgs)
    return Retention() if row is None else _read(row["settings"])


def set_retention(scope: Scope, caller: Caller, wanted: Retention, now: int) -> Retention:
    """Keep the org's wish. Raises `UsageError` for negative numbers and where the org is gone."""
    if (wanted.days is not None and wanted.days < 1) or wanted.min_kept < 0:
        raise UsageError("runs are kept for 1 day or more, and 0 or more of them", code=Code.INVALID_INPUT)
    row = scope.one(schema.orgs, lock=True)
    if row is None:
        raise UsageError("there is no such org", code=Code.NOT_FOUND)
    settings = msgspec.json.decode(row["settings"], type=dict[str, msgspec.Raw])
    settings["retention"] = msgspec.Raw(msgspec.json.encode(wanted))
    scope.change(schema.orgs, settings=msgspec.json.encode(settings).decode())
    audit.record(
        scope, now, actor=caller.actor, action="org.retention", resource_type="org", resource_id=scope.org_id,
        details={"days": wanted.days, "min_kept": wanted.min_kept},
    )  # fmt: skip
    return wanted


def kept_answers_of(scope: Scope) -> int | None:
    """How old, in seconds, an answer of a model may be that the org's stages are given again where they say nothing
    else; 0: none is given nor kept, whatever they say; None: only what they say counts."""
    row = scope.one(schema.org_limits)
    found: int | None = None if row is None else row["kept_answers_s"]
    return found


def set_kept_answers(scope: Scope, caller: Caller, max_age_s: int | None, now: int) -> int | None:
    """Keep the org's wish, which holds for runs that start from now on. Raises `UsageError` for a number below 0."""
    if max_age_s is not None and not 0 <= max_age_s <= LONGEST_S:
        raise UsageError(f"answers are kept for 0 to {int(LONGEST_S)} s", code=Code.INVALID_INPUT)
    if not scope.change(schema.org_limits, kept_answers_s=max_age_s):
        scope.add(schema.org_limits, weight=1, kept_answers_s=max_age_s)
    audit.record(
        scope, now, actor=caller.actor, action="org.kept_answers", resource_type="org", resource_id=scope.org_id,
        details={"max_age_s": max_age_s},
    )  # fmt: skip
    return max_age_s


def clear_answers(scope: Scope, caller: Caller, answers: Answers, now: int) -> int:
    """Remove the kept answers of the org; returns how many there were."""
    removed = answers.forget(scope.org_id, 0.0)
    audit.record(
        scope, now, actor=caller.actor, action="org.answers_cleared", resource_type="org", resource_id=scope.org_id,
        details={"removed": removed},
    )  # fmt: skip
    return removed


async def apply_retention(store: StudioStore, journal: Journal, now: int) -> dict[OrgId, list[RunId]]:
    """Delete old runs of every org that wishes it; returns which. Their values go with the next sweep.

    `store` must be the owner's: it looks at all orgs.
    """
    with store.system(writing=False) as system:
        rows = list(system.execute(sa.select(schema.orgs)).mappings())
    done: dict[OrgId, list[RunId]] = {}
    for row in rows:
        org, wanted = OrgId(row["org_id"]), _read(row["settings"])
        if wanted.days is None:
            continue
        before = min(now - int(wanted.days * _DAY_S * 1000), _oldest_kept(store, org, wanted.min_kept, now))
        going = await journal.prune(org, before=before, statuses=(), dry_run=True)
        if not going:
            continue
        # First: once a run is gone, nothing else tells who started it. Told twice where this process dies in between.
        with store.scope(org) as scope:
            history.record_expired(scope, going, now)
        deleted: list[RunId] = await journal.prune(org, before=before, statuses=())
        if deleted:
            done[org] = deleted
    return done


def _oldest_kept(store: StudioStore, org_id: OrgId, count: int, now: int) -> int:
    """When the oldest of the latest `count` ended runs was touched last: nothing since then goes."""
    if not count:
        return now
    chosen = (
        sa.select(_runs.c.updated_at)
        .where(_runs.c.org_id == org_id, _runs.c.status.in_(ENDED))
        .order_by(_runs.c.updated_at.desc())
        .offset(count - 1)
        .limit(1)
    )
    with store.system(writing=False) as system:
        found = system.execute(chosen).scalar()
    return int(found) if found is not None else 0


def _read(settings: str) -> Retention:
    try:
        return msgspec.json.decode(settings, type=_Settings).retention
    except msgspec.MsgspecError as error:
        raise FormatError(f"the settings of the org cannot be read: {error}") from None
