"""Sub-pipelines whose names are written out: found, compiled, and pinned by digest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from flowmason.compiler.draft import Draft, Work
from flowmason.errors import Code, FlowMasonError, RefusedError
from flowmason.expressions import Static
from flowmason.plan import Kind, Plan

if TYPE_CHECKING:
    from flowmason.pipeline import Pipeline

MAX_DEPTH = 20
"""How deep pipelines may call each other."""
_SHOWN = 5

Compile = Callable[["Pipeline", "Chain"], Plan]


class Chain:
    """The pipelines that are being compiled, the outermost first, and the Plans that are ready."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ready: dict[str, Plan] = {}
        self.refused: dict[str, RefusedError] = {}


def attach_plans(work: Work, chain: Chain, compile: Compile) -> None:
    """Give every sub-pipeline stage with a literal name its Plan."""
    for draft in work.drafts:
        if draft.kind is Kind.SUBPIPELINE:
            wanted = _literal(work, draft)
            if wanted is not None:
                _attach(work, draft, wanted, chain, compile)


def _literal(work: Work, draft: Draft) -> str | None:
    name = draft.templates.get("pipeline_id", Static(None))
    version = draft.templates.get("pipeline_version", Static(None))
    if not isinstance(name, Static) or not isinstance(version, Static):
        return None  # known only when it runs
    if not isinstance(name.value, str) or not name.value:
        return None  # a missing or wrong field, which is told as such
    plain, at, written = name.value.rpartition("@")
    if not at or not plain:
        return f"{name.value}@{version.value}" if version.value else name.value
    if version.value not in (None, "", written):
        reason = f"pipeline_id asks for version {written!r}, pipeline_version for {version.value!r}"
        work.fault(draft, draft.at("pipeline_version"), reason)
        return None
    return name.value


def _attach(work: Work, draft: Draft, wanted: str, chain: Chain, compile: Compile) -> None:
    pointer = draft.at("pipeline_id")
    if work.find is None:
        reason = f"pipeline {wanted!r} cannot be looked up here: no other pipelines are known"
        work.fault(draft, pointer, reason, code=Code.PIPELINE_NOT_FOUND)
        return
    try:
        found = work.find(wanted)
    except LookupError:
        work.fault(draft, pointer, f"there is no pipeline {wanted!r}", code=Code.PIPELINE_NOT_FOUND)
        return
    except RefusedError as error:
        _tell(work, draft, wanted, error)
        return
    except FlowMasonError as error:
        work.fault(draft, pointer, f"pipeline {wanted!r}: {error.failure.message}", code=error.failure.code)
        return
    name = found.reference
    if name in chain.names:
        ring = " → ".join([*chain.names[chain.names.index(name) :], name])
        work.fault(draft, pointer, f"pipelines that call each other without end: {ring}")
        return
    if len(chain.names) >= MAX_DEPTH:
        reason = f"pipelines call each other more than {MAX_DEPTH} deep: {' → '.join([*chain.names, name])}"
        work.fault(draft, pointer, reason, code=Code.PIPELINE_DEPTH)
        return
    if name not in chain.ready and name not in chain.refused:
        try:
            chain.ready[name] = compile(found, chain)
        except RefusedError as error:
            chain.refused[name] = error
    if name in chain.refused:
        _tell(work, draft, name, chain.refused[name])
        return
    whole = chain.ready[name]
    bare = msgspec.structs.replace(whole, plans={})
    draft.plan = bare
    work.plans.update(whole.plans)
    work.plans[bare.id] = bare


def _tell(work: Work, draft: Draft, name: str, error: RefusedError) -> None:
    for fault in error.faults[:_SHOWN]:
        work.fault(draft, draft.at("pipeline_id"), f"pipeline {name!r} is refused: {fault}", code=fault.code)
    if len(error.faults) > _SHOWN:
        more = f"pipeline {name!r} has {len(error.faults) - _SHOWN} more faults"
        work.fault(draft, draft.at("pipeline_id"), more)
