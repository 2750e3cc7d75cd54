"""What may go: old runs, and values that no run mentions any more. The clock is the caller's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import msgspec

from flowmason.answers_fs import Answers
from flowmason.errors import Code, FlowMasonError, UsageError
from flowmason.ids import Digest, OrgId, RunId
from flowmason.journal import Journal, mentioned_digests
from flowmason.values import ValueStore

SWEEP_AFTER_S = 24 * 3600.0
"""A value is stored before the event that mentions it: nothing younger than this is swept."""
_BATCH = 500


class Swept(msgspec.Struct, frozen=True):
    """What a sweep removed, or would remove."""

    values: int = 0
    bytes: int = 0


class Pruned(msgspec.Struct, frozen=True):
    """What pruning removed, or would remove."""

    runs: tuple[RunId, ...] = ()
    swept: Swept = Swept()
    """With `dry_run` only what no run mentions already: not what the runs would set free."""


class Sizes(msgspec.Struct, frozen=True):
    """How much the values of an org take."""

    values: int = 0
    bytes: int = 0
    unreferenced: int = 0
    unreferenced_bytes: int = 0


async def prune(
    journal: Journal,
    values: ValueStore,
    org_id: OrgId,
    *,
    older_than_s: float,
    now_ms: int,
    statuses: Sequence[str] = (),
    dry_run: bool = False,
) -> Pruned:
    """Delete ended runs last touched more than `older_than_s` ago, then sweep the values they leave.

    `statuses` narrows it to some of completed, failed and cancelled. Raises `UsageError` for others.
    """
    before = now_ms - int(older_than_s * 1000)
    runs = await journal.prune(org_id, before=before, statuses=statuses, dry_run=dry_run)
    return Pruned(tuple(runs), await sweep(journal, values, org_id, dry_run=dry_run))


async def sweep(
    journal: Journal,
    values: ValueStore,
    org_id: OrgId,
    *,
    untouched_s: float = SWEEP_AFTER_S,
    dry_run: bool = False,
) -> Swept:
    """Remove values that no run mentions and that nobody has put for `untouched_s` seconds.

    A value that stands only inside another one (a `$blob` in a large output) is kept as long as that.
    """
    if not dry_run:
        with contextlib.suppress(UsageError, ValueError):  # a store that is no folder and no URL keeps no answers
            await asyncio.to_thread(lambda: Answers(values.location).forget(org_id))
    loose = await _unreferenced(journal, values, org_id, untouched_s)
    if loose:
        await _keep_mentioned(values, org_id, loose)
    removed: list[int] = []
    for digest, size in loose.items():
        if dry_run or await asyncio.to_thread(values.delete, org_id, Digest(digest), untouched_s):
            removed.append(size)
    return Swept(len(removed), sum(removed))


async def sizes(journal: Journal, values: ValueStore, org_id: OrgId) -> Sizes:
    """How much the values of an org take, and how much of it no run mentions."""
    count = total = loose = loose_bytes = 0
    async for batch in _batches(values, org_id, 0.0):
        referenced = await journal.references(list(batch))
        count += len(batch)
        total += sum(batch.values())
        free = [size for digest, size in batch.items() if digest not in referenced]
        loose += len(free)
        loose_bytes += sum(free)
    return Sizes(count, total, loose, loose_bytes)


async def _unreferenced(journal: Journal, values: ValueStore, org_id: OrgId, untouched_s: float) -> dict[str, int]:
    found: dict[str, int] = {}
    async for batch in _batches(values, org_id, untouched_s):
        referenced = await journal.references(list(batch))
        found |= {digest: size for digest, size in batch.items() if digest not in referenced}
    return found


async def _keep_mentioned(values: ValueStore, org_id: OrgId, loose: dict[str, int]) -> None:
    """Take out of `loose` what a value that stays mentions, and what that mentions in turn."""
    kept: list[str] = []
    async for batch in _batches(values, org_id, 0.0):
        kept += [digest for digest in batch if digest not in loose]
    while kept and loose:
        for digest in await asyncio.to_thread(_mentions, values, org_id, kept.pop()):
            if loose.pop(digest, None) is not None:
                kept.append(digest)


def _mentions(values: ValueStore, org_id: OrgId, digest: str) -> set[str]:
    try:
        return mentioned_digests(values.get(org_id, Digest(digest)))
    except FlowMasonError as error:
        # Removed or damaged meanwhile: it keeps nothing. Any other trouble ends the sweep.
        if error.failure.code == Code.VALUE_MISSING:
            return set()
        raise


async def _batches(values: ValueStore, org_id: OrgId, seconds: float) -> AsyncIterator[dict[str, int]]:
    batch: dict[str, int] = {}
    async for digest, size in values.untouched(org_id, seconds):
        batch[digest] = size
        if len(batch) >= _BATCH:
            yield batch
            batch = {}
    if batch:
        yield batch
