"""Runs: started, looked at, steered, deleted."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from flowmason import value
from flowmason.assembly.outcome import moment, plain
from flowmason.errors import Code, UsageError
from flowmason.ids import Digest, PlanId, RunId, format_path
from flowmason.studio import history, pipelines
from flowmason.studio.identity.callers import Caller
from flowmason.studio.pipelines import StoredPipeline
from flowmason_serve_apps.studio import running, steering
from flowmason_serve_apps.studio.details import no_run, summary
from flowmason_serve_apps.studio.models import runs as models
from flowmason_serve_apps.studio.routes.parts import (
    Cursor,
    Given,
    Key,
    Limit,
    RunController,
    RunDeleter,
    RunReader,
    RunStarter,
    cursor_of,
    edge_of,
    json_response,
)
from flowmason_serve_apps.studio.running import Wanted
from flowmason_serve_apps.studio.services import Services

router = APIRouter(tags=["runs"])
WAIT_S = 30.0
"""How long an answer is held back for the end of a run."""
Run = Annotated[str, Path(max_length=100)]
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": models.RunDetail, "description": "The run is recorded."}}


@router.post(
    "/pipelines/{pipeline_id}/run",
    status_code=202,
    operation_id="pipelines_run",
    response_model=models.RunDetail,
    responses={200: {"model": models.RunDetail, "description": "The run has ended (async_mode: false)."}},
)
async def run_draft(
    services: Given, caller: RunStarter, pipeline_id: str, body: models.RunDraft, key: Key = None
) -> Response:
    """Run a pipeline's draft."""
    return await _run(services, caller, body, key, pipeline_id=pipeline_id)


@router.post(
    "/run",
    status_code=202,
    operation_id="run_by_name",
    response_model=models.RunDetail,
    responses={200: {"model": models.RunDetail, "description": "The run has ended (async_mode: false)."}},
)
async def run_named(services: Given, caller: RunStarter, body: models.RunNamed, key: Key = None) -> Response:
    """Run what a name means: `name@version` that version, a name alone the published one, else the draft."""
    return await _run(services, caller, body, key, reference=body.pipeline)


@router.post("/pipelines/{pipeline_id}/test", operation_id="pipelines_test", responses=_ACCEPTED)
async def test(
    services: Given, caller: RunStarter, pipeline_id: str, body: models.TestDraft, response: Response
) -> models.TestResult:
    """Run the draft on a sample and wait for the end, at most 30 s (then 202 with the run as it stands)."""
    wanted = Wanted(pipeline_id=pipeline_id, input=body.sample_input, test=True)
    started, stored = await running.start(services, caller, wanted)
    row = started.row
    await running.in_thread(services, caller, lambda scope: pipelines.note_test(scope, pipeline_id, row.run_id))
    ended = await running.ended(services, caller, row.run_id, WAIT_S)
    found = msgspec.json.decode((await services.details.encoded(caller.org_id, row.run_id))[1])
    now = await running.in_thread(services, caller, lambda scope: pipelines.get(scope, pipeline_id))
    completed = found["status"] == "completed"
    if ended is None:
        response.status_code = 202
    return models.TestResult(
        run_id=row.run_id,
        pipeline_id=pipeline_id,
        status=found["status"],
        is_success=completed,
        can_publish=completed and now.digest == stored.digest,
        output=found["output"],
        error=found["error"],
    )


@router.get("/runs", operation_id="runs_list")
async def listed(
    services: Given,
    caller: RunReader,
    status: Annotated[list[models.RunStatus], Query(max_length=6)] = [],  # noqa: B006 - FastAPI copies it
    pipeline_id: Annotated[str | None, Query(max_length=100)] = None,
    pipeline: Annotated[str | None, Query(max_length=200, description="Its name.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> models.RunPage:
    """Runs, newest first."""
    if pipeline_id is not None:
        stored: StoredPipeline = await running.in_thread(
            services, caller, lambda scope: pipelines.get(scope, pipeline_id)
        )
        if pipeline not in (None, stored.name):
            return models.RunPage(items=[], next_cursor=None)
        pipeline = stored.name
    page = await services.runs.org(caller.org_id).rows(status=status, pipeline=pipeline, limit=limit, cursor=cursor)
    return models.RunPage(items=[models.RunSummary(**summary(row)) for row in page.rows], next_cursor=page.cursor)


@router.get("/runs/{run_id}", operation_id="runs_get", response_model=models.RunDetail)
async def get(services: Given, caller: RunReader, run_id: Run) -> Response:
    """A run in full, as far as it is."""
    seq, data = await services.details.encoded(caller.org_id, RunId(run_id))
    return json_response(data, headers={"ETag": f'"{seq}"'})


@router.get("/runs/{run_id}/trace", operation_id="runs_trace")
async def trace(services: Given, caller: RunReader, run_id: Run) -> models.Trace:
    """When which stage ran."""
    picture = await services.details.picture(caller.org_id, RunId(run_id))
    begun = picture.started_at
    stages = [
        models.TraceEntry(
            path=stage.name,
            status=str(stage.status),
            attempts=stage.attempts,
            started_at=moment(stage.started_at),
            finished_at=moment(stage.finished_at),
            duration_ms=None if stage.duration_ms is None else round(stage.duration_ms, 3),
            waited_ms=max(0, stage.started_at - begun) if stage.started_at and begun else None,
        )
        for stage in picture.ordered()
    ]
    ended = picture.ended_at if picture.ended else 0
    return models.Trace(
        run_id=run_id,
        status=str(picture.status),  # type: ignore[arg-type]
        created_at=moment(picture.submitted_at),
        started_at=moment(begun),
        ended_at=moment(ended),
        duration_ms=ended - begun if ended and begun else None,
        queued_ms=max(0, begun - picture.submitted_at) if begun else None,
        stages=stages,
    )


@router.post("/runs/{run_id}/cancel", status_code=202, operation_id="runs_cancel")
async def cancel(
    services: Given, caller: RunController, run_id: Run, body: models.Reason | None = None
) -> models.Accepted:
    """Ask for the end of a run."""
    return await _command(services, caller, run_id, "cancel", reason=body.reason if body else "")


@router.post("/runs/{run_id}/pause", status_code=202, operation_id="runs_pause")
async def pause(
    services: Given, caller: RunController, run_id: Run, body: models.Reason | None = None
) -> models.Accepted:
    """Ask a run to start nothing more; what is under way ends first."""
    return await _command(services, caller, run_id, "pause", reason=body.reason if body else "")


@router.post("/runs/{run_id}/resume", status_code=202, operation_id="runs_resume")
async def resume(
    services: Given, caller: RunController, run_id: Run, body: models.Resume | None = None
) -> models.Accepted:
    """Go on with a paused run, or reopen a failed one: finished results are kept."""
    more: dict[str, Any] = {"rerun_unknown": body.rerun_unknown} if body and body.rerun_unknown else {}
    budget = body.budget.model_dump(exclude_none=True) if body and body.budget else {}
    if budget:
        await steering.require_budget(services, caller, run_id)
        more["budget"] = budget
    return await _command(services, caller, run_id, "resume", **more)


@router.delete("/runs/{run_id}", status_code=204, operation_id="runs_delete")
async def delete(services: Given, caller: RunDeleter, run_id: Run) -> None:
    """Delete an ended run with all it has."""
    if not await running.in_thread(
        services, caller, lambda scope: history.delete(scope, RunId(run_id), by=caller.actor, now=services.now())
    ):
        raise no_run(run_id)


@router.get("/runs/{run_id}/logs", operation_id="runs_logs")
async def logs(
    services: Given, caller: RunReader, run_id: Run, limit: Limit = 100, cursor: Cursor = None
) -> models.LogPage:
    """Lines that components wrote, the oldest first."""
    after = edge_of(cursor, int) or 0
    runs = services.runs.org(caller.org_id)
    found = await runs.logs(RunId(run_id), after, limit + 1)
    if not found and await runs.row(RunId(run_id)) is None:
        raise no_run(run_id)
    more = len(found) > limit
    items = [
        models.LogOut(
            number=number,
            path=format_path(line.path),
            attempt=line.attempt,
            n=line.n,
            at=line.at,
            level=line.level,
            message=line.message,
            fields=plain(line.fields),
        )
        for number, line in found[:limit]
    ]
    return models.LogPage(items=items, next_cursor=cursor_of(items[-1].number) if more else None)


@router.get(
    "/runs/{run_id}/plans/{plan_id}",
    operation_id="runs_plan",
    response_class=Response,
    responses={200: {"content": {"application/msgpack": {}}, "description": "The Plan in its stored form."}},
)
async def plan_of(
    services: Given, caller: RunReader, run_id: Run, plan_id: Annotated[str, Path(max_length=100)]
) -> Response:
    """A Plan that the run's journal names (its own, or that of a sub-pipeline): what its pipeline was compiled to."""
    data = await services.runs.org(caller.org_id).plan(RunId(run_id), PlanId(plan_id))
    if data is None:
        raise UsageError(f"no run {run_id!r} has a Plan {plan_id!r}", code=Code.NOT_FOUND)
    return Response(data, media_type="application/msgpack")


@router.get(
    "/runs/{run_id}/values/{digest}",
    operation_id="runs_value",
    response_class=Response,
    responses={200: {"content": {"application/json": {"schema": {}}, "application/octet-stream": {}}}},
)
async def value_of(
    services: Given,
    caller: RunReader,
    request: Request,
    run_id: Run,
    digest: Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$")],
) -> Response:
    """A value that appeared as its `$blob`: as JSON, or as its bytes for `Accept: application/octet-stream`."""
    if await services.runs.org(caller.org_id).row(RunId(run_id)) is None:
        raise no_run(run_id)
    raw = "application/octet-stream" in request.headers.get("accept", "")
    return await running.to_thread(_value, services, caller.org_id, Digest(digest), raw)


def _value(services: Services, org_id: Any, digest: Digest, raw: bool) -> Response:
    data = services.values.get(org_id, digest)
    if raw:
        return Response(data, media_type="application/octet-stream")
    try:
        return json_response(msgspec.json.encode(plain(value.decode(data))))
    except msgspec.MsgspecError:  # bytes of a blob, not an encoded value
        return Response(data, media_type="application/octet-stream")


async def _command(services: Services, caller: Caller, run_id: str, name: str, **arguments: Any) -> models.Accepted:
    row = await steering.order(services, caller, run_id, name, **arguments)
    return models.Accepted(run_id=run_id, command=name, status=row.status)  # type: ignore[arg-type]


async def _run(
    services: Services,
    caller: Caller,
    body: models.RunDraft,
    key: str | None,
    *,
    pipeline_id: str | None = None,
    reference: str = "",
) -> Response:
    wanted = Wanted(
        pipeline_id=pipeline_id,
        reference=reference,
        input=body.input,
        options=body.options.model_dump(exclude_none=True),
        priority=body.priority,
        idempotency_key=key,
    )
    started, _ = await running.start(services, caller, wanted)
    run_id = started.row.run_id
    headers = {"Location": f"/api/v1/runs/{run_id}"}
    if body.async_mode:
        return json_response(await running.shown(services, started), 202, headers)
    ended = await running.ended(services, caller, run_id, WAIT_S)
    _, data = await services.details.encoded(caller.org_id, run_id)
    return json_response(data, 202 if ended is None else 200, headers)
