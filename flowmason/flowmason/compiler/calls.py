"""What can be told of how one pipeline calls another before it runs: input, mapping, options that would do nothing."""

from __future__ import annotations

from typing import Any

from flowmason import control
from flowmason.compiler.draft import Draft
from flowmason.compiler.faults import below
from flowmason.compiler.fit import Fit, Misfit
from flowmason.compiler.shapes import Problem, Shape, follow
from flowmason.errors import StageError
from flowmason.expressions import Fields, Static


def literal(draft: Draft, name: str, default: Any = None) -> Any:
    """An option as it is written; `default` where it is not written or is a template."""
    template = draft.templates.get(name)
    return template.value if isinstance(template, Static) else default


def own_run(draft: Draft) -> bool:
    """Whether the sub-pipeline is said in so many words to be a run of its own."""
    return control.own_run({name: literal(draft, name) for name in ("async_execution", "wait_for_completion")})


def check_call(draft: Draft, fit: Fit) -> list[Misfit]:
    """What is wrong with how a stage calls another pipeline."""
    found = [*_idle(draft), *_mapping(draft)]
    if draft.plan is None:
        return found
    schema = draft.plan.input_schema
    given = draft.templates.get("input_data", Static({}))
    if schema and (isinstance(given, Fields) or (isinstance(given, Static) and isinstance(given.value, dict))):
        found += fit.check(given, Shape(schema, schema), draft.at("input_data"))
    return found


def _idle(draft: Draft) -> list[Misfit]:
    if not own_run(draft):
        return []
    reason = "has no effect on a sub-pipeline that is a run of its own: its stage does not wait for it"
    return [
        Misfit(draft.at(name), f"{name} {reason}")
        for name, usual in control.IDLE_IN_OWN_RUN.items()
        if name in draft.templates and literal(draft, name, ...) != usual
    ]


def _mapping(draft: Draft) -> list[Misfit]:
    mapping = literal(draft, "output_mapping")
    schema = draft.plan.output_schema if draft.plan is not None else {}
    if not isinstance(mapping, dict):
        return []
    found = []
    for target, path in mapping.items():
        if not isinstance(path, str):
            continue  # told as a wrong type
        pointer = below(draft.at("output_mapping"), target)
        try:
            steps = control.parse_dotted(path)
        except StageError as error:
            found.append(Misfit(pointer, error.failure.message))
            continue
        problem = _dead_end(schema, path, steps) if schema else None
        if problem is not None and draft.plan is not None:
            name = control.written(steps[: problem.depth]) if problem.depth else "the output"
            reason = f"the output of {draft.plan.name} has nothing at {path!r}: {name} {problem.reason}"
            found.append(Misfit(pointer, reason, problem.wrong, problem.known))
    return found


def _dead_end(schema: dict[str, Any], path: str, steps: tuple[str | int, ...]) -> Problem | None:
    shapes = (Shape(schema, schema),)
    # A key may hold dots, and a number after a dot may index a list.
    indexed = tuple(int(step) if isinstance(step, str) and step.isdecimal() else step for step in steps)
    found = [follow(shapes, each) for each in (steps, indexed, (path,))]
    problem = found[0]
    return problem if isinstance(problem, Problem) and all(isinstance(each, Problem) for each in found) else None
