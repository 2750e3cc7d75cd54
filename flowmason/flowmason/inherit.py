"""Inheritance and compositions, resolved by one pure function: `extends`, `overrides`, `abstract`, `compositions`.

`resolve` gives the pipeline that is compiled: it extends nothing, overrides nothing and composes nothing.
`trace` gives beside it where each stage comes from, so that a fault found later is placed in the file at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from flowmason.errors import Code, Fault, RefusedError, did_you_mean
from flowmason.pipeline import (
    ABSTRACT,
    Composition,
    Gaps,
    Path,
    Pipeline,
    Stage,
    canonical_inputs,
    dump_stage,
    format_pointer,
    parse_pointer,
    parse_stage,
)

Find = Callable[[str], Pipeline]
"""Gives the pipeline of a reference (`name` or `name@version`), or raises `LookupError`."""

MAX_CHAIN = 20
"""So many pipelines may extend one another."""


class Origin(NamedTuple):
    """Where a stage of the resolved pipeline was written."""

    pipeline: str
    """Name of the pipeline that wrote it."""
    path: Path
    """Its place in that pipeline's file."""
    composition: bool = False
    override: dict[str, Any] | None = None
    """What the pipeline at hand changes of an inherited stage."""


class Resolved(NamedTuple):
    """A resolved pipeline, and where its stages come from."""

    pipeline: Pipeline
    name: str
    """Of the pipeline at hand: the one whose file faults are placed in."""
    origins: dict[str, Origin]

    def relocate(self, fault: Fault) -> Fault:
        """A fault of the resolved pipeline as a fault of the file at hand.

        What was inherited unchanged is placed at `$.extends`, and the reason names the pipeline and the place in it.
        """
        try:
            path = parse_pointer(fault.pointer or "$")
        except ValueError:
            return fault
        if len(path) < 2 or path[0] != "stages" or not isinstance(path[1], int):
            return fault
        if path[1] >= len(self.pipeline.stages):
            return fault
        stage = self.pipeline.stages[path[1]].id
        origin, rest = self.origins[stage], path[2:]
        if origin.override is not None and _leads(origin.override, rest):
            return msgspec.structs.replace(fault, pointer=format_pointer(("overrides", stage, *rest)))
        place = format_pointer(origin.path + (_composed(rest) if origin.composition else rest))
        if origin.pipeline == self.name:
            return msgspec.structs.replace(fault, pointer=place)
        reason = f"{fault.reason} (inherited from {origin.pipeline!r}, {place})"
        return msgspec.structs.replace(fault, pointer="$.extends", reason=reason)


def resolve(pipeline: Pipeline, find: Find) -> Pipeline:
    """The pipeline with everything it inherits and composes written out.

    Raises `RefusedError`: an unknown or circular `extends`, an override of a stage that is not inherited, an abstract
    stage left in a pipeline that is not abstract.
    """
    return trace(pipeline, find).pipeline


def chain(pipeline: Pipeline, find: Find) -> tuple[Pipeline, ...]:
    """The pipeline and what it extends, nearest first. Raises `RefusedError` for an unknown or circular `extends`."""
    found = [pipeline]
    seen = {pipeline.reference: 0}
    while found[-1].extends is not None:
        wanted = found[-1].extends
        behind = "" if len(found) == 1 else f" (extended by {found[-1].name!r})"
        try:
            parent = find(wanted)
        except LookupError:
            reason = f"there is no pipeline {wanted!r} to extend{behind}"
            raise RefusedError([Fault(reason, "$.extends", code=Code.PIPELINE_NOT_FOUND)]) from None
        if parent.reference in seen:
            ring = [*found[seen[parent.reference] :], parent]
            names = " → ".join(each.name for each in ring)
            raise RefusedError([Fault(f"pipelines extend one another in a ring: {names}", "$.extends")])
        seen[parent.reference] = len(found)
        found.append(parent)
        if len(found) > MAX_CHAIN:
            raise RefusedError([Fault(f"more than {MAX_CHAIN} pipelines extend one another", "$.extends")])
    return tuple(found)


def trace(pipeline: Pipeline, find: Find) -> Resolved:
    """Like `resolve`, with the origin of each stage."""
    faults: list[Fault] = []
    found = merge(pipeline, find, Gaps(), faults)
    if faults:
        raise RefusedError(faults)
    return found


def merge(pipeline: Pipeline, find: Find, gaps: Gaps, faults: list[Fault]) -> Resolved:
    """Like `trace`, but goes on with what there is: faults are added to `faults`, what they leave open to `gaps`."""
    known = "extends" not in gaps.keys
    try:
        ancestry = chain(pipeline, find)
    except RefusedError as error:
        faults.extend(error.faults)
        gaps.lose_stages()
        ancestry, known = (pipeline,), False
    merged: Pipeline | None = None
    origins: dict[str, Origin] = {}
    for current in reversed(ancestry):
        found: list[Fault] = []
        if current is pipeline and not known:
            current = msgspec.structs.replace(current, extends=None, overrides={})
        merged = _merge(merged, current, origins, found, gaps)
        if current.name == pipeline.name:
            faults.extend(found)
        else:
            faults.extend(_of_ancestor(fault, current.name) for fault in found)
    assert merged is not None
    merged = _expand(merged, faults)
    if not merged.abstract:
        for index, stage in enumerate(merged.stages):
            if stage.component == ABSTRACT and "component_type" not in gaps.stages.get(stage.id, ()):
                reason = f"the stage {stage.id!r} is abstract; give it a component, or make the pipeline abstract"
                fault = Fault(reason, format_pointer(("stages", index, "component_type")))
                faults.append(Resolved(merged, pipeline.name, origins).relocate(fault))
    return Resolved(merged, pipeline.name, origins)


def _merge(
    parent: Pipeline | None, child: Pipeline, origins: dict[str, Origin], faults: list[Fault], gaps: Gaps
) -> Pipeline:
    """`child` over `parent`; `origins` is brought up to date."""
    own: dict[str, Origin] = {
        stage.id: Origin(child.name, ("stages", index)) for index, stage in enumerate(child.stages)
    }
    own |= {
        part.id: Origin(child.name, ("compositions", index), composition=True)
        for index, part in enumerate(child.compositions)
    }
    if parent is None:
        for name in child.overrides:
            reason = f"there is nothing to override: the pipeline extends no other, so stage {name!r} is not inherited"
            faults.append(Fault(reason, format_pointer(("overrides", name))))
        origins.update(own)
        return msgspec.structs.replace(child, overrides={})
    stages = _merge_stages(parent, child, origins, faults, gaps)
    compositions = {part.id: part for part in parent.compositions}
    for index, part in enumerate(child.compositions):
        if any(stage.id == part.id for stage in parent.stages):
            reason = f"the id {part.id!r} is taken by an inherited stage"
            faults.append(Fault(reason, format_pointer(("compositions", index, "id"))))
        compositions[part.id] = part
    origins.update(own)
    inherited: dict[str, Any] = {
        key: getattr(parent, key)
        for key in _INHERITED
        if getattr(child, key) in (None, "") and getattr(parent, key) not in (None, "")
    }
    return msgspec.structs.replace(
        child,
        **inherited,
        extends=None,
        overrides={},
        tags=tuple(dict.fromkeys((*parent.tags, *child.tags))),
        stages=stages,
        compositions=tuple(compositions.values()),
        input_schema=_merge_schemas(parent.input_schema, child.input_schema),
        output_schema=_merge_schemas(parent.output_schema, child.output_schema),
        variables=_both(parent.variables, child.variables),
        extra={**parent.extra, **child.extra},
        extensions={**parent.extensions, **child.extensions},
    )


_INHERITED = (
    "description",
    "category",
    "output_stage_id",
    "sample_input",
    "max_concurrency",
    "budget",
    "output_config",
    "triggers",
    "schedule",
    "federation",
)
"""Keys that a pipeline takes from the one it extends where it does not set them itself."""


def _merge_stages(
    parent: Pipeline, child: Pipeline, origins: dict[str, Origin], faults: list[Fault], gaps: Gaps
) -> tuple[Stage, ...]:
    stages: dict[str, Stage] = {stage.id: stage for stage in parent.stages}
    composed = {part.id for part in parent.compositions}
    own = {stage.id: index for index, stage in enumerate(child.stages)}
    for name, override in child.overrides.items():
        path: Path = ("overrides", name)
        if name in own:
            reason = f"the stage {name!r} is both overridden and replaced by the stage of that id; do one of them"
            faults.append(Fault(reason, format_pointer(path)))
        elif name in composed:
            reason = f"{name!r} is a composition; write it again under 'compositions' to replace it"
            faults.append(Fault(reason, format_pointer(path)))
        elif name not in stages:
            reason = f"no stage {name!r} is inherited from {parent.name!r}"
            near = did_you_mean(name, list(stages))
            faults.append(Fault(reason, format_pointer(path), nearest=near))
            if near is not None:
                gaps.of(near).update(_OVERRIDDEN)
        else:
            stage = _override(stages[name], override, path, faults)
            if stage is not None:
                stages[name] = stage
                origins[name] = origins[name]._replace(override=override)
            else:
                gaps.of(name).update(_OVERRIDDEN)
    for name in stages.keys() - child.overrides.keys():
        origins[name] = origins[name]._replace(override=None)
    for index, stage in enumerate(child.stages):
        if stage.id in composed:
            reason = f"the id {stage.id!r} is taken by an inherited composition"
            faults.append(Fault(reason, format_pointer(("stages", index, "id"))))
        stages[stage.id] = stage
    return tuple(stages.values())


_OVERRIDDEN = ("component_type", "config", "depends_on")
"""What is not known of a stage whose override is refused."""


def _override(stage: Stage, override: dict[str, Any], path: Path, faults: list[Fault]) -> Stage | None:
    if override.get("id", stage.id) != stage.id:
        faults.append(Fault(f"an override cannot rename a stage: {stage.id!r}", format_pointer((*path, "id"))))
        return None
    component = override.get("component_type") or stage.component
    before = len(faults)
    changes = dict(override)
    for key in ("config", "input_mapping"):
        if isinstance(changes.get(key), dict):
            changes[key] = canonical_inputs(component, changes[key], (*path, key), faults)
    if len(faults) > before:
        return None
    written = dump_stage(stage)
    for key, value in changes.items():
        if value is None:
            written.pop(key, None)
        else:
            written[key] = _merge_values(written.get(key), value)
    return parse_stage(written, path, faults)


def _merge_values(old: Any, new: Any) -> Any:
    """Objects merge, all else is replaced. The depth is that of a document: bounded."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merge_values(old.get(key), value) for key, value in new.items()}}
    return new


def _merge_schemas(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    if not parent or not child:
        return child or parent
    merged = {**parent, **child}
    for key in ("properties", "$defs", "patternProperties"):
        if key in parent and key in child:
            merged[key] = {**parent[key], **child[key]}
    if "required" in parent and "required" in child:
        merged["required"] = list(dict.fromkeys((*parent["required"], *child["required"])))
    return merged


def _both(parent: dict[str, Any] | None, child: dict[str, Any] | None) -> dict[str, Any] | None:
    return {**parent, **child} if parent is not None and child is not None else (child if parent is None else parent)


def _expand(pipeline: Pipeline, faults: list[Fault]) -> Pipeline:
    """Compositions as stages at the end of the list, each a sub-pipeline."""
    if not pipeline.compositions:
        return pipeline
    stages = (*pipeline.stages, *(_as_stage(part) for part in pipeline.compositions))
    return msgspec.structs.replace(pipeline, stages=stages, compositions=())


def _as_stage(part: Composition) -> Stage:
    config: dict[str, Any] = {"pipeline_id": part.pipeline, "input_data": part.input_mapping}
    if part.output_mapping:
        config["output_mapping"] = part.output_mapping
    return Stage(
        id=part.id,
        component="subpipeline",
        depends_on=part.depends_on,
        config=config,
        extra=part.extra,
        extensions=part.extensions,
    )


_ABSENT: Any = object()
_COMPOSED = {"pipeline_id": "pipeline", "input_data": "input_mapping", "output_mapping": "output_mapping"}


def _composed(rest: Path) -> Path:
    """A path in a stage made of a composition, as a path in the composition."""
    if len(rest) >= 2 and rest[0] == "config" and rest[1] in _COMPOSED:
        return (_COMPOSED[str(rest[1])], *rest[2:])
    return rest


def _leads(value: Any, path: Path) -> bool:
    """Whether the whole of a non-empty `path` exists in an override, so that the override wrote what is there."""
    for part in path:
        found: Any = _ABSENT
        if isinstance(value, dict):
            found = value.get(part, _ABSENT)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            found = value[part]
        if found is _ABSENT:
            return False
        value = found
    return bool(path)


def _of_ancestor(fault: Fault, name: str) -> Fault:
    reason = f"{fault.reason} (in {name!r}, {fault.pointer})"
    return msgspec.structs.replace(fault, pointer="$.extends", reason=reason)
