"""Mocks as they are written: read, held against the pipeline they are for, and completed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.component import ComponentSpec
from flowmason.errors import Fault, RefusedError, did_you_mean
from flowmason.pipeline import Path, format_pointer
from flowmason.plan import Kind, Plan, SubPipelineBody
from flowmason.region.mocks import MOCKABLE_CONTROL, Mock, MockError
from flowmason.testing.files import Script
from flowmason.testing.reader import Reader, kind_of

if TYPE_CHECKING:
    from flowmason.plan import Stage

_MOCK_KEYS = ("output", "outputs", "error", "delay_ms")
_ERROR_KEYS = ("type", "message", "code", "times")
_SCRIPT_KEYS = ("answers", "model", "delay_ms")


def read_mocks(reader: Reader, given: dict[str, Any], at: Path) -> dict[str, Mock]:
    """The `mocks` of a file or a test, by stage or component."""
    mocks = reader.record(given.get("mocks") or {}, (*at, "mocks"), None)
    return {key: _mock(reader, value, (*at, "mocks", key)) for key, value in mocks.items()}


def _mock(reader: Reader, value: Any, at: Path) -> Mock:
    given = reader.record(value, at, _MOCK_KEYS)
    if "output" in given and "outputs" in given:
        reader.fault((*at, "outputs"), "give either 'output', for every call, or 'outputs', one for each")
    if isinstance(value, dict) and not any(key in given for key in _MOCK_KEYS):
        reader.fault(at, "a mock needs an output, outputs, an error or a delay_ms")
    outputs = reader.one(given, at, "outputs", [], list, "a list of outputs")
    if "outputs" in given and not outputs:
        reader.fault((*at, "outputs"), "there is no output in it")
    return Mock(
        outputs=(given["output"],) if "output" in given else tuple(outputs),
        in_turn="outputs" in given,
        error=_error(reader, given.get("error"), (*at, "error")),
        delay_ms=reader.number(given, at, "delay_ms", 0, 0, False),
    )


def _error(reader: Reader, value: Any, at: Path) -> MockError | None:
    if value is None:
        return None
    if isinstance(value, str):
        return MockError(message=value)
    given = reader.record(value, at, _ERROR_KEYS)
    usual = MockError()
    return MockError(
        message=reader.text(given, at, "message", usual.message),
        type=reader.text(given, at, "type", usual.type),
        code=reader.text(given, at, "code", usual.code),
        times=reader.number(given, at, "times", None, 1, True),
    )


def read_script(reader: Reader, value: Any, at: Path) -> Script | None:
    """What a file or a test says for the language model; None: nothing."""
    if value is None:
        return None
    if isinstance(value, dict) and "answers" in value:
        given = reader.record(value, at, _SCRIPT_KEYS)
        answers, place = given["answers"], (*at, "answers")
        script = Script(
            answers=answers,
            model=reader.text(given, at, "model", None),
            delay_ms=reader.number(given, at, "delay_ms", 0, 0, False),
        )
    else:
        answers, place, script = value, at, Script(answers=value)
    if not isinstance(answers, str | list | dict):
        reader.fault(place, f"a text, a list of answers or an object of them is expected, not {kind_of(answers)}")
    elif not answers and not isinstance(answers, str):
        reader.fault(place, "there is no answer in it")
    return script


def fitted(mocks: Mapping[str, Mock], at: Path, plan: Plan, specs: Mapping[str, ComponentSpec]) -> dict[str, Mock]:
    """The mocks of `plan`, their outputs completed by the defaults of the components' Outputs.

    Raises `RefusedError` with pointers below `at` for mocks of nothing, outputs that the component could never give,
    and outputs for a foreach or a trycatch.
    """
    faults: list[Fault] = []
    targets = _Targets(plan)
    found = {}
    for key, mock in mocks.items():
        place = (*at, key)
        stages = targets.of(key)
        if not stages:
            if not targets.open:
                nearest = did_you_mean(key, targets.names)
                faults.append(
                    Fault(f"{plan.name} has no stage and no component {key!r}", format_pointer(place), nearest=nearest)
                )
            found[key] = mock
            continue
        found[key] = _fitted_one(mock, stages[0], specs.get(stages[0].component), place, faults)
    if faults:
        raise RefusedError(faults)
    return found


class _Targets:
    """What the mocks of a pipeline may be named after."""

    def __init__(self, plan: Plan) -> None:
        self._by_name: dict[str, list[Stage]] = {}
        self.open = False
        """Whether some sub-pipelines are only known once it runs."""
        for path, stage in _stages(plan, plan.plans, ()):
            for name in dict.fromkeys((".".join(path), path[-1], stage.component)):
                self._by_name.setdefault(name.replace("-", "_"), []).append(stage)
            self.open |= isinstance(stage.body, SubPipelineBody) and stage.body.plan is None
        self.names = sorted({name for stages in self._by_name.values() for stage in stages for name in _named(stage)})

    def of(self, key: str) -> list[Stage]:
        return self._by_name.get(key.replace("-", "_"), [])


def _named(stage: Stage) -> tuple[str, str]:
    return stage.id, stage.component


def _stages(plan: Plan, plans: Mapping[Any, Plan], prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Stage]]:
    for stage in plan.stages.values():
        if stage.kind is Kind.OUTPUT:
            continue
        inside = (*prefix, *(owner for owner in plan.ancestors[stage.id] if _shows(plan, owner)), stage.id)
        yield inside, stage
        if isinstance(stage.body, SubPipelineBody) and stage.body.plan in plans:
            yield from _stages(plans[stage.body.plan], plans, inside)


def _shows(plan: Plan, owner: str) -> bool:
    """Whether the owner of a body is part of its stages' paths: a foreach is, a trycatch is not."""
    return plan.stages[owner].kind is Kind.FOREACH  # type: ignore[index]


def _fitted_one(mock: Mock, stage: Stage, spec: ComponentSpec | None, at: Path, faults: list[Fault]) -> Mock:
    if not mock.outputs:
        return mock
    keys: tuple[Path, ...] = tuple((*at, "outputs", n) for n in range(len(mock.outputs))) if mock.in_turn else ()
    places = keys or ((*at, "output"),)
    if stage.kind not in (Kind.NODE, Kind.OPERATOR):
        if stage.kind not in MOCKABLE_CONTROL:
            reason = f"{stage.id!r} is a {stage.kind}: its output is made of its body; mock the stages in it"
            faults.append(Fault(reason, format_pointer(places[0][:-1] if mock.in_turn else places[0])))
        return mock
    if spec is None:
        return mock
    outputs = tuple(
        _fitted_output(output, spec, place, faults) for output, place in zip(mock.outputs, places, strict=True)
    )
    return msgspec.structs.replace(mock, outputs=outputs)


def _fitted_output(output: Any, spec: ComponentSpec, at: Path, faults: list[Fault]) -> Any:
    schema = spec.output_schema
    properties = schema.get("properties", {})
    if not isinstance(output, dict):
        faults.append(Fault(f"the output of {spec.name} is an object, not {kind_of(output)}", format_pointer(at)))
        return output
    if not spec.output_open:
        for name in output:
            if name not in properties:
                has = ", ".join(properties)
                reason = f"the output of {spec.name} has no field {name!r}; it has {has}"
                faults.append(Fault(reason, format_pointer((*at, name)), nearest=did_you_mean(name, list(properties))))
    faults.extend(_misfits(output, {key: item for key, item in schema.items() if key != "required"}, spec.name, at))
    defaults = {name: field["default"] for name, field in properties.items() if "default" in field}
    return {**defaults, **output}


def _misfits(output: dict[str, Any], schema: dict[str, Any], name: str, at: Path) -> Iterator[Fault]:
    """What is wrong with the fields that are given; those left out and those unknown are not looked at."""
    from jsonschema import Draft202012Validator
    from referencing.jsonschema import EMPTY_REGISTRY

    schema.pop("additionalProperties", None)
    for error in Draft202012Validator(schema, registry=EMPTY_REGISTRY).iter_errors(output):
        reason = f"{name} never gives this: {error.message[:300]}"
        yield Fault(reason, format_pointer((*at, *error.absolute_path)))
