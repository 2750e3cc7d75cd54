"""An org's pipelines: a draft with a revision that rises with every write, and versions that are kept for ever.

A version is kept when it is first run or published; its content never changes from then on. What is written after
that under the same version gets the next one. `name` means the published version where there is one, else the draft;
`name@version` means the version that is kept, else the draft if that is its version.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError

from flowmason.errors import Code, UsageError, did_you_mean
from flowmason.ids import Digest, sha256
from flowmason.pipeline import Pipeline
from flowmason.studio import schema
from flowmason.studio.compiling import Look, Written
from flowmason.studio.differences import differences
from flowmason.studio.scope import Scope

_table, _versions = schema.pipelines, schema.pipeline_versions
_SHORT = tuple(column for column in _table.c if column.name not in ("document", "org_id"))
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)\Z")
DRAFT, PUBLISHED = "draft", "published"


class StoredPipeline(msgspec.Struct, frozen=True):
    """A pipeline of an org, as its draft stands."""

    pipeline_id: str
    name: str
    version: str
    description: str
    category: str | None
    tags: tuple[str, ...]
    status: str
    """`published` while the draft is what was published, else `draft`."""
    revision: int
    """Rises by one with every write; the ETag."""
    digest: Digest
    """Over `document`."""
    last_test_run_id: str | None
    created_by: str
    created_at: int
    updated_at: int
    published_at: int | None
    published_version: str | None
    """What the name alone means; None: the draft."""
    document: str = ""
    """Canonical JSON; empty in lists."""
    kept: bool = False
    """Whether this is a version that is kept rather than the draft."""

    @property
    def content(self) -> dict[str, Any]:
        """The document as plain values."""
        found: dict[str, Any] = msgspec.json.decode(self.document)
        return found


class KeptVersion(msgspec.Struct, frozen=True):
    """A version of a pipeline, or the draft where nothing is kept under that version yet."""

    pipeline_id: str
    name: str
    version: str
    revision: int
    digest: Digest
    created_by: str
    created_at: int
    published_at: int | None
    document: str = ""


def create(scope: Scope, written: Written, *, by: str, now: int) -> StoredPipeline:
    """Keep a new pipeline. Raises `UsageError` (`CONFLICT`) where the org has one of that name."""
    text = written.text
    row = {
        "pipeline_id": f"pipe_{secrets.token_hex(12)}",
        "status": DRAFT,
        "revision": 1,
        "document": text,
        "digest": str(sha256(text.encode())),
        "last_test_run_id": None,
        "created_by": by,
        "created_at": now,
        "updated_at": now,
        "published_at": None,
        "published_version": None,
        **_listed(written.pipeline),
    }
    taken = UsageError(
        f"there is a pipeline {written.pipeline.name!r} already",
        code=Code.CONFLICT,
        help="Write to that one, or give this one another name.",
    )
    if scope.count(_table, _table.c.name == written.pipeline.name):
        raise taken
    try:
        scope.add(_table, **row)
    except IntegrityError:
        raise taken from None
    return _stored(row)


def get(scope: Scope, pipeline_id: str) -> StoredPipeline:
    """A pipeline by its id. Raises `UsageError` (`NOT_FOUND`)."""
    row = scope.one(_table, _table.c.pipeline_id == pipeline_id)
    if row is None:
        raise UsageError(f"there is no pipeline {pipeline_id!r}", code=Code.NOT_FOUND)
    return _stored(row)


def by_name(scope: Scope, name: str) -> StoredPipeline:
    """A pipeline by its name. Raises `UsageError` (`PIPELINE_NOT_FOUND`) with the nearest name."""
    row = scope.one(_table, _table.c.name == name)
    if row is None:
        names = [found["name"] for found in scope.find(_table, columns=(_table.c.name,), limit=2000)]
        near = did_you_mean(name, names)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"there is no pipeline {name!r}{hint}", code=Code.PIPELINE_NOT_FOUND)
    return _stored(row)


def page(
    scope: Scope,
    *,
    status: str | None = None,
    category: str | None = None,
    tags: tuple[str, ...] = (),
    after: tuple[str, str] | None = None,
    limit: int = 100,
) -> list[StoredPipeline]:
    """Pipelines by name, without their documents. `after` is the (name, id) that the part before ended with."""
    where: list[sa.ColumnElement[bool]] = []
    if status is not None:
        where.append(_table.c.status == status)
    if category is not None:
        where.append(_table.c.category == category)
    for tag in tags:
        escaped = msgspec.json.encode(tag).decode().replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
        where.append(_table.c.tags.like(f"%{escaped}%", escape="\\"))
    if after is not None:
        where.append(_table.c.name > after[0])
    found = scope.find(_table, *where, columns=_SHORT, order_by=(_table.c.name,), limit=limit)
    return [_stored(row) for row in found]


def write(
    scope: Scope, base: StoredPipeline, written: Written, *, revision: int, now: int, version_given: bool
) -> StoredPipeline:
    """Write the draft anew. `base` is what was read before; `revision` is what the writer says it is based on.

    Raises `UsageError` (`CONFLICT`): somebody else wrote meanwhile (the details hold the differences), a kept version
    would change, a pipeline that is known by its name would change it.
    """
    check_revision(scope, base.pipeline_id, revision, written)
    pipeline = written.pipeline
    kept = {row["version"]: row["digest"] for row in _rows_of(scope, base.pipeline_id)}
    if pipeline.name != base.name and kept:
        raise UsageError(
            f"the pipeline is known by its name {base.name!r}: versions of it are kept",
            code=Code.CONFLICT,
            help="Clone it under the other name.",
        )
    digest = sha256(written.text.encode())
    if kept.get(pipeline.version, digest) != digest:
        if version_given:
            raise UsageError(
                f"{pipeline.reference} was run or published with another content, which is kept",
                code=Code.CONFLICT,
                help=f"Raise the version, for example to {next_version(pipeline.version, kept)}.",
                details={"version": pipeline.version, "next_version": next_version(pipeline.version, kept)},
            )
        pipeline = msgspec.structs.replace(pipeline, version=next_version(pipeline.version, kept))
        written = Written(pipeline)
        digest = sha256(written.text.encode())
    values = {
        **_listed(pipeline),
        "status": PUBLISHED if _is_published(base, pipeline.version, kept.get(pipeline.version), digest) else DRAFT,
        "revision": revision + 1,
        "document": written.text,
        "digest": str(digest),
        "updated_at": now,
    }
    try:
        changed = scope.change(
            _table, _table.c.pipeline_id == base.pipeline_id, _table.c.revision == revision, **values
        )
    except IntegrityError:
        raise UsageError(f"there is a pipeline {pipeline.name!r} already", code=Code.CONFLICT) from None
    if not changed:
        check_revision(scope, base.pipeline_id, revision, written)
    return get(scope, base.pipeline_id)


def check_revision(scope: Scope, pipeline_id: str, revision: int, written: Written | None = None) -> StoredPipeline:
    """The pipeline as it stands. Raises `UsageError` (`CONFLICT`) where it has another revision.

    The details then hold what differs between what is there and what was to be written.
    """
    row = scope.one(_table, _table.c.pipeline_id == pipeline_id, lock=True)
    if row is None:
        raise UsageError(f"there is no pipeline {pipeline_id!r}", code=Code.NOT_FOUND)
    found = _stored(row)
    if found.revision != revision:
        details: dict[str, Any] = {"revision": found.revision, "given": revision}
        if written is not None:
            diff = differences(found.content, msgspec.json.decode(written.text))
            details["diff"] = [msgspec.to_builtins(each) for each in diff]
        raise UsageError(
            f"somebody else wrote to the pipeline: it has revision {found.revision}, not {revision}",
            code=Code.CONFLICT,
            help="Read it again, bring the changes together, and send its ETag in If-Match.",
            details=details,
        )
    return found


def remove(scope: Scope, pipeline_id: str, *, revision: int) -> None:
    """Delete a pipeline and its versions; its runs stay. Raises as `check_revision` does."""
    check_revision(scope, pipeline_id, revision)
    scope.remove(_versions, _versions.c.pipeline_id == pipeline_id)
    scope.remove(_table, _table.c.pipeline_id == pipeline_id)


def keep(scope: Scope, stored: StoredPipeline, *, by: str, now: int, published: bool = False) -> None:
    """Keep the version of the draft as it stands in `stored`. Raises `UsageError` (`CONFLICT`) where it changed."""
    now_there = scope.one(_table, _table.c.pipeline_id == stored.pipeline_id, lock=True)
    if now_there is None or now_there["digest"] != stored.digest:
        raise UsageError(f"somebody else wrote to the pipeline {stored.name!r} meanwhile", code=Code.CONFLICT)
    mine = (_versions.c.pipeline_id == stored.pipeline_id, _versions.c.version == stored.version)
    row = scope.one(_versions, *mine)
    if row is None:
        scope.add(
            _versions,
            pipeline_id=stored.pipeline_id,
            revision=stored.revision,
            version=stored.version,
            document=stored.document,
            digest=str(stored.digest),
            created_by=by,
            created_at=now,
            published_at=now if published else None,
        )
    elif row["digest"] != stored.digest:
        raise UsageError(f"{stored.name}@{stored.version} is kept with another content", code=Code.CONFLICT)
    elif published and row["published_at"] is None:
        scope.change(_versions, *mine, published_at=now)


def publish(scope: Scope, pipeline_id: str, *, revision: int, by: str, now: int) -> StoredPipeline:
    """Publish the draft: its version is kept, and the name alone means it from now on."""
    stored = check_revision(scope, pipeline_id, revision)
    keep(scope, stored, by=by, now=now, published=True)
    return _set(scope, stored, now, status=PUBLISHED, published_at=now, published_version=stored.version)


def unpublish(scope: Scope, pipeline_id: str, *, revision: int, now: int) -> StoredPipeline:
    """Take back what was published; the name alone means the draft again. Raises `UsageError` if nothing was."""
    stored = check_revision(scope, pipeline_id, revision)
    if stored.published_version is None:
        raise UsageError(f"the pipeline {stored.name!r} is not published")
    scope.change(_versions, _versions.c.pipeline_id == pipeline_id, published_at=None)
    return _set(scope, stored, now, status=DRAFT, published_at=None, published_version=None)


def note_test(scope: Scope, pipeline_id: str, run_id: str) -> None:
    """Note the latest test run; that is no write to the pipeline."""
    scope.change(_table, _table.c.pipeline_id == pipeline_id, last_test_run_id=run_id)


def versions(scope: Scope, pipeline_id: str, *, before: int | None = None, limit: int = 100) -> list[KeptVersion]:
    """The versions that are kept, the newest first, without documents; `before` is a revision."""
    where = [_versions.c.pipeline_id == pipeline_id]
    if before is not None:
        where.append(_versions.c.revision < before)
    name = get(scope, pipeline_id).name
    columns = tuple(column for column in _versions.c if column.name != "document")
    rows = scope.find(_versions, *where, columns=columns, order_by=(_versions.c.revision.desc(),), limit=limit)
    return [_kept(row, name) for row in rows]


def version(scope: Scope, pipeline_id: str, wanted: str) -> KeptVersion:
    """A kept version. Raises `UsageError` (`NOT_FOUND`)."""
    stored = get(scope, pipeline_id)
    row = scope.one(_versions, _versions.c.pipeline_id == pipeline_id, _versions.c.version == wanted)
    if row is None:
        known = [kept["version"] for kept in _rows_of(scope, pipeline_id)]
        there = f"; there is {', '.join(known[:10])}" if known else ""
        raise UsageError(f"no version {wanted!r} of {stored.name!r} is kept{there}", code=Code.NOT_FOUND)
    return _kept(row, stored.name)


def resolve(scope: Scope, reference: str) -> StoredPipeline:
    """The pipeline that `name` or `name@version` means, its document that of the version that is meant.

    Raises `UsageError` (`PIPELINE_NOT_FOUND`).
    """
    name, _, wanted = reference.partition("@")
    stored = by_name(scope, name)
    wanted = wanted or stored.published_version or stored.version
    row = scope.one(_versions, _versions.c.pipeline_id == stored.pipeline_id, _versions.c.version == wanted)
    if row is not None:
        fields = {key: row[key] for key in ("version", "revision", "document")}
        return msgspec.structs.replace(stored, **fields, digest=Digest(row["digest"]), kept=True)
    if wanted != stored.version:
        known = list(
            dict.fromkeys([*(kept["version"] for kept in _rows_of(scope, stored.pipeline_id)), stored.version])
        )
        raise UsageError(
            f"there is no version {wanted!r} of pipeline {name!r}; there is {', '.join(known[:10])}",
            code=Code.PIPELINE_NOT_FOUND,
        )
    return stored


def look_in(scope: Scope) -> Look:
    """The `Look` of an org's pipelines: reference → digest and text."""
    found: dict[str, tuple[Digest, str]] = {}

    def look(reference: str) -> tuple[Digest, str]:
        if reference not in found:
            try:
                stored = resolve(scope, reference)
            except UsageError as error:
                raise LookupError(str(error)) from None
            found[reference] = (stored.digest, stored.document)
        return found[reference]

    return look


def next_version(version: str, kept: Mapping[str, Any]) -> str:
    """The next version after `version` under which nothing is kept."""
    numbers = _NUMBERS.match(version)
    if numbers is None:
        version = f"{version.partition('-')[0].partition('+')[0]}.0.0"
        numbers = _NUMBERS.match(".".join(version.split(".")[:3]))
        assert numbers is not None
    major, minor, patch = numbers.groups()
    number = int(patch) + 1
    while f"{major}.{minor}.{number}" in kept:
        number += 1
    return f"{major}.{minor}.{number}"


def _set(scope: Scope, stored: StoredPipeline, now: int, **values: Any) -> StoredPipeline:
    scope.change(
        _table,
        _table.c.pipeline_id == stored.pipeline_id,
        _table.c.revision == stored.revision,
        revision=stored.revision + 1,
        updated_at=now,
        **values,
    )
    return get(scope, stored.pipeline_id)


def _is_published(base: StoredPipeline, version: str, kept: str | None, digest: Digest) -> bool:
    return base.published_version == version and kept == digest


def _rows_of(scope: Scope, pipeline_id: str) -> list[Any]:
    columns = (_versions.c.version, _versions.c.digest)
    mine = _versions.c.pipeline_id == pipeline_id
    return list(scope.find(_versions, mine, columns=columns, order_by=(_versions.c.revision.desc(),)))


def _listed(pipeline: Pipeline) -> dict[str, Any]:
    """What lists show of a pipeline."""
    return {
        "name": pipeline.name,
        "version": pipeline.version,
        "description": pipeline.description,
        "category": pipeline.category,
        "tags": msgspec.json.encode(list(pipeline.tags)).decode(),
    }


def _stored(row: Mapping[str, Any] | RowMapping) -> StoredPipeline:
    fields = {str(key): value for key, value in row.items() if key != "org_id"}
    return StoredPipeline(**{**fields, "tags": tuple(msgspec.json.decode(fields["tags"]))})


def _kept(row: Mapping[str, Any] | RowMapping, name: str) -> KeptVersion:
    fields = {str(key): value for key, value in row.items() if key != "org_id"}
    return KeptVersion(name=name, **fields)
