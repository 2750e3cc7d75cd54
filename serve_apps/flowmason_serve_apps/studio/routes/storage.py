"""How much an org keeps, and for how long."""

from __future__ import annotations

import asyncio

import msgspec
from fastapi import APIRouter

from flowmason.answers_fs import Answers
from flowmason.assembly.outcome import moment
from flowmason.studio import storage
from flowmason.studio.identity.callers import Caller
from flowmason.studio.storage import Retention
from flowmason_serve_apps.studio.models import storage as models
from flowmason_serve_apps.studio.routes.parts import Given, OrgWriter, StatsReader
from flowmason_serve_apps.studio.services import Services

router = APIRouter(prefix="/storage", tags=["storage"])


@router.get("", operation_id="storage")
async def sizes(services: Given, caller: StatsReader) -> models.StorageOut:
    """How many runs, events and values the org has, and how many bytes they take.

    What takes long to count is remembered for up to ten minutes.
    """
    size = await services.sizes.of(caller.org_id)
    wish = await asyncio.to_thread(_wish, services, caller)
    return models.StorageOut(
        **msgspec.structs.asdict(size.kept),
        values=size.values,
        value_bytes=size.value_bytes,
        counted_at=moment(size.counted_at),
        retention=_out(wish),
    )


@router.get("/retention", operation_id="storage_retention")
def retention(services: Given, caller: StatsReader) -> models.RetentionOut:
    """For how long the org keeps runs that have ended."""
    return _out(_wish(services, caller))


@router.put("/retention", operation_id="storage_retention_set")
def set_retention(services: Given, caller: OrgWriter, body: models.RetentionWish) -> models.RetentionOut:
    """Say for how long the org keeps runs that have ended. The server deletes older ones within minutes."""
    with services.store.scope(caller.org_id) as scope:
        return _out(storage.set_retention(scope, caller, Retention(body.days, body.min_kept), services.now()))


@router.get("/answers", operation_id="storage_answers")
def kept_answers(services: Given, caller: StatsReader) -> models.KeptAnswers:
    """Whether runs of the org are given answers of models again."""
    with services.store.scope(caller.org_id, writing=False) as scope:
        return models.KeptAnswers(max_age_s=storage.kept_answers_of(scope))


@router.put("/answers", operation_id="storage_answers_set")
def set_kept_answers(services: Given, caller: OrgWriter, body: models.KeptAnswers) -> models.KeptAnswers:
    """Say whether runs of the org are given answers of models again: those that start from now on."""
    with services.store.scope(caller.org_id) as scope:
        wanted = storage.set_kept_answers(scope, caller, body.max_age_s, services.now())
    return models.KeptAnswers(max_age_s=wanted)


@router.delete("/answers", operation_id="storage_answers_clear")
def clear_answers(services: Given, caller: OrgWriter) -> models.AnswersCleared:
    """Remove all answers that are kept for the org."""
    with services.store.scope(caller.org_id) as scope:
        removed = storage.clear_answers(scope, caller, Answers(services.values.location), services.now())
    return models.AnswersCleared(removed=removed)


def _wish(services: Services, caller: Caller) -> Retention:
    with services.store.scope(caller.org_id, writing=False) as scope:
        return storage.retention_of(scope)


def _out(wish: Retention) -> models.RetentionOut:
    return models.RetentionOut(days=wish.days, min_kept=wish.min_kept)
