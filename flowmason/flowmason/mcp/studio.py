"""An org of a Studio, as the tools see it: its HTTP API, called as one caller, with that caller's rights and limits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

from flowmason.errors import FlowMasonError
from flowmason.ids import Ids
from flowmason.mcp.offered import ComponentLine, ComponentShown, PipelineLine, PipelineShown, Progress, RunShown

_PAGES = 100
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.1, 2.0
_ENDED = frozenset({"completed", "failed", "cancelled", "paused"})
_STAGE_ENDED = frozenset({"completed", "failed", "skipped", "cancelled"})


class Ask(Protocol):
    """One request to the API; the answer's JSON. Raises `FlowMasonError` for what is refused."""

    def __call__(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[Any]: ...


class StudioOrg:
    """An `Offered` over the API of a Studio."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def pipelines(self) -> list[PipelineLine]:
        items = await self._all("/pipelines")
        return [PipelineLine(each["name"], each["version"], each.get("description") or "") for each in items]

    async def pipeline(self, name: str) -> PipelineShown:
        found = await self._ask("GET", f"/pipelines/by-name/{quote(name, safe='@')}")
        document = found.get("document") or {}
        stages = [
            {
                "id": stage.get("id"),
                "component": stage.get("component") or stage.get("component_type"),
                "depends_on": stage.get("depends_on", []),
            }
            for stage in document.get("stages", [])
        ]
        return PipelineShown(
            found["name"],
            found["version"],
            found.get("description") or document.get("description") or "",
            document.get("input_schema"),
            document.get("output_schema"),
            stages,
        )

    async def run(self, name: str, given: dict[str, Any], progress: Progress) -> RunShown:
        key = Ids(time.time).command()
        body = {"pipeline": name, "input": given}
        accepted = await self._ask("POST", "/run", body=body, headers={"Idempotency-Key": key})
        path = f"/runs/{quote(accepted['id'], safe='')}"
        try:
            found = await self._ended(path, progress)
        except asyncio.CancelledError:
            import anyio

            # The request was cancelled: so is the run.
            with anyio.CancelScope(shield=True), contextlib.suppress(FlowMasonError):
                await self._ask("POST", f"{path}/cancel", body={"reason": "the MCP request was cancelled"})
            raise
        return RunShown(
            found["id"],
            found["pipeline"],
            found["version"],
            found["status"],
            found.get("output"),
            found.get("error"),
            {path: stage["status"] for path, stage in (found.get("stages") or {}).items()},
        )

    async def components(self) -> list[ComponentLine]:
        items = await self._all("/registry/components")
        return [ComponentLine(c["name"], c["version"], c["kind"], c["category"], c["description"]) for c in items]

    async def component(self, name: str) -> ComponentShown:
        found = await self._ask("GET", f"/registry/components/{quote(name, safe='')}")
        fields = ComponentShown.__dataclass_fields__
        return ComponentShown(**{field: found[field] for field in fields})

    async def _ended(self, path: str, progress: Progress) -> dict[str, Any]:
        wait, told = _FIRST_LOOK_S, (-1, "")
        while True:
            found: dict[str, Any] = await self._ask("GET", path)
            stages = found.get("stages") or {}
            done = sum(stage["status"] in _STAGE_ENDED for stage in stages.values())
            if (now := (done, found["status"])) != told:
                await progress(done, max(len(stages), done), found["status"])
                told = now
            if found["status"] in _ENDED:
                return found
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, _LONGEST_LOOK_S)

    async def _all(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        for _ in range(_PAGES):
            page = await self._ask("GET", path, query={"cursor": cursor} if cursor else None)
            found += page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                break
        return found
