"""Who stands where: the bodies of foreach and trycatch, and the branches of conditional and router."""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from typing import Any

from flowmason.compiler.draft import BODIES, Draft, Place, Work, meet
from flowmason.compiler.faults import Known, below, close_to, some
from flowmason.plan import Kind

MAX_NESTING = 32
"""How deep bodies may stand in each other."""

ROOTS = frozenset({"input", "upstream", "stages", "context", "env", "error", "_error"})
"""Names that mean something in every expression."""

_WORDS = frozenset({"true", "false", "null"})
_BRANCHES = {"true_branch_stages": "true", "false_branch_stages": "false"}

_Owners = dict[str, tuple[Draft, str]]


def attach_bodies(work: Work) -> None:
    """Put every stage into its scope."""
    owners: _Owners = {}
    for draft in work.drafts:
        for name, role in BODIES.get(draft.kind, {}).items() if draft.kind else ():
            for position, (child, pointer) in enumerate(_listed(work, draft, name, draft.inputs.get(name))):
                first = owners.get(child.id)
                if child is draft:
                    work.fault(draft, pointer, f"{draft.id} cannot stand in its own body")
                    draft.vague = True
                elif first is not None:
                    work.fault(draft, pointer, _twice(child, (draft, role), first))
                else:
                    owners[child.id] = (draft, role)
                    child.position = position
        if draft.kind is Kind.FOREACH:
            _check_present(work, draft, "loop_stages")
            draft.loop = _loop_variables(work, draft)
        elif draft.kind is Kind.TRYCATCH:
            _check_present(work, draft, "try_stages")
    for name in _rings(work, owners):
        owners.pop(name)[0].vague = True
    if any(draft.vague for draft in work.drafts):
        work.leave_open(Known.BODIES, Known.EDGES)
    _settle(work, owners)


def _check_present(work: Work, draft: Draft, name: str) -> None:
    """Tell of a control stage that does nothing, unless what it does could not be read."""
    lists = BODIES[draft.kind] if draft.kind else {}
    if draft.spec is None:
        draft.vague = draft.vague or name not in draft.inputs
    elif draft.unread or not draft.refused.isdisjoint(lists) or _slipped(draft, draft.spec.input_schema, name):
        draft.vague = True
    elif draft.inputs.get(name) in (None, [], ""):
        work.fault(draft, draft.at(name), f"{name} lists no stage: {draft.id} would do nothing")
        draft.vague = True


def _slipped(draft: Draft, schema: dict[str, Any], name: str) -> bool:
    """Whether an input is only misspelt, which is told as an unknown one."""
    declared = schema.get("properties") or {}
    return any(close_to(given, declared) == name for given in draft.inputs if given not in declared)


def _twice(child: Draft, second: tuple[Draft, str], first: tuple[Draft, str]) -> str:
    if first == second:
        return f"{child.id} is listed twice"
    if first[0] is second[0]:
        return f"{child.id} stands in two bodies of {first[0].id}; a stage belongs to one body"
    return (
        f"{child.id} is in the body of {first[0].id} already; a stage belongs to one body"
        f" (a body that stands in another is listed by its owner alone: {first[0].id} or {second[0].id})"
    )


def _rings(work: Work, owners: _Owners) -> set[str]:
    """Tell of bodies that contain themselves; the stages on such rings."""
    broken: set[str] = set()
    clean: set[str] = set()
    for draft in work.drafts:
        trail: dict[str, None] = {}
        here: str = draft.id
        while here in owners and here not in clean and here not in broken:
            if here in trail:
                ring = list(trail)[list(trail).index(here) :]
                broken.update(ring)
                ring.reverse()
                start = min(range(len(ring)), key=lambda at: work.by_id[ring[at]].index)
                ring = [*ring[start:], *ring[:start]]
                first = work.by_id[ring[0]]
                work.fault(first, first.pointer, f"bodies that contain each other: {' → '.join([*ring, ring[0]])}")
                break
            trail[here] = None
            here = owners[here][0].id
        clean.update(trail)
    return broken


def _settle(work: Work, owners: _Owners) -> None:
    inside: dict[tuple[str, str], list[Draft]] = {}
    for draft in work.drafts:
        if draft.id in owners:
            owner, role = owners[draft.id]
            inside.setdefault((owner.id, role), []).append(draft)
        else:
            draft.position = draft.index
            work.root.members.append(draft)
    waiting = list(work.root.members)
    while waiting:
        owner = waiting.pop()
        for role in BODIES[owner.kind].values() if owner.kind in BODIES else ():
            place = owner.places[role] = Place(owner, role, owner.place.depth + 1)
            place.members = sorted(inside.get((owner.id, role), ()), key=lambda member: member.position)
            for member in place.members:
                member.place = place
            waiting.extend(place.members)
            if place.depth == MAX_NESTING + 1 and place.members:
                work.fault(owner, owner.pointer, f"bodies stand in each other more than {MAX_NESTING} deep")


def _loop_variables(work: Work, draft: Draft) -> tuple[str, str]:
    names: list[str] = []
    for field, usual in (("item_variable", "item"), ("index_variable", "index")):
        given = draft.inputs.get(field, usual)
        if not isinstance(given, str) or not given.isidentifier() or keyword.iskeyword(given) or given in _WORDS:
            work.fault(draft, draft.at(field), f"{field} must be a name of letters, digits and underscores")
            given = usual
        elif given in ROOTS:
            work.fault(draft, draft.at(field), f"{field}: {given!r} has a meaning of its own in expressions")
            given = usual
        names.append(given)
    if names[0] == names[1]:
        work.fault(draft, draft.at("index_variable"), "item_variable and index_variable must differ")
    return names[0], names[1]


def attach_branches(work: Work) -> None:
    """Give the stages that a guard lists their arms."""
    for draft in work.drafts:
        if draft.kind is Kind.CONDITIONAL:
            for name, choice in _BRANCHES.items():
                _branch(work, draft, choice, name, draft.inputs.get(name))
        elif draft.kind is Kind.ROUTER:
            _routes(work, draft)


def _routes(work: Work, draft: Draft) -> None:
    routes = draft.inputs.get("routes")
    pointer = draft.at("routes")
    default = draft.inputs.get("default_route")
    if isinstance(routes, dict):
        for key, ids in routes.items():
            if key == "default" and default:
                work.fault(draft, pointer, "a route may not be called 'default' beside default_route")
            _branch(work, draft, key, "routes", ids, pointer=below(pointer, key))
    elif routes is not None:
        work.fault(draft, pointer, "routes must be an object: value → stages, written out in the file")
    _branch(work, draft, "default", "default_route", default)


def _branch(work: Work, guard: Draft, choice: str, name: str, ids: Any, *, pointer: str | None = None) -> None:
    for child, place in _listed(work, guard, name, ids, pointer=pointer):
        if child is guard:
            work.fault(guard, place, f"{guard.id} cannot choose itself")
            continue
        if child.place is not guard.place:
            _elsewhere(work, guard, child, place)
            continue
        child.arms.setdefault(guard.id, {})[choice] = None


def _elsewhere(work: Work, guard: Draft, child: Draft, pointer: str) -> None:
    rests = work.unplaced(guard, child)
    here, there = meet(guard, child)
    if here is guard and there is not guard:
        reason = f"{child.id} stands in the body of {there.id}; list {there.id} instead"
        work.fault(guard, pointer, reason, nearest=there.id, rests=rests)
    elif guard.place.owner is not None:
        reason = f"{child.id} is not in the body of {guard.place.owner.id}, where {guard.id} stands"
        work.fault(
            guard, pointer, reason, wrong=child.id, known=[member.id for member in guard.place.members], rests=rests
        )
    else:
        work.fault(guard, pointer, f"{child.id} stands in a body; {guard.id} does not", rests=rests)


def _listed(
    work: Work, draft: Draft, name: str, given: Any, *, pointer: str | None = None
) -> Iterator[tuple[Draft, str]]:
    """The stages that an input lists: one id or a list of ids, written out."""
    pointer = pointer or draft.at(name)
    if given is None or given == "":
        return
    entries = [(given, pointer)] if isinstance(given, str) else None
    if isinstance(given, list):
        entries = [(entry, f"{pointer}[{position}]") for position, entry in enumerate(given)]
    if entries is None:
        work.fault(draft, pointer, f"{name} must list stage ids")
        _lose(work, draft)
        return
    for entry, place in entries:
        if not isinstance(entry, str):
            work.fault(draft, place, f"{name} must list stage ids")
            _lose(work, draft)
        elif entry in work.by_id:
            yield work.by_id[entry], place
        else:
            reason = f"{name} names {entry!r}, which is no stage; stages are {some(work.by_id)}"
            work.fault(draft, place, reason, wrong=entry, known=work.by_id, missing=entry)
            _lose(work, draft)


def _lose(work: Work, draft: Draft) -> None:
    """A stage that a control stage lists is not known."""
    draft.vague = draft.kind in BODIES
    work.leave_open(Known.EDGES)
