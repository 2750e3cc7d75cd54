"""Variables: who sets them, who sees which, in which order."""

from __future__ import annotations

from flowmason.compiler.draft import Draft, Place, Work, climb, meet
from flowmason.compiler.faults import Known, close_to, some
from flowmason.compiler.front import SETTER
from flowmason.compiler.links import CONTEXT
from flowmason.errors import Code
from flowmason.ids import StageId
from flowmason.plan import LOOP_TOTAL, Kind

LIMIT = 500_000
"""Most (stage, variable) pairs of one Plan."""


def attach_variables(work: Work) -> None:
    """Give every stage the variables it sees, and check those that templates read. Scopes must be sorted."""
    setters = _setters(work)
    if setters:
        sight = _Sight(setters)
        total = 0
        for place in _outside_in(work):
            sight.enter(place)
            for draft in place.members:
                draft.variables = sight.of(draft)
                total += sum(len(ids) for ids in draft.variables.values())
                if total > LIMIT:
                    work.faults.add("$.stages", f"more than {LIMIT} pairs of a stage and a variable that it sees")
                    return
        for draft in work.drafts:
            _check_reads(work, draft, sight)
        return
    for draft in work.drafts:
        _check_reads(work, draft, None)


def _setters(work: Work) -> dict[StageId, str]:
    found: dict[StageId, str] = {}
    for draft in work.drafts:
        if draft.spec is None or draft.spec.name != SETTER:
            continue
        if "name" not in draft.inputs:
            work.leave_open(Known.SETTERS)  # told as a missing input
            continue
        name = draft.inputs["name"]
        pointer = draft.at("name")
        if not isinstance(name, str) or "{{" in name:
            work.fault(draft, pointer, "the name of a variable must be written out, so that its readers can be checked")
        elif not name.isidentifier():
            work.fault(
                draft, pointer, f"{name!r} cannot be the name of a variable: use letters, digits and underscores"
            )
        elif name in CONTEXT:
            work.fault(draft, pointer, f"{name!r} is a field of context already")
        elif any(name in (*loop.loop, "loop_item", "loop_index", LOOP_TOTAL) for loop in draft.loops):
            work.fault(draft, pointer, f"{name!r} is a loop variable here")
        else:
            found[draft.id] = name
        if draft.id not in found:
            work.leave_open(Known.SETTERS)
    return found


def _outside_in(work: Work) -> list[Place]:
    places = [work.root]
    for place in places:
        places.extend(inner for member in place.members for inner in member.places.values())
    return places


_OF_LOOPS = {
    "loop_item": "is known only in the body of a foreach",
    "loop_index": "is known only in the body of a foreach",
    LOOP_TOTAL: "is known only in the body of a foreach",
    "loop_remaining": "is not kept: in the body of a foreach write context.loop_total - context.loop_index - 1",
    "loop_results": "is not there: items may run together, so none sees the results of others;"
    " after the loop they are upstream.<foreach>.results",
}


class _Sight:
    """Which setters stand before which stage. Sets of setters are integers, one bit each."""

    def __init__(self, setters: dict[StageId, str]) -> None:
        self._setters = setters
        self._before: dict[StageId, int] = {}
        """Stage → the setters of its own scope among its ancestors."""
        self._certain: set[StageId] = set()
        """Stages that are never skipped."""
        self._ordered: dict[Place, list[Draft]] = {}
        """Scope → its setters in topological order; the bit is the position."""
        self._masks: dict[Place, dict[str, int]] = {}
        """Scope → variable → its setters."""

    def enter(self, place: Place) -> None:
        """Look at a scope, its members in topological order."""
        setters = [member for member in place.members if member.id in self._setters]
        self._ordered[place] = setters
        bit = {member.id: 1 << position for position, member in enumerate(setters)}
        masks = self._masks[place] = {}
        for member in setters:
            name = self._setters[member.id]
            masks[name] = masks.get(name, 0) | bit[member.id]
        guards = {member.id for member in place.members if member.kind in (Kind.CONDITIONAL, Kind.ROUTER)}
        for member in place.members:
            before = 0
            for need in member.needs:
                before |= self._before.get(need, 0) | bit.get(need, 0)
            self._before[member.id] = before
            weighed = list(member.data or member.order)
            # A guard does not count as live beside other dependencies.
            weighed = [need for need in weighed if need not in guards] or weighed
            if not member.arms and (not weighed or any(need in self._certain for need in weighed)):
                self._certain.add(member.id)

    def levels(self, draft: Draft) -> list[tuple[Place, int]]:
        """The scopes around a stage, the innermost first, each with the setters in it that stand before."""
        found = []
        here: Draft | None = draft
        while here is not None:
            found.append((here.place, self._before.get(here.id, 0)))
            here = here.place.owner
        return found

    def of(self, draft: Draft) -> dict[str, tuple[StageId, ...]]:
        """Every variable a stage sees → its setters, the latest first, down to one that is never skipped."""
        table: dict[str, list[StageId]] = {}
        settled: set[str] = set()
        for place, before in self.levels(draft):
            setters = self._ordered[place]
            masks = self._masks[place]
            for name in settled:
                before &= ~masks.get(name, 0)
            while before:
                position = before.bit_length() - 1
                setter = setters[position]
                name = self._setters[setter.id]
                table.setdefault(name, []).append(setter.id)
                if setter.id in self._certain:
                    settled.add(name)
                    before &= ~masks[name]
                else:
                    before ^= 1 << position
        return {name: tuple(table[name]) for name in sorted(table)}

    def unordered(self, draft: Draft, name: str) -> tuple[StageId, StageId] | None:
        """Two setters of a variable that a stage sees, neither of which stands before the other."""
        for place, before in self.levels(draft):
            setters = [
                (position, setter)
                for position, setter in enumerate(self._ordered[place])
                if before >> position & 1 and self._setters[setter.id] == name
            ]
            if not setters:
                continue
            latest = setters[-1][1]
            for position, setter in setters[:-1]:
                if not self._before[latest.id] >> position & 1:
                    return setter.id, latest.id
            if latest.id in self._certain:
                return None
        return None

    def elsewhere(self, name: str) -> list[StageId]:
        """Every setter of a variable, wherever it stands."""
        return [stage for stage, set_ in self._setters.items() if set_ == name]

    @property
    def names(self) -> list[str]:
        """Every variable."""
        return list(dict.fromkeys(self._setters.values()))


def _check_reads(work: Work, draft: Draft, sight: _Sight | None) -> None:
    for use in draft.uses:
        if use.root != "context" or not use.path or use.path[0] in CONTEXT:
            continue
        name = use.path[0]
        if not isinstance(name, str):
            work.fault(draft, use.pointer, "context is an object, not a list")
            continue
        setters = draft.variables.get(name)
        if setters is None:
            if not use.optional or not _may_be_set(work, name, sight):
                _tell_unset(work, draft, name, use.pointer, sight)
            continue
        assert sight is not None
        pair = sight.unordered(draft, name)
        if pair is not None:
            reason = f"context.{name} is set by {pair[0]} and by {pair[1]}, and nothing says which comes last"
            reason = f"{reason}; let one depend on the other"
            work.fault(draft, use.pointer, reason, rests=Known.EDGES)
        for setter in setters:
            top, _ = meet(draft, work.by_id[setter])
            for reader in climb(draft, top):
                reader.reads[setter] = None


def _may_be_set(work: Work, name: str, sight: _Sight | None) -> bool:
    """Whether `default(context.<name>, …)` makes sense: some stage may set it, or who calls this pipeline.

    What is nearly the name of a variable of this pipeline is a slip.
    """
    if sight is not None and sight.elsewhere(name):
        return True
    known = [*sorted(CONTEXT), *(sight.names if sight is not None else ())]
    return name not in (work.pipeline.variables or {}) and close_to(name, known) is None


def _tell_unset(work: Work, draft: Draft, name: str, pointer: str, sight: _Sight | None) -> None:
    known = [*sorted(CONTEXT), *(sight.names if sight is not None else ())]
    others = sight.elsewhere(name) if sight is not None else []
    if others:
        where = work.by_id[others[0]]
        inside = where.place.owner
        reason = f"context.{name} is set by {some(others)}, which does not come before {draft.id}"
        if inside is not None and inside not in [place.owner for place in draft.place.around()]:
            reason = f"context.{name} is set by {some(others)} in the body of {inside.id}, and is known only there"
        work.fault(draft, pointer, reason, rests=Known.EDGES)
    elif name in (work.pipeline.variables or {}):
        reason = f"context.{name}: the pipeline's own variables are not supported yet; set it by a variable_set stage"
        work.fault(draft, pointer, reason, code=Code.NOT_SUPPORTED)
    elif name in _OF_LOOPS:
        work.fault(draft, pointer, f"context.{name} {_OF_LOOPS[name]}", rests=work.unplaced(draft))
    else:
        reason = f"context.{name} is not known: no stage sets it (a caller's is read as default(context.{name}, …))"
        near = close_to(str(name), known)
        rests = Known.SETTERS if near is None else None
        if near is None and Known.BODIES in work.faults.open and draft.place is work.root:
            rests = Known.BODIES  # a loop variable
        work.fault(draft, pointer, reason, nearest=near, rests=rests)
