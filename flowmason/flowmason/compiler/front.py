"""From the stages of a file to drafts: which component each runs, and what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowmason.compiler.draft import BODIES, Draft, Work
from flowmason.compiler.faults import LAST, Known, below, close_to
from flowmason.compiler.prompts import read_prompts
from flowmason.component import ComponentSpec, snake
from flowmason.errors import Code, FlowMasonError
from flowmason.plan import Kind

if TYPE_CHECKING:
    from flowmason.pipeline import Gaps
    from flowmason.pipeline import Stage as Source

UNREAD = ""
"""The component of a stage of which it could not be read; `pipeline.sketching` puts it there."""
SETTER = "variable_set"
_ABSTRACT = "abstract"


def read_stages(work: Work) -> None:
    """Make a draft of every stage; tell of unknown components and of what is not built yet."""
    check_pipeline(work)
    if work.gaps is not None and work.gaps.lost:
        work.leave_open(*Known)
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
    if not pipeline.stages and not pipeline.abstract and (work.gaps is None or not work.gaps.lost):
        work.faults.add("$.stages", "the pipeline has no stages")
    for fault in unbuilt(pipeline):
        work.faults.take(fault, stage=_stage_of(fault.pointer))


def _stage_of(pointer: str) -> int:
    head, _, rest = pointer.partition("[")
    number = rest.partition("]")[0]
    return int(number) if head == "$.stages" and number.isdigit() else LAST


def _draft(work: Work, index: int, source: Source) -> Draft:
    spec, like = _component(work, index, source.component)
    written = source.inputs
    pointers = {name: below(f"$.stages[{index}].{source.input_key(name)}", name) for name in written}
    kind = _kind(spec) or _likely(like, written)
    draft = Draft(index, source, source.id, spec, kind, like, written, pointers, work.root)
    if spec is None and (like.name == SETTER if like is not None else "name" in written):
        work.leave_open(Known.SETTERS)
    if work.gaps is not None:
        _note_gaps(work, draft, work.gaps)
    read_prompts(work, draft)
    return draft


def _note_gaps(work: Work, draft: Draft, gaps: Gaps) -> None:
    """What could not be read of a stage: no check may miss it."""
    broken = gaps.stages.get(draft.id, set())
    draft.unread = not broken.isdisjoint(("config", "input_mapping"))
    draft.refused |= {key.partition(".")[2] for key in broken if "." in key}
    if draft.unread or draft.refused or "depends_on" in broken:
        work.leave_open(Known.EDGES)
    if draft.unread and (draft.spec is None or draft.spec.name == SETTER):
        work.leave_open(Known.SETTERS)


def _component(work: Work, index: int, name: str) -> tuple[ComponentSpec | None, ComponentSpec | None]:
    """The component of a stage, and where there is none, which may be meant; None where that was told already."""
    pointer = f"$.stages[{index}].component_type"
    broken = work.gaps.stages.get(work.pipeline.stages[index].id, ()) if work.gaps is not None else ()
    if name == UNREAD or (name == _ABSTRACT and "component_type" in broken):
        return None, None
    if name == _ABSTRACT:
        reason = "an abstract stage must be overridden before the pipeline can run"
        work.faults.add(pointer, reason, stage=index, code=Code.NOT_SUPPORTED)
        return None, None
    try:
        spec = work.specs.get(snake(name))
    except FlowMasonError as error:
        work.faults.add(pointer, f"component {name!r}: {error.failure.message}", stage=index, code=error.failure.code)
        return None, None
    like = None
    if spec is None:
        near = close_to(snake(name), work.specs)
        like = work.specs.get(near) if near else None
        reason = f"there is no component {name!r}" + (
            f"; {near} is of the kind {like.kind.replace('_', ' ')}" if like else ""
        )
        work.faults.add(pointer, reason, stage=index, nearest=near, code=Code.COMPONENT_MISSING)
    return spec, like


def _likely(like: ComponentSpec | None, inputs: dict[str, Any]) -> Kind | None:
    """What a stage with an unknown component steers, going by the nearest name, or else by the bodies that it lists."""
    if like is not None:
        return _kind(like)
    return next((kind for kind, lists in BODIES.items() if not lists.keys().isdisjoint(inputs)), None)


def _kind(spec: ComponentSpec | None) -> Kind | None:
    if spec is None:
        return None
    return Kind(spec.control_flow_type or spec.kind)
