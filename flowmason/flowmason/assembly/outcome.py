"""The outcome of a run as data: the one object that `fm run --json` prints, and what `flowmason.run` returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from flowmason import value
from flowmason.assembly.picture import RunPicture, StagePicture
from flowmason.errors import Failure, FlowMasonError, StageError
from flowmason.event import ItemsFinished
from flowmason.ids import LOCAL_ORG, OrgId, StagePath, format_path, sha256
from flowmason.policy import INLINE_LIMIT
from flowmason.region.data import Data
from flowmason.usage import NANODOLLARS, Asked, Usage
from flowmason.value import Concat, Inline, Picked, Record, Sequence, Stored, Value
from flowmason.values import ValueStore

BLOB = "$blob"


class ModelCalls(msgspec.Struct, frozen=True, omit_defaults=True):
    """Model calls that went to one model and ended alike."""

    provider: str
    model: str
    end: str
    """`answered`, `failed`, `cached` and so on: `usage.CallEnd`."""
    calls: int
    failure: str = ""
    """The code of the failure, where they failed or broke off."""
    resumed: bool = False
    """Whether they went on from what the call before had given."""


class StageResult(msgspec.Struct, frozen=True):
    """How one stage went."""

    status: str
    attempts: int
    started_at: str | None
    """ISO 8601, UTC."""
    finished_at: str | None
    duration_ms: float | None
    output: Any
    error: Failure | None = None
    models: tuple[ModelCalls, ...] = ()
    """Its model calls."""


class RunResult(msgspec.Struct, frozen=True):
    """How a run went."""

    run_id: str
    pipeline: str
    version: str
    status: str
    """completed, failed, cancelled, paused; queued or running where it was left to be resumed."""
    output: Any
    error: Failure | None
    stages: dict[str, StageResult]
    """By path (`each[3].summarise`), in the order of the file."""
    usage: Usage
    executor: str
    models: tuple[ModelCalls, ...] = ()
    """The model calls of all its stages, those of items included."""
    prompts: dict[str, str] = {}
    """The prompts by reference in its Plan (and in those of its sub-pipelines): name → digest."""

    @property
    def ok(self) -> bool:
        """Whether the run completed."""
        return self.status == "completed"

    def document(self) -> dict[str, Any]:
        """The result as plain JSON data."""
        return {
            "run_id": self.run_id,
            "pipeline": self.pipeline,
            "version": self.version,
            "status": self.status,
            "output": self.output,
            "error": failure_document(self.error),
            "stages": {path: _stage_document(stage) for path, stage in self.stages.items()},
            "usage": usage_document(self.usage),
            **({"models": msgspec.to_builtins(self.models)} if self.models else {}),
            "executor": self.executor,
            **({"prompts": self.prompts} if self.prompts else {}),
        }


def result(
    picture: RunPicture,
    values: ValueStore,
    *,
    executor: str,
    items: bool = False,
    limit: int | None = INLINE_LIMIT,
    org_id: OrgId = LOCAL_ORG,
) -> RunResult:
    """The result that a picture shows. Outputs above `limit` bytes appear as their `$blob`; None: nothing does.

    With `items`, the stages of foreach items are there too (the picture must have been made with `items`).
    """
    shown = Shown(values, org_id, limit)
    stages: dict[str, StageResult] = {}
    for stage in picture.ordered():
        if not items and any(isinstance(part, int) for part in stage.path):
            continue
        stages[stage.name] = _stage_result(stage, shown)
        if items:
            stages.update(_columns(stage.path, picture.columns.get(stage.path, ()), shown))
    return RunResult(
        run_id=picture.run_id or "",
        pipeline=picture.pipeline,
        version=picture.version,
        status=str(picture.status),
        output=None if picture.output is None else shown.data(picture.output),
        error=picture.failure,
        stages=stages,
        usage=picture.usage or Usage(),
        executor=executor,
        models=_models(picture.asked),
        prompts=picture.prompts,
    )


def result_from(document: Mapping[str, Any]) -> RunResult:
    """The result that `RunResult.document` wrote. Raises `msgspec.ValidationError` for what is none."""
    used = dict(document["usage"])
    cost = used.pop("cost")
    given = {name: item for name, item in used.items() if item is not None}
    dollars = None if cost is None else int(Decimal(cost) * NANODOLLARS)
    usage = msgspec.structs.replace(msgspec.convert(given, Usage), cost_nanodollars=dollars)
    return msgspec.structs.replace(msgspec.convert({**document, "usage": {}}, RunResult), usage=usage)


class Shown:
    """Turns values into what JSON can say."""

    def __init__(self, values: ValueStore, org_id: OrgId = LOCAL_ORG, limit: int | None = INLINE_LIMIT) -> None:
        self._values = values
        self._org_id = org_id
        self._data = _ShownData(values, org_id)
        self._limit = limit

    def data(self, source: Value) -> Any:
        """The plain data of a value, or its `$blob` where it is larger than the limit."""
        if self._limit is None:
            return plain(self._data.load(source))
        if isinstance(source, Stored) and source.size > self._limit:
            return blob(source.digest, source.size)
        loaded = self._data.load(source)
        if size_at_most(source) <= self._limit:
            return plain(loaded)
        encoded = value.encode(loaded)
        if len(encoded) <= self._limit:
            return plain(loaded)
        digest = sha256(encoded)
        self._values.put(self._org_id, digest, encoded)  # a digest that is shown can be looked up
        return blob(digest, len(encoded))

    def whole(self, source: Value) -> Any:
        """The plain data of a value whatever its size, as components would read it."""
        return self._data.load(source)


class _ShownData(Data):
    """To look at a value must not fail: a part that is not there is shown as its error."""

    def pick(self, source: Picked) -> Any:
        try:
            return super().pick(source)
        except StageError as error:
            return {"$error": msgspec.to_builtins(error.failure)}


def blob(digest: str, size: int, type_: str = "application/msgpack") -> dict[str, Any]:
    """How bytes that are not shown appear."""
    return {BLOB: digest, "type": type_, "size": size}


def plain(data: Any) -> Any:
    """Data as JSON can say it: bytes become their `$blob`."""
    if isinstance(data, bytes):
        return blob(sha256(data), len(data), "application/octet-stream")
    if isinstance(data, dict):
        return {str(key): plain(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [plain(item) for item in data]
    return data


def size_at_most(source: Value) -> int:
    """An upper bound of the encoded size of a value, in bytes, without loading it."""
    total, waiting = 0, [source]
    while waiting:
        part = waiting.pop()
        total += 8
        if isinstance(part, Inline):
            total += len(part.data)
        elif isinstance(part, Stored):
            total += part.size
        elif isinstance(part, Record):
            waiting.extend(part.fields.values())
            total += sum(len(key) * 4 + 8 for key in part.fields)
        elif isinstance(part, Sequence):
            waiting.extend(part.items)
        elif isinstance(part, Concat):
            waiting.extend(part.chunks)
        elif isinstance(part, Picked):
            waiting.append(part.source)
    return total


def moment(milliseconds: int) -> str | None:
    """Milliseconds since the epoch as ISO 8601 in UTC; None for 0."""
    if not milliseconds:
        return None
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def failure_document(failure: Failure | None) -> dict[str, Any] | None:
    """A failure as JSON data: `code`, `message` and `stage` are always there."""
    if failure is None:
        return None
    found: dict[str, Any] = {"code": failure.code, "message": failure.message, "stage": failure.stage}
    return {**found, **plain(msgspec.to_builtins(failure, builtin_types=(bytes,)))}


def usage_document(usage: Usage) -> dict[str, Any]:
    """Usage as JSON data; money is a decimal string, null where a price is unknown."""
    return {
        "calls": usage.calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "cost": usage.cost,
        "provider": usage.provider or None,
        "model": usage.model or None,
        "estimated": usage.estimated,
    }


def _stage_result(stage: StagePicture, shown: Shown) -> StageResult:
    return StageResult(
        status=str(stage.status),
        attempts=stage.attempts,
        started_at=moment(stage.started_at),
        finished_at=moment(stage.finished_at),
        duration_ms=None if stage.duration_ms is None else round(stage.duration_ms, 3),
        output=None if stage.output is None else shown.data(stage.output),
        error=stage.failure if stage.status == "failed" else None,
        models=_models(stage.asked),
    )


def _models(asked: Mapping[Asked, int]) -> tuple[ModelCalls, ...]:
    return tuple(
        ModelCalls(kind.provider, kind.model, kind.end, count, kind.failure, kind.resumed)
        for kind, count in sorted(asked.items())
    )


def _columns(path: StagePath, chunks: Iterator[ItemsFinished] | Any, shown: Shown) -> Iterator[tuple[str, StageResult]]:
    """Items that were recorded in columns, one stage after the other, item by item."""
    for chunk in sorted(chunks, key=lambda chunk: chunk.start):
        columns = {name: shown.whole(column) for name, column in chunk.columns.items()}
        started, finished = moment(chunk.started_at), moment(int(chunk.started_at + chunk.duration_ms))
        for offset in range(chunk.count):
            index = chunk.start + offset
            failure = chunk.failures.get(index)
            over = False
            for name, column in columns.items():
                output = column[offset]
                failed = failure is not None and isinstance(output, dict) and "$error" in output
                status = "cancelled" if over else "failed" if failed else "completed"
                yield (
                    format_path((*path, index, name)),
                    StageResult(
                        status=status,
                        attempts=0 if over else 1,
                        started_at=started,
                        finished_at=finished,
                        duration_ms=None,
                        output=None if failed or over else plain(output),
                        error=failure if failed and not over else None,
                    ),
                )
                over = over or failed


def _stage_document(stage: StageResult) -> dict[str, Any]:
    found: dict[str, Any] = {
        "status": stage.status,
        "attempts": stage.attempts,
        "started_at": stage.started_at,
        "finished_at": stage.finished_at,
        "duration_ms": stage.duration_ms,
        "output": stage.output,
    }
    if stage.error is not None:
        found["error"] = failure_document(stage.error)
    if stage.models:
        found["models"] = msgspec.to_builtins(stage.models)
    return found


def unfinished(pipeline: str, error: FlowMasonError, executor: str | None, run_id: str | None) -> dict[str, Any]:
    """The object of `--json` where there is no outcome to tell of."""
    failure: Failure = error.failure
    return {
        "run_id": run_id,
        "pipeline": pipeline,
        "version": None,
        "status": None if run_id is None else "running",
        "output": None,
        "error": failure_document(failure),
        "stages": {},
        "usage": usage_document(Usage()),
        "executor": executor,
    }
