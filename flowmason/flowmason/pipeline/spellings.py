"""One spelling for the inputs of the six control-flow components, and for component names.

Documents and tutorials name these inputs in several ways; whichever is written, the rest of FlowMason sees one.
"""

from __future__ import annotations

from typing import Any

from flowmason.errors import Fault
from flowmason.pipeline.pointers import Path
from flowmason.pipeline.shapes import INVALID, MapOf, Shape, Text, add_fault

ID_PATTERN = r"[A-Za-z_][A-Za-z0-9_-]*"
RESERVED_IDS = frozenset({"input", "upstream", "stages", "context", "env", "error", "_error"})
"""Roots of the expression language: no stage may be called so."""

CONTROL_SPELLINGS: dict[str, dict[str, str]] = {
    "conditional": {
        "true_branch": "true_branch_stages",
        "true_stages": "true_branch_stages",
        "false_branch": "false_branch_stages",
        "false_stages": "false_branch_stages",
    },
    "router": {"default": "default_route"},
    "foreach": {"stages": "loop_stages", "max_concurrency": "max_parallel"},
    "trycatch": {"on_error": "error_scope"},
    "subpipeline": {"pipeline": "pipeline_id", "input": "input_data"},
    "return": {"value": "return_value"},
}
"""Component → other spelling of an input → its canonical name."""

STAGE_LISTS = frozenset(
    {
        "true_branch_stages",
        "false_branch_stages",
        "default_route",
        "loop_stages",
        "try_stages",
        "catch_stages",
        "finally_stages",
    }
)
"""Inputs of control-flow components that list stages."""

_LISTS_OF = {
    "conditional": ("true_branch_stages", "false_branch_stages"),
    "router": ("default_route",),
    "foreach": ("loop_stages",),
    "trycatch": ("try_stages", "catch_stages", "finally_stages"),
}


class _StageId(Text):
    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        found = super().read(value, path, faults)
        if found in RESERVED_IDS:
            add_fault(faults, path, f"{found!r} has a meaning of its own in expressions; choose another id")
            return INVALID
        return found


STAGE_ID = _StageId("a stage id (letters, digits, _ and -, not starting with a digit)", ID_PATTERN, max=200)
_STAGE_REFERENCE = Text("the id of a stage", ID_PATTERN, max=200)


class _StageList(Shape):
    """A list of stage ids; a single id stands for a list of one, null for none."""

    expected = "a stage id or a list of stage ids"

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is str:
            found = _STAGE_REFERENCE.read(value, path, faults)
            return INVALID if found is INVALID else [found]
        if value is None:
            return []
        if type(value) is not list:
            return self.refuse(value, path, faults)
        before = len(faults)
        for index, item in enumerate(value):
            _STAGE_REFERENCE.read(item, (*path, index), faults)
        return value if len(faults) == before else INVALID


_STAGE_LIST = _StageList()
_ROUTES = MapOf(_STAGE_LIST, "an object of route → stage ids")


def snake(name: str) -> str:
    """A component's name as everything but a file spells it: `http-request` → `http_request`."""
    return name.replace("-", "_")


def canonical_inputs(component: str, values: dict[str, Any], path: Path, faults: list[Fault]) -> dict[str, Any]:
    """`values` (a stage's `config` or `input_mapping`) with the canonical names and forms of `component`'s inputs.

    Only the six control-flow components have other spellings; for all others `values` itself comes back.
    """
    other = CONTROL_SPELLINGS.get(component)
    if other is None:
        return values
    found: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for spelling, value in values.items():
        name = other.get(spelling, spelling)
        if name in spelled:
            reason = f"{spelling!r} and {spelled[name]!r} are two spellings of one input; give one of them"
            add_fault(faults, (*path, spelling), reason)
            continue
        spelled[name] = spelling
        if name in _LISTS_OF.get(component, ()):
            value = _STAGE_LIST.read(value, (*path, spelling), faults)
        elif component == "router" and name == "routes":
            value = _ROUTES.read(value, (*path, spelling), faults)
        found[name] = value
    return found


_GROUPS = (
    ("component_type", "component", "type"),
    ("input_schema", "input"),
    ("output_schema", "output"),
    ("config", "input_mapping"),
    *((canonical, other) for table in CONTROL_SPELLINGS.values() for other, canonical in table.items()),
)


def other_spellings(name: str) -> tuple[str, ...]:
    """Every other key under which a document may hold what the canonical `name` means.

    Used to find the place of a fault in the file; it errs on the side of too many.
    """
    found = [other for group in _GROUPS if name in group for other in group if other != name]
    return tuple(dict.fromkeys(found))


__all__ = [
    "CONTROL_SPELLINGS",
    "ID_PATTERN",
    "RESERVED_IDS",
    "STAGE_ID",
    "STAGE_LISTS",
    "canonical_inputs",
    "other_spellings",
    "snake",
]
