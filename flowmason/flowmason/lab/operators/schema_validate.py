"""Check data against a JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmason.component import Context, operator
from flowmason.component.models import Field, OperatorInput, OperatorOutput
from flowmason.component.patterns import bounded
from flowmason.errors import Code, StageError, did_you_mean
from flowmason.lab.operators.coercion import coerced

_MESSAGE_LIMIT = 500


@operator(
    name="schema_validate",
    category="core",
    description="Check data against a JSON Schema.",
    icon="shield-check",
    color="#14B8A6",
    timeout_seconds=10,
)
class SchemaValidate:
    """JSON Schema 2020-12 unless `$schema` names an older draft. Only references inside the schema are followed."""

    class Input(OperatorInput):
        data: Any
        json_schema: dict[str, Any]
        strict: bool = Field(default=True, description="Fail the stage (VALIDATION) where the data do not fit.")
        coerce_types: bool = Field(default=False, description='Turn "5" into 5 and the like where the schema asks.')
        collect_all_errors: bool = Field(default=True, description="False: only the first.")

    class Output(OperatorOutput):
        valid: bool
        data: Any = Field(default=None, description="The data, coerced if asked.")
        errors: list[dict[str, Any]] = Field(default=[], description="path, message, validator, validator_value.")
        error_count: int = 0

    async def execute(self, input: Input, context: Context) -> Output:
        validator = _validator(input.json_schema)
        data = coerced(input.data, input.json_schema) if input.coerce_types else input.data
        errors = _errors(validator, data)
        if not input.collect_all_errors:
            errors = errors[:1]
        if errors and input.strict:
            first = errors[0]
            place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["path"])
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise StageError(
                f"${place}: {first['message']}{more}",
                code=Code.VALIDATION,
                details={"errors": errors, "error_count": len(errors)},
            )
        return self.Output(valid=not errors, data=data, errors=errors, error_count=len(errors))


def _bad_schema(message: str) -> StageError:
    return StageError(f"json_schema: {message}", code=Code.INVALID_INPUT, details={"field": "json_schema"})


def _validator(schema: dict[str, Any]) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

    named = schema.get("$schema")
    kind: Any = Draft202012Validator
    if named is not None:
        known = _drafts()
        if str(named).rstrip("#") not in known:
            near = did_you_mean(str(named), known)
            hint = f" (did you mean {near!r}?)" if near else ""
            raise _bad_schema(f"$schema {named!r} is not known{hint}")
        kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise _bad_schema(f"{error.json_path}: {error.message[:_MESSAGE_LIMIT]}") from None
    return bounded(kind)(schema, registry=REGISTRY)


def _drafts() -> list[str]:
    years = [f"https://json-schema.org/draft/{year}/schema" for year in ("2020-12", "2019-09")]
    return years + [f"http://json-schema.org/draft-0{number}/schema" for number in (7, 6, 4, 3)]


def _errors(validator: Any, data: Any) -> list[dict[str, Any]]:
    from referencing.exceptions import Unresolvable

    try:
        found = sorted(validator.iter_errors(data), key=lambda error: [str(step) for step in error.absolute_path])
    except Unresolvable as error:
        raise _bad_schema(f"$ref {error.ref!r} leads nowhere; only references inside the schema are followed") from None
    except RecursionError:
        raise _bad_schema("it refers to itself without end") from None
    return [
        {
            "path": list(error.absolute_path),
            "message": error.message[:_MESSAGE_LIMIT],
            "validator": error.validator,
            "validator_value": _plain(error.validator_value),
        }
        for error in found
    ]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
