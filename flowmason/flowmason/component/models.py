"""The pydantic bases of what users write: Input and Output of each kind of component.

Inputs forbid unknown fields, strip surrounding white space, and take what a file or a template gives: text for
numbers, booleans and dates, JSON text for lists and objects, an enum's member by name or by value. Outputs forbid
unknown fields too, unless the author says `model_config = ConfigDict(extra="allow")`.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "ControlFlowInput",
    "ControlFlowOutput",
    "Field",
    "NodeInput",
    "NodeOutput",
    "OperatorInput",
    "OperatorOutput",
]

_CONTAINERS = (list, dict, tuple, set, frozenset, Mapping, Sequence)


class _Model(BaseModel):
    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return self.model_dump()

    @classmethod
    def get_schema(cls) -> dict[str, Any]:
        """JSON Schema of the class."""
        return cls.model_json_schema()

    @classmethod
    def get_field_descriptions(cls) -> dict[str, str]:
        """Field name → its description, empty where none was given."""
        return {name: field.description or "" for name, field in cls.model_fields.items()}


class _Input(_Model):
    model_config = ConfigDict(
        extra="forbid",
        str_strip_whitespace=True,
        validate_assignment=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    _readers: ClassVar[dict[str, Callable[[str], Any]]]
    """Field → how text is read for it, for the fields where pydantic alone would refuse it. Made on first use."""

    @classmethod
    def _find_readers(cls) -> dict[str, Callable[[str], Any]]:
        readers: dict[str, Callable[[str], Any]] = {}
        for name, field in cls.model_fields.items():
            reader = _text_reader(field.annotation)
            if reader is not None:
                readers[name] = reader
                if isinstance(field.validation_alias, str):
                    readers[field.validation_alias] = reader
        cls._readers = readers
        return readers

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, data: Any) -> Any:
        readers = cls._readers if "_readers" in cls.__dict__ else cls._find_readers()
        if not readers or not isinstance(data, dict):
            return data
        changed = {name: read(value) for name, read in readers.items() if isinstance(value := data.get(name), str)}
        return {**data, **changed} if changed else data


class _Output(_Model):
    model_config = ConfigDict(extra="forbid", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)


class NodeInput(_Input):
    """Base of a node's Input."""


class NodeOutput(_Output):
    """Base of a node's Output."""


class OperatorInput(_Input):
    """Base of an operator's Input."""


class OperatorOutput(_Output):
    """Base of an operator's Output."""


class ControlFlowInput(_Input):
    """Base of a control-flow component's Input."""


class ControlFlowOutput(_Output):
    """Base of a control-flow component's Output."""


def _options(annotation: Any) -> list[Any]:
    """The members of a union, `Annotated` taken off."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for part in typing.get_args(annotation) for option in _options(part)]
    return [annotation]


def _holds_others(kind: type[Any]) -> bool:
    return issubclass(kind, (BaseModel, *_CONTAINERS)) or typing.is_typeddict(kind)


def _text_reader(annotation: Any) -> Callable[[str], Any] | None:
    wants_json = False
    enums: list[type[enum.Enum]] = []
    for option in _options(annotation):
        if option is type(None):
            continue
        plain = typing.get_origin(option) or option
        if isinstance(plain, type) and issubclass(plain, enum.Enum):
            enums.append(plain)
        elif isinstance(plain, type) and plain not in (str, bytes) and _holds_others(plain):
            wants_json = True
        elif plain not in (int, float, bool):
            return None  # text may be meant as text
    if not wants_json and not enums:
        return None

    def read(text: str) -> Any:
        for kind in enums:
            if text in kind.__members__ and text not in [member.value for member in kind]:
                return kind[text]
        if wants_json and text.lstrip()[:1] in ("{", "["):
            try:
                return json.loads(text)
            except ValueError:
                return text  # pydantic's own message is the clearer one
        return text

    return read
