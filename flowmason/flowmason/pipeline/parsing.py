"""From plain values to a `Pipeline`, with every fault; and back to the one written form."""

from __future__ import annotations

from typing import Any

import msgspec

from flowmason.errors import Code, Fault
from flowmason.pipeline.keys import PIPELINE, STAGE
from flowmason.pipeline.model import MAX_STAGES, LLMSettings, Pipeline, Stage
from flowmason.pipeline.pointers import Path, format_pointer
from flowmason.pipeline.shapes import INVALID, add_fault, listed
from flowmason.pipeline.spellings import canonical_inputs, snake


def parse_pipeline(value: Any, faults: list[Fault]) -> Pipeline | None:
    """The pipeline that `value` (plain JSON values) describes, or None with every fault added to `faults`.

    All documented spellings are read; the result holds one. Unknown stages in `depends_on` and the like are
    left to the compiler, which knows inherited stages too.
    """
    found: list[Fault] = []
    pipeline: Pipeline | None = None
    if isinstance(value, dict) and _too_many(value):
        add_fault(found, ("stages",), f"there are more than {MAX_STAGES:,} stages")
    else:
        read = PIPELINE.read(value, (), found)
        if isinstance(value, dict):
            stages = _stages(value, read, found)
            _unique_ids(value, found)
            if read is not INVALID:
                pipeline = msgspec.structs.replace(read, stages=stages)
    faults.extend(listed(found))
    return None if found else pipeline


def parse_stage(value: Any, path: Path, faults: list[Fault]) -> Stage | None:
    """One stage; faults are placed below `path`."""
    before = len(faults)
    read = STAGE.read(value, path, faults)
    if read is INVALID:
        return None
    stage = _canonical(read, path, faults)
    return stage if len(faults) == before else None


def dump_pipeline(pipeline: Pipeline) -> dict[str, Any]:
    """The canonical form: plain values, keys in a fixed order, nothing written that is not set."""
    written: dict[str, Any] = PIPELINE.write(pipeline)
    return written


def dump_stage(stage: Stage) -> dict[str, Any]:
    """The canonical form of one stage."""
    written: dict[str, Any] = STAGE.write(stage)
    return written


def unbuilt(pipeline: Pipeline) -> tuple[Fault, ...]:
    """Keys that would change a run, but whose features are not built: a run of this pipeline is refused by name."""
    found: list[Fault] = []

    def add(path: Path, what: str) -> None:
        reason = f"{what} is not built yet; a run cannot honour it"
        found.append(Fault(reason, format_pointer(path), code=Code.NOT_SUPPORTED))

    if pipeline.federation is not None and pipeline.federation.get("enabled"):
        add(("federation", "enabled"), "federation")
    for index, destination in enumerate((pipeline.output_config or {}).get("destinations") or ()):
        if destination.get("enabled") is not False:
            add(("output_config", "destinations", index), "delivery to a destination")
    switched_off = pipeline.federation is not None and pipeline.federation.get("enabled") is False
    for index, stage in enumerate(pipeline.stages):
        for key in ("condition", "skip_if", "skip_output", "component_package"):
            if getattr(stage, key) is not None:
                add(("stages", index, key), f"{key!r} of a stage")
        if stage.federation is not None and not switched_off:
            add(("stages", index, "federation"), "'federation' of a stage")
    return tuple(found)


def _too_many(value: dict[str, Any]) -> bool:
    lists = (value.get("stages"), value.get("compositions"))
    return sum(len(items) for items in lists if isinstance(items, list)) > MAX_STAGES


def _stages(value: dict[str, Any], read: Any, faults: list[Fault]) -> tuple[Stage, ...]:
    """The stages with canonical inputs. Where the file has other faults, those of the inputs are found too."""
    if read is not INVALID:
        return tuple(_canonical(stage, ("stages", index), faults) for index, stage in enumerate(read.stages))
    listed = value.get("stages")
    for index, item in enumerate(listed if isinstance(listed, list) else ()):
        if not isinstance(item, dict):
            continue
        component = next((item[key] for key in ("component_type", "component", "type") if key in item), None)
        for key in ("config", "input_mapping"):
            if isinstance(component, str) and isinstance(item.get(key), dict):
                canonical_inputs(snake(component), item[key], ("stages", index, key), faults)
    return ()


def _canonical(stage: Stage, path: Path, faults: list[Fault]) -> Stage:
    settings = stage.llm_settings or LLMSettings()
    if stage.provider is not None and settings.provider not in (None, stage.provider):
        reason = f"'provider' says {stage.provider!r}, but llm_settings.provider says {settings.provider!r}"
        add_fault(faults, (*path, "provider"), reason)
    config = canonical_inputs(stage.component, stage.config, (*path, "config"), faults)
    mapping = canonical_inputs(stage.component, stage.input_mapping, (*path, "input_mapping"), faults)
    if config is stage.config and mapping is stage.input_mapping:
        return stage
    return msgspec.structs.replace(stage, config=config, input_mapping=mapping)


def _unique_ids(value: dict[str, Any], faults: list[Fault]) -> None:
    first: dict[str, Path] = {}
    for key in ("stages", "compositions"):
        listed = value.get(key)
        for index, item in enumerate(listed if isinstance(listed, list) else ()):
            name = item.get("id") if isinstance(item, dict) else None
            if not isinstance(name, str):
                continue
            if name in first:
                reason = f"the id {name!r} is taken by {format_pointer(first[name])}"
                add_fault(faults, (key, index, "id"), reason)
            else:
                first[name] = (key, index)


__all__ = ["dump_pipeline", "dump_stage", "parse_pipeline", "parse_stage", "unbuilt"]
