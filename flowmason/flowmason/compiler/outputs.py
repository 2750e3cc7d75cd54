"""What a reference will find: the outputs of stages, the pipeline's input, the context, as schemas."""

from __future__ import annotations

from typing import Any

from flowmason.compiler.calls import own_run
from flowmason.compiler.draft import Draft, Use, Work, climb, meet
from flowmason.compiler.faults import Known
from flowmason.compiler.links import CONTEXT
from flowmason.compiler.shapes import OPEN, Embedded, Problem, Shape, follow
from flowmason.plan import Kind

_ANY: dict[str, Any] = {}
_TEXT = {"type": ["string", "null"]}
_COUNT = {"type": "integer"}
_FLAG = {"type": "boolean"}
_NULL = Shape({"type": "null"}, True)
_FAILED = Shape({"type": "object", "properties": {"$error": _ANY}, "additionalProperties": False}, True)

FOREACH = {
    "total_items": _COUNT,
    "processed_items": _COUNT,
    "skipped_items": _COUNT,
    "failed_items": _COUNT,
    "is_complete": _FLAG,
}
TRYCATCH = {
    "status": {"type": "string"},
    "error_occurred": _FLAG,
    "error": _ANY,
    "error_message": _TEXT,
    "error_type": _TEXT,
    "recovered": _FLAG,
    "data": _ANY,
}
SUBPIPELINE = {
    "pipeline_id": {"type": "string"},
    "pipeline_version": _TEXT,
    "run_id": _TEXT,
    "status": {"type": "string"},
    "execution_time_ms": {"type": ["number", "null"]},
    "error": _ANY,
}


class Outputs:
    """Shapes of what the references of one pipeline find."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._own: dict[Draft, tuple[Shape, ...]] = {}
        schema = work.pipeline.input_schema
        self._input = (Shape(schema, schema),) if schema else OPEN

    def check(self, draft: Draft) -> None:
        """Tell of every reference of a stage that leads nowhere."""
        for use in draft.uses:
            found = self.find(draft, use.root, use.path, lenient=use.optional and use.root == "input")
            if isinstance(found, Problem):
                name, depth = _name(use, found.depth), found.depth
                reason = f"{name} {found.reason}"
                lists = self._lists(draft, use)
                if 0 < depth <= lists and isinstance(use.path[depth], str):
                    reason = (
                        f"{use.path[0]} stands in a loop: outside it, {name} is the list of its outputs by position"
                        f" ({name}[0]{_tail(use.path[depth:])} is the first)"
                    )
                    found = found._replace(wrong=None)
                self._work.fault(draft, use.pointer, reason, wrong=found.wrong, known=found.known)

    def find(
        self, draft: Draft, root: str, path: tuple[str | int, ...], *, lenient: bool = False
    ) -> tuple[Shape, ...] | Problem:
        """What stands at a path for a reader. `Problem.depth` counts the keys below the root that hold."""
        if root == "input":
            return follow(self._input, path, lenient=lenient)
        if root == "env" or (root == "context" and len(path) == 1 and path[0] in CONTEXT):
            return (Shape({"type": "string"}, True),)
        if root != "upstream" or not path:
            return OPEN
        target = self._work.by_id.get(str(path[0]))
        if target is None or target is draft or self._unsure(target, path[1:]):
            return OPEN
        _, there = meet(draft, target)
        if there is target and draft.place is not target.place and draft in _inside(draft, target):
            return OPEN  # a catch that asks its own trycatch; `links` has looked at it
        found = follow(self._seen(draft, target), path[1:], lenient=lenient)
        return found._replace(depth=found.depth + 1) if isinstance(found, Problem) else found

    def _unsure(self, target: Draft, path: tuple[str | int, ...]) -> bool:
        """Whether it is open if a stage stands in a loop, where it would be a list, or what stands in its bodies."""
        if Known.BODIES not in self._work.faults.open:
            return False
        return target.vague or (target.place is self._work.root and (not path or isinstance(path[0], int)))

    def _lists(self, draft: Draft, use: Use) -> int:
        target = self._work.by_id.get(str(use.path[0])) if use.root == "upstream" and use.path else None
        return len(_loops_between(draft, target)) if target is not None else 0

    def _seen(self, reader: Draft, target: Draft) -> tuple[Shape, ...]:
        shapes = self.own(target)
        for _ in _loops_between(reader, target):
            shapes = (Shape({"type": "array", "items": Embedded((*shapes, _NULL))}, True),)
        return shapes

    def own(self, draft: Draft) -> tuple[Shape, ...]:
        """The output of a stage, as the stages next to it see it."""
        if draft not in self._own:
            self._own[draft] = self._make(draft)
        return self._own[draft]

    def _make(self, draft: Draft) -> tuple[Shape, ...]:
        if draft.spec is None:
            return OPEN
        if draft.kind is Kind.FOREACH:
            items = Embedded((*self._last(draft, "loop"), _FAILED, _NULL))
            return _closed({**FOREACH, "results": {"type": "array", "items": items}})
        if draft.kind is Kind.TRYCATCH:
            results = {f"{role}_result": Embedded((*self._last(draft, role), _NULL)) for role in ("try", "catch")}
            return _closed({**TRYCATCH, **results})
        if draft.kind is Kind.SUBPIPELINE:
            # Nobody waits for a run of its own: it has no result.
            return _closed(SUBPIPELINE if own_run(draft) else {**SUBPIPELINE, "result": self._result(draft)})
        schema = draft.spec.output_schema
        if draft.spec.output_open:
            schema = {**schema, "additionalProperties": True}
        return (Shape(schema, schema),)

    def _last(self, draft: Draft, role: str) -> tuple[Shape, ...]:
        place = draft.places.get(role)
        if place is None or not place.members:
            return (_NULL,)
        return self.own(max(place.members, key=lambda member: member.position))

    def _result(self, draft: Draft) -> Any:
        mapping = draft.inputs.get("output_mapping")
        if isinstance(mapping, dict) and mapping:
            fields = dict.fromkeys(mapping, _ANY)
            return {"type": ["object", "null"], "properties": fields, "additionalProperties": False}
        schema = draft.plan.output_schema if draft.plan is not None else {}
        if not schema or draft.inputs.get("on_error") == "default":
            return _ANY
        return Embedded((Shape(schema, schema), _NULL))


def _closed(fields: dict[str, Any]) -> tuple[Shape, ...]:
    return (Shape({"type": "object", "properties": fields, "additionalProperties": False}, True),)


def _inside(draft: Draft, owner: Draft) -> list[Draft]:
    """`draft` alone, if it stands in a body of `owner`."""
    return [draft] if any(place.owner is owner for place in draft.place.around()) else []


def _loops_between(reader: Draft, target: Draft) -> list[Draft]:
    """The loops that a target stands in and its reader does not, the innermost first."""
    here, there = meet(reader, target)
    owners = [owner for owner in climb(target, there) if owner is not target]
    if here is there:
        owners = [owner for owner in owners if owner is not there]
    return [owner for owner in owners if owner.kind is Kind.FOREACH]


def _name(use: Use, depth: int) -> str:
    return use.root + _tail(use.path[:depth])


def _tail(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
