"""Checks that need the whole graph: inputs against the components' schemas, the output, settings that cannot work."""

from __future__ import annotations

from flowmason.compiler.calls import check_call
from flowmason.compiler.draft import Draft, Work
from flowmason.compiler.faults import close_to, some
from flowmason.compiler.fit import Fit, Misfit
from flowmason.compiler.outputs import Outputs
from flowmason.compiler.prompts import check_variables
from flowmason.compiler.shapes import OPEN, Problem, Shape
from flowmason.errors import Code
from flowmason.expressions import Path
from flowmason.plan import Kind

CONTROL = frozenset({Kind.CONDITIONAL, Kind.ROUTER, Kind.FOREACH, Kind.TRYCATCH, Kind.SUBPIPELINE, Kind.RETURN})
_STEERING = frozenset(
    {
        *("true_branch_stages", "false_branch_stages", "routes", "default_route"),
        *("loop_stages", "try_stages", "catch_stages", "finally_stages", "item_variable", "index_variable"),
    }
)
"""Inputs that `bodies` has read and judged."""


def check_stage(work: Work, draft: Draft, outputs: Outputs) -> None:
    """Tell of everything in a stage that its component cannot take."""
    outputs.check(draft)
    if draft.spec is None:
        return
    _settings(work, draft)

    def look(path: Path) -> tuple[Shape, ...]:
        found = outputs.find(draft, path.root, path.path)
        return OPEN if isinstance(found, Problem) else found

    check_variables(work, draft, look)
    fit = Fit(look)
    schema = draft.spec.input_schema
    declared = schema.get("properties") or {}
    slips: set[str | None] = set()
    for name, template in draft.templates.items():
        if name in declared:
            if name not in _STEERING and name not in draft.refused:
                _tell(work, draft, fit.check(template, Shape(declared[name], schema), draft.pointers[name]))
        elif not draft.spec.input_open:
            reason = f"{draft.spec.name} has no input {name!r}; it takes {some(declared, 16)}"
            near = close_to(name, declared)
            slips.add(near)
            work.fault(draft, draft.pointers[name], reason, nearest=near)
    for name in schema.get("required") or ():
        if name not in draft.templates and name not in slips | draft.refused and not draft.unread:
            work.fault(draft, draft.pointer, f"the input {name!r} of {draft.spec.name} is missing")
    if draft.kind is Kind.SUBPIPELINE:
        _tell(work, draft, check_call(draft, Fit(look, lax=False)))


def _tell(work: Work, draft: Draft, misfits: list[Misfit]) -> None:
    for misfit in misfits:
        if misfit.pointer in draft.broken:
            continue  # the expression there is told of already
        work.fault(draft, misfit.pointer, misfit.reason, wrong=misfit.wrong, known=misfit.known)


def _settings(work: Work, draft: Draft) -> None:
    if draft.kind not in CONTROL:
        return
    retry = draft.source.retry_config
    if retry is not None and retry.max_retries:
        reason = "a control-flow stage is not retried as a whole; put it in a trycatch with max_retries"
        work.fault(draft, f"{draft.pointer}.retry_config", reason, code=Code.NOT_SUPPORTED)
    if draft.source.resources:
        reason = "a control-flow stage runs nothing itself; give resources to the stages that do"
        work.fault(draft, f"{draft.pointer}.resources", reason, code=Code.NOT_SUPPORTED)


def check_output(work: Work) -> None:
    """Check `output_stage_id`."""
    name = work.pipeline.output_stage_id
    if name is None:
        return
    draft = work.by_id.get(name)
    if draft is None:
        reason = f"output_stage_id names {name!r}, which is no stage"
        work.faults.add("$.output_stage_id", reason, wrong=name, known=work.by_id, missing=name)
    elif draft.place is not work.root:
        owner = draft.place.owner
        assert owner is not None
        reason = f"output_stage_id names {name!r}, which stands in the body of {owner.id}"
        work.faults.add("$.output_stage_id", reason, nearest=owner.id)
