"""From the stages of a file to drafts: which component each runs, and what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowmason.compiler.draft import Draft, Work
from flowmason.compiler.faults import LAST, below, close_to
from flowmason.compiler.prompts import read_prompts
from flowmason.component import ComponentSpec, snake
from flowmason.errors import Code, FlowMasonError
from flowmason.plan import Kind

if TYPE_CHECKING:
    from flowmason.pipeline import Stage as Source

_ABSTRACT = "abstract"


def read_stages(work: Work) -> None:
    """Make a draft of every stage; tell of unknown components and of what is not built yet."""
    check_pipeline(work)
    for index, source in enumerate(work.pipeline.stages):
        if source.id in work.by_id:
            pointer = f"$.stages[{index}].id"
            work.faults.add(pointer, f"the id {source.id!r} is used by another stage too", stage=index)
            continue
        draft = _draft(work, index, source)
        work.drafts.append(draft)
        work.by_id[draft.id] = draft


def check_pipeline(work: Work) -> None:
    """Tell of what makes a whole pipeline impossible to run."""
    from flowmason.pipeline import unbuilt

    pipeline = work.pipeline
    if pipeline.abstract:
        work.faults.add(
            "$.abstract", f"{pipeline.name} is abstract: run a pipeline that extends it", code=Code.NOT_SUPPORTED
        )
    for key, left in (("extends", pipeline.extends), ("compositions", pipeline.compositions)):
        if left:
            work.faults.add(f"$.{key}", f"{key} must have been resolved before a pipeline is compiled")
    if not pipeline.stages and not pipeline.abstract:
        work.faults.add("$.stages", "the pipeline has no stages")
    for fault in unbuilt(pipeline):
        work.faults.take(fault, stage=_stage_of(fault.pointer))


def _stage_of(pointer: str) -> int:
    head, _, rest = pointer.partition("[")
    number = rest.partition("]")[0]
    return int(number) if head == "$.stages" and number.isdigit() else LAST


def _draft(work: Work, index: int, source: Source) -> Draft:
    spec = _component(work, index, source.component)
    written = source.inputs
    pointers = {name: below(f"$.stages[{index}].{source.input_key(name)}", name) for name in written}
    draft = Draft(index, source, source.id, spec, _kind(spec), written, pointers, work.root)
    read_prompts(work, draft)
    return draft


def _component(work: Work, index: int, name: str) -> ComponentSpec | None:
    pointer = f"$.stages[{index}].component_type"
    if name == _ABSTRACT:
        reason = "an abstract stage must be overridden before the pipeline can run"
        work.faults.add(pointer, reason, stage=index, code=Code.NOT_SUPPORTED)
        return None
    try:
        spec = work.specs.get(snake(name))
    except FlowMasonError as error:
        work.faults.add(pointer, f"component {name!r}: {error.failure.message}", stage=index, code=error.failure.code)
        return None
    if spec is None:
        near = close_to(snake(name), work.specs)
        like = work.specs.get(near) if near else None
        reason = f"there is no component {name!r}" + (
            f"; {near} is of the kind {like.kind.replace('_', ' ')}" if like else ""
        )
        work.faults.add(pointer, reason, stage=index, nearest=near, code=Code.COMPONENT_MISSING)
    return spec


def _kind(spec: ComponentSpec | None) -> Kind | None:
    if spec is None:
        return None
    return Kind(spec.control_flow_type or spec.kind)
