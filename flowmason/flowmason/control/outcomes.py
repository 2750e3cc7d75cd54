"""What a body led to: which errors a trycatch takes, and the final outputs of stages that own a body.

The functions for outputs take what is small; a caller that holds results by reference passes none
of them and puts its own references under the same keys.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from flowmason import errors
from flowmason.control.paths import MISSING, dead_end, pick
from flowmason.errors import Code, Failure, StageError

_BY_CODE = {"TimeoutError": Code.TIMEOUT, "ConnectionError": Code.CONNECTIVITY}
"""Python's names for failures that carry a code of ours whatever class raised them."""


@lru_cache(maxsize=256)
def _lineage(name: str) -> frozenset[str]:
    """Names of an error class and its bases, for the classes that are known without importing anything."""
    for module in (errors, builtins):
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, Exception):
            return frozenset(base.__name__ for base in found.__mro__ if issubclass(base, Exception))
    return frozenset({name, "Exception"} if name else {"Exception"})


def catches(types: Iterable[str], failure: Failure) -> bool:
    """Whether a catch for `types` takes `failure`.

    A type is the class name of the error or of a base of it (bases are known for Python's own errors and
    FlowMason's), or a failure code. No types: everything is taken. A cancellation is never taken.
    """
    if failure.code == Code.CANCELLED:
        return False
    wanted = list(types)
    if not wanted:
        return True
    lineage = _lineage(failure.type)
    return any(
        name == failure.code or name in lineage or _BY_CODE.get(name) == failure.code
        for name in (raw.rpartition(".")[2] for raw in wanted)
    )


def error_view(failure: Failure) -> dict[str, Any]:
    """A failure as `error` (and `_error`) shows it inside a catch."""
    return {
        "message": failure.message,
        "type": failure.type,
        "code": str(failure.code),
        "stage": failure.stage,
        "details": failure.details or {},
    }


def foreach_output(
    *,
    total: int,
    skipped: int = 0,
    processed: int = 0,
    failed: int = 0,
    complete: bool = False,
    results: list[Any] | None = None,
) -> dict[str, Any]:
    """The output of a foreach. `processed` counts the items that ended, well or not; `failed` those that did not."""
    return {
        "total_items": total,
        "processed_items": processed,
        "skipped_items": skipped,
        "failed_items": failed,
        "current_item": None,
        "current_index": None,
        "items_to_process": [],
        "results": results if results is not None else [],
        "is_complete": complete,
    }


def trycatch_output(
    status: str,
    *,
    failure: Failure | None = None,
    recovered: bool = False,
    try_result: Any = None,
    catch_result: Any = None,
    data: Any = None,
) -> dict[str, Any]:
    """The output of a trycatch. `status`: pending, success, caught or error."""
    return {
        "status": status,
        "error_occurred": failure is not None,
        "error": error_view(failure) if failure else None,
        "error_message": failure.message if failure else None,
        "error_type": failure.type if failure else None,
        "recovered": recovered,
        "try_result": try_result,
        "catch_result": catch_result,
        "data": data,
    }


def subpipeline_output(
    status: str,
    *,
    pipeline_id: str,
    pipeline_version: str | None = None,
    run_id: str | None = None,
    result: Any = None,
    execution_time_ms: float | None = None,
    failure: Failure | None = None,
    output_mapping: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The output of a sub-pipeline. `status`: pending, running, completed, failed or cancelled.

    With an `output_mapping` the result is an object of the mapped fields (target → dotted path into the
    pipeline's output). Raises `StageError` (`INVALID_OUTPUT`) for a path that leads nowhere.
    """
    if output_mapping and status == "completed":
        result = _mapped(result, output_mapping)
    return {
        "pipeline_id": pipeline_id,
        "pipeline_version": pipeline_version,
        "run_id": run_id,
        "status": status,
        "input_data": {},
        "result": result,
        "execution_time_ms": execution_time_ms,
        "error": error_view(failure) if failure else None,
    }


def own_run(settings: Mapping[str, Any]) -> bool:
    """Whether a sub-pipeline becomes a run of its own, for which its stage does not wait."""
    return bool(settings.get("async_execution")) or settings.get("wait_for_completion") is False


def inherits(settings: Mapping[str, Any]) -> bool:
    """Whether a sub-pipeline sees the variables of its caller."""
    return settings.get("inherit_context", True) is not False and not settings.get("isolated")


def _mapped(result: Any, mapping: Mapping[str, str]) -> dict[str, Any]:
    return {target: picked(result, path) for target, path in mapping.items()}


def picked(result: Any, path: str) -> Any:
    """What a path of an `output_mapping` finds. Raises `StageError` (`INVALID_OUTPUT`) where it leads nowhere."""
    found = pick(result, path)
    if found is not MISSING:
        return found
    wrong, known = dead_end(result, path)
    near = errors.did_you_mean(wrong, known)
    there = f"; did you mean {near!r}?" if near else f"; there is {', '.join(map(repr, known[:8]))}" if known else ""
    raise StageError(
        f"output_mapping: the pipeline's output has nothing at {path!r}: no {wrong!r}{there}",
        code=Code.INVALID_OUTPUT,
        details={"path": path},
    )


def takes_over(settings: Mapping[str, Any], failure: Failure) -> tuple[bool, Any]:
    """What a sub-pipeline stage makes of the failure of its pipeline: `(goes on, result)`.

    `on_error`: propagate fails the stage, ignore goes on with null, default with `default_result`.
    A cancellation always propagates.
    """
    mode = settings.get("on_error", "propagate")
    if mode == "propagate" or failure.code == Code.CANCELLED:
        return False, None
    return True, settings.get("default_result") if mode == "default" else None
