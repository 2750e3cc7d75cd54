"""Breakpoints as people write them: which stages they name, and whether their expressions can be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from flowmason.debug.catching import FILTERS
from flowmason.errors import Code, ExpressionError, Fault, RefusedError, did_you_mean
from flowmason.event import Breakpoint, DebugChanged
from flowmason.expressions import Names, Template, parse_condition
from flowmason.ids import StageId, StagePath, format_path, parse_path
from flowmason.plan import LOOP_TOTAL, ForeachBody, Plan, Stage, SubPipelineBody
from flowmason.state import StageState

HIT_NAMES = Names(variables=frozenset({"hits"}))


def matches(point: Breakpoint, stage: StageState) -> bool:
    """Whether a breakpoint lies on a stage: by its id, by the ids down to it, or by its very path."""
    wanted = point.stage
    if wanted == stage.stage.id:
        return True
    if not wanted.endswith(stage.stage.id):
        return False
    return wanted in (format_path(_plain(stage.path)), format_path(stage.path))


def _plain(path: StagePath) -> StagePath:
    """A path without positions of items and rounds of trycatches."""
    return tuple(part for part in path if isinstance(part, str) and "~" not in part)


def last_id(point: Breakpoint) -> str:
    """The id of the stage that a breakpoint lies on."""
    return point.stage.rpartition(".")[2]


@lru_cache(maxsize=256)
def hit_template(source: str) -> Template:
    """A hit condition as an expression over `hits`; a bare number means that time alone. Raises `ExpressionError`."""
    text = source.strip()
    return parse_condition(f"hits == {text}" if text.isdecimal() else text, HIT_NAMES)


def names_at(plan: Plan, stage: Stage | None, around: Iterable[str] = ()) -> Names:
    """What an expression may name at a stage of `plan`; `around`: loop variables known otherwise."""
    variables = set(around)
    if stage is not None:
        for owner in plan.ancestors[stage.id]:
            body = plan.stages[owner].body
            if isinstance(body, ForeachBody):
                variables |= {body.item_variable, body.index_variable, LOOP_TOTAL}
    return Names(stages=frozenset(plan.stages), variables=frozenset(variables))


def read_changes(arguments: Mapping[str, Any]) -> DebugChanged:
    """The arguments of the command `breakpoints`, as an event: `breakpoints`, `exceptions`.

    A breakpoint is an object with `stage`, `condition` and `hit_condition`, or the text `STAGE[:condition]`. Raises
    `RefusedError` for what cannot be read.
    """
    faults: list[Fault] = []
    points: list[Breakpoint] = []
    for index, given in enumerate(_list(arguments, "breakpoints", faults)):
        where = f"$.breakpoints[{index}]"
        point = _point(given, where, faults)
        if point is None:
            continue
        if any(point.stage == other.stage for other in points):
            faults.append(Fault(f"there are two breakpoints on {point.stage!r}", f"{where}.stage"))
        _parsed(point, where, faults)
        points.append(point)
    exceptions = _list(arguments, "exceptions", faults)
    for index, name in enumerate(exceptions):
        if name not in FILTERS:
            near = did_you_mean(str(name), FILTERS)
            reason = f"{name!r} is none of {', '.join(FILTERS)}"
            faults.append(Fault(reason, f"$.exceptions[{index}]", nearest=near))
    if faults:
        raise RefusedError(faults, code=Code.USAGE)
    return DebugChanged(
        breakpoints=tuple(points),
        exceptions=tuple(dict.fromkeys(exceptions)),
        stop_on_entry=bool(arguments.get("stop_on_entry")),
    )


def check(event: DebugChanged, plan: Plan, plans: Iterable[Plan] = ()) -> None:
    """Refuse breakpoints on stages that no pipeline of the run has. Raises `RefusedError` with the nearest right names.

    A run whose sub-pipelines are named by templates may meet stages that are not known yet; there anything goes.
    """
    known = [plan, *plan.plans.values(), *plans]
    if any(_named_later(each) for each in known):
        return
    ids = {stage for each in known for stage in each.stages}
    faults = []
    for index, point in enumerate(event.breakpoints):
        if last_id(point) not in ids:
            near = did_you_mean(point.stage, sorted(ids))
            faults.append(Fault(f"there is no stage {point.stage!r}", f"$.breakpoints[{index}].stage", nearest=near))
        elif point.condition:
            faults += _unreadable(point, f"$.breakpoints[{index}].condition", known)
    if faults:
        raise RefusedError(faults, code=Code.USAGE)


def _named_later(plan: Plan) -> bool:
    return any(isinstance(stage.body, SubPipelineBody) and stage.body.plan is None for stage in plan.stages.values())


def _unreadable(point: Breakpoint, where: str, known: Iterable[Plan]) -> list[Fault]:
    """Why a condition makes no sense at any stage of that id."""
    found: list[Fault] = []
    for plan in known:
        stage = plan.stages.get(StageId(last_id(point)))
        if stage is None:
            continue
        try:
            parse_condition(point.condition, names_at(plan, stage))
            return []
        except ExpressionError as error:
            found.append(_fault(error, where))
    return found[:1]


def _list(arguments: Mapping[str, Any], key: str, faults: list[Fault]) -> list[Any]:
    found = arguments.get(key) or []
    if not isinstance(found, list | tuple):
        faults.append(Fault("expected a list", f"$.{key}"))
        return []
    return list(found)


def _point(given: Any, where: str, faults: list[Fault]) -> Breakpoint | None:
    if isinstance(given, str):
        stage, _, condition = given.partition(":")
        given = {"stage": stage.strip(), "condition": condition.strip()}
    if not isinstance(given, Mapping):
        faults.append(Fault("a breakpoint is an object or a text", where))
        return None
    for key in given:
        if key not in Breakpoint.__struct_fields__:
            near = did_you_mean(str(key), Breakpoint.__struct_fields__)
            faults.append(Fault(f"unknown field {key!r}", where, nearest=near))
            return None
    try:
        point = msgspec.convert(dict(given), Breakpoint)
    except msgspec.ValidationError as error:
        faults.append(Fault(str(error), where))
        return None
    try:
        path = parse_path(point.stage)
    except ValueError:
        path = ()
    if not path or not isinstance(path[-1], str):
        faults.append(Fault(f"{point.stage!r} names no stage", f"{where}.stage"))
        return None
    return point


def _parsed(point: Breakpoint, where: str, faults: list[Fault]) -> None:
    if point.hit_condition:
        try:
            hit_template(point.hit_condition)
        except ExpressionError as error:
            faults.append(_fault(error, f"{where}.hit_condition"))


def _fault(error: ExpressionError, where: str) -> Fault:
    details = error.failure.details or {}
    return Fault(error.failure.message, where, nearest=details.get("nearest"), code=Code.EXPRESSION)
