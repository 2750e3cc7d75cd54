"""From references and `depends_on` to the edges of the graph, lifted to the scope where both ends stand."""

from __future__ import annotations

from flowmason.compiler.draft import ROLES, Draft, Use, Work, climb, meet, role_under
from flowmason.compiler.faults import Known, some
from flowmason.plan import Kind

ERROR_FIELDS = frozenset({"error", "error_type", "error_message", "error_occurred"})
"""What a trycatch shows to its catch and finally stages before it has ended."""

_CONTEXT = ("run_id", "pipeline_id", "pipeline_version", "stage_id", "trace_id")
CONTEXT = frozenset(_CONTEXT)
"""Fields of `context` that are always there."""


def link(work: Work, draft: Draft) -> None:
    """Turn what a stage reads and depends on into edges; tell of what it cannot read."""
    for use in draft.uses:
        if use.root == "upstream":
            _upstream(work, draft, use)
        elif use.root == "env":
            _env(work, draft, use)
        elif use.root == "error":
            if not _sees_error(draft):
                reason = f"error is known only in the catch and finally of a trycatch; {draft.id} does not stand there"
                work.fault(draft, use.pointer, reason, rests=work.unplaced(draft))
        elif use.root == "context" and len(use.path) > 1 and use.path[0] in CONTEXT:
            work.fault(draft, use.pointer, f"context.{use.path[0]} is a string: it has no fields")
    for position, name in enumerate(draft.source.depends_on):
        _depends(work, draft, name, f"{draft.pointer}.depends_on[{position}]")


def _sees_error(draft: Draft) -> bool:
    return any(place.role in ("catch", "finally") for place in draft.place.around())


def _env(work: Work, draft: Draft, use: Use) -> None:
    if len(use.path) != 1 or not isinstance(use.path[0], str):
        reason = (
            "env can only be read by name: env.NAME" if not use.path else "a variable of the environment is a string"
        )
        work.fault(draft, use.pointer, reason)
    elif use.path[0] not in work.env:
        allowed = f"; it allows {some(work.env)}" if work.env else ""
        reason = f'env.{use.path[0]} is not among the names that flowmason.json allows in "env"{allowed}'
        work.fault(draft, use.pointer, reason, wrong=use.path[0], known=work.env)


def _upstream(work: Work, draft: Draft, use: Use) -> None:
    name = use.path[0] if use.path else None
    if not isinstance(name, str):
        work.fault(draft, use.pointer, "upstream must name its stage: upstream.<stage id>")
        return
    target = work.by_id.get(name)
    if target is None:
        reason = f"upstream.{name}: there is no stage {name!r}"
        work.fault(draft, use.pointer, reason, wrong=name, known=work.by_id)
        return
    if target is draft:
        work.fault(draft, use.pointer, f"{draft.id} cannot read its own output")
        return
    here, there = meet(draft, target)
    if here is not there:
        for reader in climb(draft, here):
            reader.reads[target.id] = None
        where = use.pointer.removeprefix(draft.pointer).lstrip(".")
        here.data.setdefault(there.id, _why(draft, here, f"reads upstream.{name} in {where}"))
    elif here is target:
        _own_trycatch(work, draft, target, use)
    elif here is draft:
        work.fault(
            draft, use.pointer, f"{name} stands in the body of {draft.id}, which reads its inputs before that runs"
        )
    else:
        _between_bodies(work, draft, target, here, use.pointer)
        for reader in climb(draft, here):
            if reader is not here:
                reader.reads[target.id] = None


def _own_trycatch(work: Work, draft: Draft, owner: Draft, use: Use) -> None:
    role = role_under(draft, owner)
    if owner.kind is Kind.TRYCATCH and role in ("catch", "finally"):
        field = use.path[1] if len(use.path) > 1 else None
        if field in ERROR_FIELDS:
            for reader in climb(draft, owner):
                if reader is not owner:
                    reader.reads[owner.id] = None
            return
        reason = f"in its {role}, {owner.id} has only {', '.join(sorted(ERROR_FIELDS))}"
        work.fault(draft, use.pointer, reason, wrong=str(field or ""), known=sorted(ERROR_FIELDS))
        return
    reason = f"{draft.id} stands in the body of {owner.id} and cannot read its output"
    if owner.kind is Kind.FOREACH:
        item, index = owner.loop
        reason += f"; its loop variables are {item} and {index}"
    work.fault(draft, use.pointer, reason)


def _between_bodies(work: Work, draft: Draft, target: Draft, owner: Draft, pointer: str) -> None:
    mine, other = role_under(draft, owner), role_under(target, owner)
    if ROLES.index(other) > ROLES.index(mine):
        reason = f"{target.id} stands in the {other} of {owner.id}, which runs after its {mine}"
        work.fault(draft, pointer, reason)


def _depends(work: Work, draft: Draft, name: str, pointer: str) -> None:
    target = work.by_id.get(name)
    if target is None:
        reason = f"depends_on names {name!r}, which is no stage"
        work.fault(draft, pointer, reason, wrong=name, known=work.by_id, missing=name)
        work.leave_open(Known.EDGES)
        return
    if target is draft:
        work.fault(draft, pointer, f"{draft.id} cannot depend on itself")
        return
    here, there = meet(draft, target)
    if here is not there:
        here.order.setdefault(there.id, _why(draft, here, f"lists {name} in depends_on"))
    elif here is draft:
        work.fault(draft, pointer, f"{name} stands in the body of {draft.id}, which begins before it")
    elif here is not target:
        _between_bodies(work, draft, target, here, pointer)


def _why(draft: Draft, here: Draft, what: str) -> str:
    return f"{draft.id} {what}" if draft is here else f"{draft.id}, in the body of {here.id}, {what}"
