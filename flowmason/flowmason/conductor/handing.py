"""`Handing`: an executor that gives each call the secrets it declares, as it leaves.

The conductor's own copy of a region never holds them; they are looked up anew whenever the region is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence

import msgspec

from flowmason.errors import FlowMasonError
from flowmason.executor import Capacity, Executor
from flowmason.policy import Placement, Resources
from flowmason.report import Ended, Handed, Region, Report
from flowmason.secrets import OrgSecrets, canonical


class Handing:
    """Runs regions on another executor.

    `keys` are the variables in which model providers look for their keys: where the org has a secret of that name, it
    travels with calls that may ask models. A region that declares nothing is handed nothing, and costs nothing.
    """

    def __init__(self, executor: Executor, secrets: OrgSecrets, keys: Collection[str] = ()) -> None:
        self._executor = executor
        self._secrets = secrets
        self._keys = {canonical(name): name for name in keys}
        self._leaving: set[str] = set()
        self._cancelled: set[str] = set()
        self.name = executor.name

    async def start(self) -> None:
        """Get the executor ready."""
        await self._executor.start()

    def capacity(self) -> Capacity:
        """What fits at the moment."""
        return self._executor.capacity()

    def infeasible(self, placement: Placement, resources: Resources) -> str | None:
        """Why no worker could ever run this, or None."""
        return self._executor.infeasible(placement, resources)

    def submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        """Run regions, those that declare secrets with what they declare."""
        if not any(self._wanted(region) for region in regions):
            return self._executor.submit(regions)
        return self._submit(regions)

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        """End a region; one that has not left yet does not leave."""
        if region_id in self._leaving:
            self._cancelled.add(region_id)
        else:
            await self._executor.cancel(region_id, grace_s=grace_s)

    async def close(self) -> None:
        """End everything that is under way."""
        await self._executor.close()

    async def _submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        leaving = {region.id for region in regions}
        self._leaving |= leaving
        try:
            handed = [await self._handed(region) for region in regions]
        finally:
            self._leaving -= leaving
            cancelled, self._cancelled = self._cancelled & leaving, self._cancelled - leaving
        for region_id in cancelled:
            yield Report(region=region_id, ended=Ended.CANCELLED)
        handed = [region for region in handed if region.id not in cancelled]
        if not handed:
            return
        stream = self._executor.submit(handed)
        try:
            async for report in stream:
                yield report
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                with contextlib.suppress(RuntimeError):
                    await close()

    def _wanted(self, region: Region) -> bool:
        return not region.attach and bool(region.secrets or (region.models and self._keys))

    async def _handed(self, region: Region) -> Region:
        if not self._wanted(region):
            return region
        names = {canonical(name) for name in region.secrets}
        keys = self._keys if region.models else {}
        try:
            found = await self._secrets.values(region.org_id, names | set(keys))
        except FlowMasonError as error:
            return msgspec.structs.replace(region, handed=Handed(failure=error.failure))
        secrets = {name: found[name] for name in sorted(names) if name in found}
        variables = {variable: found[name] for name, variable in sorted(keys.items()) if name in found}
        return msgspec.structs.replace(region, handed=Handed(secrets, variables))
