"""Mending what can be mended in a pipeline without knowing what its author wanted. Pure."""

from __future__ import annotations

import copy
from typing import Any

from flowmason.pipeline import STAGE_LISTS
from flowmason.pipeline.spellings import CONTROL_SPELLINGS, snake


def fix_document(document: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The document with references to stages that are not there dropped, and what was done, in words.

    Dropped: unknown names in `depends_on` and in the lists of control stages, an unknown `output_stage_id`. An
    `http_request` without a method gets GET. Nothing else is touched; the result may still be refused.
    """
    fixed = copy.deepcopy(document)
    done: list[str] = []
    stages = [stage for stage in _listed(fixed.get("stages")) if isinstance(stage, dict)]
    known = {part.get("id") for part in (*stages, *_listed(fixed.get("compositions"))) if isinstance(part, dict)}
    inherits = fixed.get("extends") is not None
    if not inherits:  # of what is inherited, nothing is known here
        for stage in (*stages, *(each for each in _listed(fixed.get("compositions")) if isinstance(each, dict))):
            name = str(stage.get("id"))
            _drop(stage, "depends_on", known, name, done)
            for key in ("config", "input_mapping"):
                inputs = stage.get(key)
                if isinstance(inputs, dict):
                    _fix_inputs(_component(stage), inputs, known, name, done)
        if "output_stage_id" in fixed and fixed["output_stage_id"] not in known:
            done.append(f"output_stage_id: {fixed.pop('output_stage_id')!r} is no stage, so it was cleared")
    for stage in stages:
        inputs = [stage.get(key) for key in ("config", "input_mapping")]
        if _component(stage) == "http_request" and not any(isinstance(i, dict) and i.get("method") for i in inputs):
            config = stage.setdefault("config", {})
            if isinstance(config, dict):
                config["method"] = "GET"
                done.append(f"stage {stage.get('id')!r}: the method is GET")
    return fixed, done


def _fix_inputs(component: str, inputs: dict[str, Any], known: set[Any], stage: str, done: list[str]) -> None:
    spellings = CONTROL_SPELLINGS.get(component)
    if spellings is None:
        return
    for key in list(inputs):
        if spellings.get(key, key) in STAGE_LISTS:
            _drop(inputs, key, known, stage, done)
    routes = inputs.get("routes")
    if component == "router" and isinstance(routes, dict):
        for route in list(routes):
            _drop(routes, route, known, stage, done)


def _drop(holder: dict[str, Any], key: str, known: set[Any], stage: str, done: list[str]) -> None:
    """Drop unknown names from the list (or single name) under `key`."""
    written = holder.get(key)
    if isinstance(written, str) and "{{" not in written and written not in known:
        del holder[key]
        done.append(f"stage {stage!r}: {key} named {written!r}, which is no stage")
    elif isinstance(written, list):
        gone = [name for name in written if isinstance(name, str) and "{{" not in name and name not in known]
        if gone:
            holder[key] = [name for name in written if name not in gone]
            done.append(f"stage {stage!r}: {key} named {', '.join(map(repr, gone))}, which is no stage")


def _component(stage: dict[str, Any]) -> str:
    found = next((stage[key] for key in ("component_type", "component", "type") if key in stage), "")
    return snake(found) if isinstance(found, str) else ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
