"""What is well-formed of a pipeline that is not: so that the later checks find their faults in the same go."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flowmason.errors import Fault, did_you_mean
from flowmason.ids import StageId
from flowmason.pipeline.keys import COMPOSITION, PIPELINE, STAGE
from flowmason.pipeline.model import Composition, Pipeline, Stage
from flowmason.pipeline.parsing import parse_pipeline
from flowmason.pipeline.pointers import Path, format_pointer
from flowmason.pipeline.shapes import FAULT_LIMIT, INVALID, Record
from flowmason.pipeline.spellings import ID_PATTERN, canonical_inputs

_UNREAD = ""
"""As the component of a stage or the pipeline of a composition: what is written there could not be read."""
_ID = re.compile(ID_PATTERN)


@dataclass(slots=True)
class Gaps:
    """What could not be read of a pipeline. Its faults are told; no check may rest on it."""

    nameless: float = 0
    """So many stages have no id that could be used; infinite where whole lists of stages are not known."""
    lost: bool = False
    """Some stages are not known at all."""
    keys: set[str] = field(default_factory=set)
    """Keys of the pipeline."""
    stages: dict[str, set[str]] = field(default_factory=dict)
    """Stage → keys of it, and single inputs as `config.<name>`."""

    def lose_stages(self) -> None:
        """Stages are missing, nobody knows which."""
        self.nameless, self.lost = math.inf, True

    def of(self, stage: str) -> set[str]:
        """The gaps of one stage, to be added to."""
        return self.stages.setdefault(stage, set())


class Sketch(NamedTuple):
    """A pipeline as far as it could be read."""

    pipeline: Pipeline | None
    """None: nothing could, or there are more faults than are told."""
    gaps: Gaps
    faults: tuple[Fault, ...]
    """Of the shape; none where the pipeline is whole."""


def sketch_pipeline(value: Any) -> Sketch:
    """What `parse_pipeline` finds, and where that refuses, the parts that it could read.

    A stage without an id that could be used is called by its place, `stages[3]`, which no reference can name.
    """
    faults: list[Fault] = []
    pipeline = parse_pipeline(value, faults)
    if pipeline is not None or not isinstance(value, dict) or len(faults) > FAULT_LIMIT:
        return Sketch(pipeline, Gaps(), tuple(faults))
    gaps = Gaps()
    if "stages" not in value and did_you_mean("stages", [key for key in value if key not in PIPELINE.spellings]):
        gaps.lose_stages()
    fields = _fields(PIPELINE, value, gaps.keys)
    taken: set[str] = set()
    if "extends" in gaps.keys or gaps.keys & {"stages", "compositions"}:
        gaps.lose_stages()
    for key, sketched in (("stages", _stage), ("compositions", _composition)):
        listed = value.get(key)
        if not isinstance(listed, list):
            continue
        fields[key] = tuple(sketched(item, (key, index), gaps, taken) for index, item in enumerate(listed))
    fields["overrides"] = _overrides(value.get("overrides"), gaps)
    fields.setdefault("name", "this pipeline")
    return Sketch(Pipeline(**fields), gaps, tuple(faults))


def _meant(record: Record, spelling: str) -> str | None:
    """The key that an unknown one is a slip of."""
    near = did_you_mean(spelling, list(record.spellings)) if len(spelling) <= 64 else None
    return record.spellings[near][0] if near is not None else None


def _fields(record: Record, value: dict[str, Any], broken: set[str]) -> dict[str, Any]:
    """Attribute → what was read; the keys that could not be are added to `broken`, a slip as the key it is near."""
    read = record.fields(value, (), [], partial=True)
    for spelling in value:
        if spelling not in record.spellings and not spelling.startswith("x-"):
            broken.update(filter(None, [_meant(record, spelling)]))
    names = {key.attribute or name: name for name, key in record.keys.items()}
    broken.update(names[attribute] for attribute, found in read.items() if found is INVALID)
    return {attribute: found for attribute, found in read.items() if found is not INVALID}


def _object(item: Any, broken: set[str], gaps: Gaps) -> dict[str, Any]:
    """The item; for what is no object an empty one, so that those after it keep their places."""
    if isinstance(item, dict):
        return item
    gaps.lost = True
    broken.update(("config", "depends_on"))
    return {}


def _named(fields: dict[str, Any], path: Path, gaps: Gaps, taken: set[str]) -> StageId:
    found = fields.get("id")
    if found is None or found in taken:
        gaps.nameless += 1
        return StageId(format_pointer(path).removeprefix("$."))
    taken.add(found)
    return StageId(found)


def _stage(item: Any, path: Path, gaps: Gaps, taken: set[str]) -> Stage:
    broken: set[str] = set()
    item = _object(item, broken, gaps)
    fields = _fields(STAGE, item, broken)
    name = fields["id"] = _named(fields, path, gaps, taken)
    if "component" not in fields:
        broken.add("component_type")
        fields["component"] = _UNREAD
    if "depends_on" in broken:
        fields["depends_on"] = tuple(dict.fromkeys(_ids(item.get("depends_on"))))
    for key in ("config", "input_mapping"):
        if key in fields:
            fields[key] = _inputs(fields["component"], fields[key], key, broken)
    if broken:
        gaps.of(name).update(broken)
    return Stage(**fields)


def _inputs(component: str, given: dict[str, Any], key: str, broken: set[str]) -> dict[str, Any]:
    """The inputs in one spelling, without those that could not be read."""
    read = canonical_inputs(component, given, (), [])
    broken.update(f"{key}.{name}" for name, value in read.items() if value is INVALID)
    return {name: value for name, value in read.items() if value is not INVALID}


def _ids(value: Any) -> list[StageId]:
    return (
        [StageId(item) for item in value if isinstance(item, str) and _ID.fullmatch(item)]
        if isinstance(value, list)
        else []
    )


def _composition(item: Any, path: Path, gaps: Gaps, taken: set[str]) -> Composition:
    broken: set[str] = set()
    item = _object(item, broken, gaps)
    fields = _fields(COMPOSITION, item, broken)
    name = fields["id"] = _named(fields, path, gaps, taken)
    if "pipeline" not in fields:
        broken.add("pipeline")
        fields["pipeline"] = _UNREAD
    inputs = {
        "pipeline": "config.pipeline_id",
        "input_mapping": "config.input_data",
        "output_mapping": "config.output_mapping",
    }
    if broken:
        gaps.of(name).update(inputs.get(key, key) for key in broken)
    return Composition(**fields)


def _overrides(value: Any, gaps: Gaps) -> dict[str, dict[str, Any]]:
    """The overrides without the keys that could not be read."""
    shape: Any = PIPELINE.keys["overrides"].shape
    found: dict[str, dict[str, Any]] = {}
    for name, changes in value.items() if isinstance(value, dict) else ():
        read = shape.item.read(changes, (), [])
        if read is not INVALID:
            found[name] = read
            continue
        gaps.of(name).update(("component_type", "config", "depends_on"))
    return found


__all__ = ["Gaps", "Sketch", "sketch_pipeline"]
