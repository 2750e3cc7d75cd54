"""Pipelines: drafts with revisions, and versions that are kept."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response

from flowmason.assembly.outcome import moment
from flowmason.document import parse_document
from flowmason.errors import Code, Fault, RefusedError, UsageError
from flowmason.ids import RunId
from flowmason.plan import walk
from flowmason.studio import pipelines
from flowmason.studio.compiling import Checked, Written, read_text, read_value
from flowmason.studio.fixing import fix_document
from flowmason.studio.identity.callers import Caller
from flowmason.studio.pipelines import KeptVersion, StoredPipeline
from flowmason_serve_apps.studio.models import pipelines as models
from flowmason_serve_apps.studio.noting import noted
from flowmason_serve_apps.studio.routes.parts import (
    DOCUMENT,
    Cursor,
    Given,
    Limit,
    PipelineReader,
    PipelineWriter,
    Publisher,
    RawDocument,
    Revision,
    Sent,
    cursor_of,
    edge_of,
    etag,
    faults_out,
)
from flowmason_serve_apps.studio.services import Services

router = APIRouter(prefix="/pipelines", tags=["pipelines"])
Tags = Annotated[str | None, Query(max_length=500, description="Comma-separated; a pipeline must have all.")]
Tag = 20


@router.post("", status_code=201, operation_id="pipelines_create", openapi_extra=DOCUMENT)
def create(services: Given, caller: PipelineWriter, sent: Sent, response: Response) -> models.PipelineDetail:
    """Keep a new pipeline: the body is the pipeline file, in JSON or YAML.

    One that cannot be compiled is refused with every fault in its place; what is only not built yet is a warning.
    """
    written = _read(sent)
    checked = _checked(services, caller, written)
    with services.store.scope(caller.org_id) as scope:
        stored = pipelines.create(scope, written, by=caller.actor, now=services.now())
        noted(services, scope, caller, "pipeline.create", stored.pipeline_id, name=stored.name)
    response.headers["Location"] = f"/api/v1/pipelines/{stored.pipeline_id}"
    return _detail(stored, response, checked.unbuilt)


@router.get("", operation_id="pipelines_list")
def listed(
    services: Given,
    caller: PipelineReader,
    status: models.PipelineStatus | None = None,
    category: Annotated[str | None, Query(max_length=200)] = None,
    tags: Tags = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> models.PipelinePage:
    """Pipelines by name."""
    wanted = tuple(tag.strip() for tag in (tags or "").split(",") if tag.strip())[:Tag]
    after = edge_of(cursor, tuple[str, str])
    with services.store.scope(caller.org_id, writing=False) as scope:
        found = pipelines.page(scope, status=status, category=category, tags=wanted, after=after, limit=limit + 1)
    more = len(found) > limit
    found = found[:limit]
    return models.PipelinePage(
        items=[models.PipelineSummary(**_summary(each)) for each in found],
        next_cursor=cursor_of((found[-1].name, found[-1].pipeline_id)) if more else None,
    )


@router.get("/by-name/{name:path}", operation_id="pipelines_by_name")
def by_name(services: Given, caller: PipelineReader, name: str, response: Response) -> models.PipelineDetail:
    """A pipeline's draft by its name."""
    with services.store.scope(caller.org_id, writing=False) as scope:
        return _detail(pipelines.by_name(scope, name), response)


@router.post("/validate-inline", operation_id="pipelines_validate_inline")
def validate_inline(services: Given, caller: PipelineReader, body: models.Inline) -> models.Validation:
    """Check a pipeline that is not kept, against the org's components and pipelines."""
    if (body.pipeline is None) == (body.text is None):
        raise UsageError("give either 'pipeline' or 'text'", code=Code.INVALID_INPUT)
    try:
        document = None if body.text is None else parse_document(body.text, format=body.format)
    except RefusedError as error:
        return _validation(Checked(None, error.faults))
    value = body.pipeline if document is None else document.value
    try:
        written = read_value(value)
    except RefusedError:
        with services.store.scope(caller.org_id, writing=False) as scope:
            checked = services.compiling.survey(value, services.catalogue.of(scope), pipelines.look_in(scope), document)
        return _validation(checked)
    return _validation(_check(services, caller, Written(written.pipeline, document)))


@router.post("/fix-inline", operation_id="pipelines_fix_inline")
def fix_inline(caller: PipelineReader, body: models.InlineValues) -> models.Fixed:
    """Mend what can be mended: references to stages that are not there, a missing HTTP method."""
    fixed, done = fix_document(body.pipeline)
    return models.Fixed(fixed=fixed, applied_fixes=done)


@router.get("/{pipeline_id}", operation_id="pipelines_get")
def get(services: Given, caller: PipelineReader, pipeline_id: str, response: Response) -> models.PipelineDetail:
    """A pipeline's draft."""
    with services.store.scope(caller.org_id, writing=False) as scope:
        return _detail(pipelines.get(scope, pipeline_id), response)


@router.put("/{pipeline_id}", operation_id="pipelines_update", openapi_extra=DOCUMENT)
def update(
    services: Given,
    caller: PipelineWriter,
    pipeline_id: str,
    revision: Revision,
    sent: Sent,
    response: Response,
    replace: Annotated[bool, Query(description="The body is the whole document, not some of its keys.")] = False,
) -> models.PipelineDetail:
    """Write the draft: the keys that are given replace those that are there, null takes one away.

    A version that was run or published keeps its content: under a version that the body does not give, the draft gets
    the next one; one that it does give is refused.
    """
    with services.store.scope(caller.org_id, writing=False) as scope:
        base = pipelines.get(scope, pipeline_id)
    written, given = _merged(base, sent, replace)
    checked = _checked(services, caller, written)
    with services.store.scope(caller.org_id) as scope:
        stored = pipelines.write(
            scope, base, written, revision=revision, now=services.now(), version_given="version" in given
        )
        noted(services, scope, caller, "pipeline.update", pipeline_id, name=stored.name, revision=stored.revision)
    return _detail(stored, response, checked.unbuilt)


@router.delete("/{pipeline_id}", status_code=204, operation_id="pipelines_delete")
def delete(services: Given, caller: PipelineWriter, pipeline_id: str, revision: Revision) -> None:
    """Delete a pipeline and the versions of it that are kept. Its runs stay."""
    with services.store.scope(caller.org_id) as scope:
        pipelines.remove(scope, pipeline_id, revision=revision)
        noted(services, scope, caller, "pipeline.delete", pipeline_id, revision=revision)


@router.post("/{pipeline_id}/validate", operation_id="pipelines_validate")
def validate(services: Given, caller: PipelineReader, pipeline_id: str) -> models.Validation:
    """Check the draft against the org's components and pipelines as they are now."""
    with services.store.scope(caller.org_id, writing=False) as scope:
        stored = pipelines.get(scope, pipeline_id)
    return _validation(_check(services, caller, Written(services.compiling.parsed(stored.digest, stored.document))))


@router.post("/{pipeline_id}/clone", status_code=201, operation_id="pipelines_clone")
def clone(
    services: Given,
    caller: PipelineWriter,
    pipeline_id: str,
    new_name: Annotated[str, Query(min_length=1, max_length=200)],
    response: Response,
) -> models.PipelineDetail:
    """A new pipeline with the same draft under another name."""
    with services.store.scope(caller.org_id) as scope:
        stored = pipelines.get(scope, pipeline_id)
        written = read_value({**stored.content, "name": new_name})
        copy = pipelines.create(scope, written, by=caller.actor, now=services.now())
        noted(services, scope, caller, "pipeline.clone", copy.pipeline_id, name=copy.name, cloned=pipeline_id)
    response.headers["Location"] = f"/api/v1/pipelines/{copy.pipeline_id}"
    return _detail(copy, response)


@router.post("/{pipeline_id}/publish", operation_id="pipelines_publish")
async def publish(
    services: Given, caller: Publisher, pipeline_id: str, revision: Revision, body: models.Publish, response: Response
) -> models.PipelineDetail:
    """Publish the draft: its version is kept, and the pipeline's name means it from now on."""
    import asyncio

    runs = services.runs.org(caller.org_id)
    row = await runs.row(RunId(body.test_run_id))
    first = await runs.read(RunId(body.test_run_id), 0, 1)
    options: dict[str, Any] = getattr(first[0].event, "options", {}) if first else {}
    if row is None or options.get("pipeline_id") != pipeline_id:
        raise UsageError(f"{body.test_run_id!r} is no run of this pipeline")
    if row.status != "completed":
        raise UsageError(f"run {row.run_id} is {row.status}; a completed one is needed")

    def write() -> StoredPipeline:
        with services.store.scope(caller.org_id) as scope:
            stored = pipelines.check_revision(scope, pipeline_id, revision)
            if options.get("pipeline_digest") != stored.digest:
                raise UsageError(f"run {row.run_id} ran another content than the draft has now", help="Test it again.")
            made = pipelines.publish(scope, pipeline_id, revision=revision, by=caller.actor, now=services.now())
            noted(services, scope, caller, "pipeline.publish", pipeline_id, name=made.name, version=made.version)
            return made

    return _detail(await asyncio.to_thread(write), response)


@router.post("/{pipeline_id}/unpublish", operation_id="pipelines_unpublish")
def unpublish(
    services: Given, caller: Publisher, pipeline_id: str, revision: Revision, response: Response
) -> models.PipelineDetail:
    """Take back what was published: the name means the draft again. Versions stay kept."""
    with services.store.scope(caller.org_id) as scope:
        stored = pipelines.unpublish(scope, pipeline_id, revision=revision, now=services.now())
        noted(services, scope, caller, "pipeline.unpublish", pipeline_id, name=stored.name)
    return _detail(stored, response)


@router.get("/{pipeline_id}/versions", operation_id="pipelines_versions")
def versions(
    services: Given, caller: PipelineReader, pipeline_id: str, limit: Limit = 100, cursor: Cursor = None
) -> models.VersionPage:
    """The versions that are kept, the newest first."""
    before = edge_of(cursor, int)
    with services.store.scope(caller.org_id, writing=False) as scope:
        found = pipelines.versions(scope, pipeline_id, before=before, limit=limit + 1)
    more = len(found) > limit
    found = found[:limit]
    return models.VersionPage(
        items=[models.VersionSummary(**_version(each)) for each in found],
        next_cursor=cursor_of(found[-1].revision) if more else None,
    )


@router.get("/{pipeline_id}/versions/{version}", operation_id="pipelines_version")
def version(services: Given, caller: PipelineReader, pipeline_id: str, version: str) -> models.VersionDetail:
    """A version that is kept."""
    with services.store.scope(caller.org_id, writing=False) as scope:
        found = pipelines.version(scope, pipeline_id, version)
    return models.VersionDetail(**_version(found), document=msgspec.json.decode(found.document))


def _read(sent: RawDocument) -> Written:
    return read_text(sent.data, format=sent.format)


def _merged(base: StoredPipeline, sent: RawDocument, replace: bool) -> tuple[Written, dict[str, Any]]:
    """What the draft becomes, and what was sent."""
    if replace:
        written = _read(sent)
        assert written.document is not None
        return written, written.document.value
    given = parse_document(sent.data, format=sent.format).value
    if not isinstance(given, dict):
        raise RefusedError([Fault("an object is expected", "$")])
    merged = {**base.content, **given}
    return read_value({key: value for key, value in merged.items() if value is not None}), given


def _check(services: Services, caller: Caller, written: Written) -> Checked:
    with services.store.scope(caller.org_id, writing=False) as scope:
        return services.compiling.check(written, services.catalogue.of(scope), pipelines.look_in(scope))


def _checked(services: Services, caller: Caller, written: Written) -> Checked:
    """What came of compiling. Raises `RefusedError` where anything must be mended."""
    checked = _check(services, caller, written)
    if checked.faults:
        raise RefusedError(checked.faults)
    return checked


def _validation(checked: Checked) -> models.Validation:
    return models.Validation(
        valid=checked.plan is not None,
        faults=faults_out(checked.faults),
        warnings=faults_out(checked.unbuilt),
        stages=[stage.id for stage in walk(checked.plan.scope)] if checked.plan is not None else [],
    )


def _summary(stored: StoredPipeline) -> dict[str, Any]:
    fields = msgspec.structs.asdict(stored)
    for name in ("document", "kept"):
        del fields[name]
    return {
        **fields,
        "id": fields.pop("pipeline_id"),
        "tags": list(stored.tags),
        "created_at": moment(stored.created_at),
        "updated_at": moment(stored.updated_at),
        "published_at": moment(stored.published_at or 0),
    }


def _detail(stored: StoredPipeline, response: Response, warnings: tuple[Fault, ...] = ()) -> models.PipelineDetail:
    response.headers["ETag"] = etag(stored.revision)
    return models.PipelineDetail(**_summary(stored), document=stored.content, warnings=faults_out(warnings))


def _version(kept: KeptVersion) -> dict[str, Any]:
    fields = msgspec.structs.asdict(kept)
    del fields["document"]
    return {**fields, "created_at": moment(kept.created_at), "published_at": moment(kept.published_at or 0)}


__all__ = ["router"]
