"""Debugging a run: what stops it, where it stands, how it goes on. Commands go into the run's inbox; state is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Response

from flowmason import debug
from flowmason.assembly.outcome import failure_document, plain
from flowmason.errors import Code, Failure, UsageError
from flowmason.ids import OrgId, RunId, format_path, parse_path
from flowmason.journal_sql.store import decode_line
from flowmason.report import LogLine
from flowmason_serve_apps.studio import running, steering
from flowmason_serve_apps.studio.models import debugging as models
from flowmason_serve_apps.studio.models.runs import Accepted, Reason, RunDetail
from flowmason_serve_apps.studio.routes.parts import Debugger, Given, RunReader, json_response
from flowmason_serve_apps.studio.routes.runs import Run
from flowmason_serve_apps.studio.running import Wanted
from flowmason_serve_apps.studio.services import Services

router = APIRouter(tags=["debug"])
StageAt = Annotated[str, Path(max_length=1000, description="The path of a stage: `each[3].inner`.")]
_MOST_BYTES = 1024 * 1024
"""A value that is larger is not looked at here; its digest stands in the run."""
_LINES = 1000
_ASKED = (
    "SELECT data FROM side_lines WHERE run_id=? AND org_id=? AND kind='log' AND path=? ORDER BY attempt DESC, n LIMIT ?"
)


@router.post("/debug/run", status_code=202, operation_id="debug_run", response_model=RunDetail)
async def run(services: Given, caller: Debugger, body: models.DebugRun) -> Response:
    """Run a pipeline that stops at breakpoints; it need not be kept in the Studio."""
    points = [point.model_dump() for point in body.breakpoints]
    given = {"breakpoints": points, "exceptions": list(body.exceptions), "stop_on_entry": body.stop_on_entry}
    options = body.options.model_dump(exclude_none=True)
    wanted = Wanted(input=body.input, options=options, debug=debug.read_changes(given))
    if isinstance(body.pipeline, str):
        started, _ = await running.start(services, caller, msgspec.structs.replace(wanted, reference=body.pipeline))
    else:
        started = await running.start_inline(services, caller, body.pipeline, wanted)
    data = await running.shown(services, started)
    return json_response(data, 202, {"Location": f"/api/v1/runs/{started.row.run_id}"})


@router.put("/runs/{run_id}/debug/breakpoints", status_code=202, operation_id="debug_breakpoints")
async def breakpoints(services: Given, caller: Debugger, run_id: Run, body: models.PutBreakpoints) -> Accepted:
    """Other breakpoints. One that stays as it was keeps its count."""
    points = [point.model_dump() for point in body.breakpoints]
    return await _order(services, caller, run_id, "breakpoints", breakpoints=points)


@router.put("/runs/{run_id}/debug/exception-breakpoints", status_code=202, operation_id="debug_exceptions")
async def exceptions(services: Given, caller: Debugger, run_id: Run, body: models.PutExceptions) -> Accepted:
    """Other exception filters."""
    return await _order(services, caller, run_id, "breakpoints", exceptions=list(body.filters))


@router.post("/runs/{run_id}/debug/pause", status_code=202, operation_id="debug_pause")
async def pause(services: Given, caller: Debugger, run_id: Run, body: Reason | None = None) -> Accepted:
    """Start nothing more; what is under way ends first."""
    return await _order(services, caller, run_id, "pause", reason=body.reason if body else "")


@router.post("/runs/{run_id}/debug/continue", status_code=202, operation_id="debug_continue")
async def go_on(services: Given, caller: Debugger, run_id: Run, body: models.Continue | None = None) -> Accepted:
    """Go on to the next stop."""
    return await _order(services, caller, run_id, "continue", **({"redo": True} if body and body.redo else {}))


@router.post("/runs/{run_id}/debug/resume", status_code=202, operation_id="debug_resume")
async def resume(services: Given, caller: Debugger, run_id: Run, body: models.Continue | None = None) -> Accepted:
    """The same as continue."""
    return await go_on(services, caller, run_id, body)


@router.post("/runs/{run_id}/debug/step", status_code=202, operation_id="debug_step")
async def step(services: Given, caller: Debugger, run_id: Run, body: models.Step | None = None) -> Accepted:
    """One stage more, then stop."""
    return await _order(services, caller, run_id, "step", kind=body.kind if body else "over")


@router.post("/runs/{run_id}/debug/stop", status_code=202, operation_id="debug_stop")
async def stop(services: Given, caller: Debugger, run_id: Run, body: Reason | None = None) -> Accepted:
    """End the run: it is cancelled."""
    return await _order(services, caller, run_id, "cancel", reason=body.reason if body else "")


@router.get("/runs/{run_id}/debug/state", operation_id="debug_state")
async def state(services: Given, caller: RunReader, run_id: Run) -> models.DebugState:
    """Where the run stands, and what is seen there."""
    _, found = await services.states.of(services.runs.org(caller.org_id), RunId(run_id))
    view = await asyncio.to_thread(debug.view, found, _load(services, caller.org_id))
    return models.DebugState(**{**_plain(view), "failure": failure_document(view.failure), "seq": found.seq})


@router.get("/runs/{run_id}/debug/exception-info", operation_id="debug_exception_info")
async def exception_info(services: Given, caller: RunReader, run_id: Run) -> models.ExceptionInfo:
    """The failure at which the run stands, or by which it failed. 404 where there is none."""
    _, found = await services.states.of(services.runs.org(caller.org_id), RunId(run_id))
    at = found.debug.stop
    if at is not None and at.failure is not None:
        view = await asyncio.to_thread(debug.view, found, _load(services, caller.org_id))
        return _exception(run_id, at.failure, format_path(at.path), at.breakpoint or None, _plain(view)["stack"])
    if found.failure is not None:
        return _exception(run_id, found.failure, found.failure.stage, None, [])
    raise UsageError(f"run {run_id} stands at no failure", code=Code.NOT_FOUND)


def _exception(run_id: str, failure: Failure, path: str | None, name: str | None, stack: Any) -> models.ExceptionInfo:
    shown = failure_document(failure)
    return models.ExceptionInfo(run_id=run_id, path=path, filter=name, failure=shown, stack=stack)  # type: ignore[arg-type]


@router.get("/runs/{run_id}/debug/stage/{path}/prompt", operation_id="debug_prompt")
async def prompt(services: Given, caller: RunReader, run_id: Run, path: StageAt) -> models.Prompt:
    """What a stage asks its model: as it was asked, else as its input says."""
    _, found = await services.states.of(services.runs.org(caller.org_id), RunId(run_id))
    stage = debug.stage_at(found, path)
    lines = await _lines(services, caller.org_id, run_id, format_path(parse_path(path)))
    load = _load(services, caller.org_id)
    return models.Prompt(**_plain(await asyncio.to_thread(debug.prompt_of, found, stage, load, lines)))


@router.post("/runs/{run_id}/debug/stage/{path}/rerun", status_code=202, operation_id="debug_rerun")
async def rerun(
    services: Given, caller: Debugger, run_id: Run, path: StageAt, body: models.Edit | None = None
) -> Accepted:
    """Run an ended stage of a paused or failed run once more, alone, perhaps with another prompt; then stop."""
    edit = body.model_dump(exclude_none=True) if body else {}
    return await _order(services, caller, run_id, "rerun", path=path, **edit)


@router.post("/runs/{run_id}/debug/evaluate", operation_id="debug_evaluate")
async def evaluate(services: Given, caller: Debugger, run_id: Run, body: models.Evaluate) -> models.Watches:
    """The values of expressions, over what is known where the run stands (or at another open stage)."""
    _, found = await services.states.of(services.runs.org(caller.org_id), RunId(run_id))
    at = debug.stage_at(found, body.stage).path if body.stage is not None else None
    load = _load(services, caller.org_id)
    view = await asyncio.to_thread(lambda: debug.view(found, load, watches=body.expressions, at=at))
    return models.Watches(items=_plain(view)["watches"])


async def _order(services: Services, caller: Any, run_id: str, name: str, **arguments: Any) -> Accepted:
    row = await steering.order(services, caller, run_id, name, **arguments)
    return Accepted(run_id=run_id, command=name, status=row.status)  # type: ignore[arg-type]


def _load(services: Services, org_id: OrgId) -> Callable[[Any], Any]:
    return debug.loader(lambda digest: services.values.get(org_id, digest), _MOST_BYTES)


async def _lines(services: Services, org_id: OrgId, run_id: str, path: str) -> list[LogLine]:
    """What the stage's latest attempts wrote."""
    rows = (await services.runs.ask([(org_id, _ASKED, (run_id, org_id, path, _LINES))]))[0]
    return [decode_line(bytes(row[0])) for row in rows]


def _plain(found: Any) -> dict[str, Any]:
    """A struct as plain data with every field, defaults too."""
    return {name: _part(getattr(found, name)) for name in found.__struct_fields__}


def _part(found: Any) -> Any:
    if isinstance(found, msgspec.Struct) and not isinstance(found, Failure):
        return _plain(found)
    if isinstance(found, tuple):
        return [_part(item) for item in found]
    return found if isinstance(found, Failure) else plain(found)
