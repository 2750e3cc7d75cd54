"""`org_pipelines`: how conductors find the pipelines that a run names only while it goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from flowmason.conductor import Resolve
from flowmason.errors import Code, UsageError
from flowmason.ids import OrgId
from flowmason.plan import Plan
from flowmason.studio import pipelines
from flowmason.studio.compiling import Compiling
from flowmason.studio.components import Catalogue
from flowmason.studio.scope import StudioStore


def org_pipelines(database_url: str, *, packages: Path | None = None) -> Resolve:
    """The `Resolve` of conductors of a Studio: sub-pipelines by name, of the run's own org.

    The org is the option `org_id`, which a conductor sets from the run's row. The database is opened with the first
    question. Raises `UsageError` (`PIPELINE_NOT_FOUND`) and `RefusedError`.
    """
    return _OrgPipelines(database_url, packages).resolve


class _OrgPipelines:
    def __init__(self, database_url: str, packages: Path | None) -> None:
        self._url = database_url
        self._lock = threading.Lock()
        self._store: StudioStore | None = None
        self._compiling = Compiling()
        self._catalogue = Catalogue(packages)

    async def resolve(self, name: str, options: dict[str, Any]) -> Plan:
        org_id = options.get("org_id")
        if not isinstance(org_id, str):
            raise UsageError(f"pipeline {name!r} is looked for without an org", code=Code.PIPELINE_NOT_FOUND)
        return await asyncio.to_thread(self._resolve, name, OrgId(org_id))

    def _resolve(self, name: str, org_id: OrgId) -> Plan:
        with self._lock:
            if self._store is None:
                self._store = StudioStore.open(self._url)
        with self._store.scope(org_id, writing=False) as scope:
            stored = pipelines.resolve(scope, name)
            components = self._catalogue.of(scope)
            return self._compiling.kept(stored.digest, stored.document, components, pipelines.look_in(scope))
