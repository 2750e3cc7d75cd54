"""`Prompt`: a prompt that lies in a file of its own, `prompts/<name>.md`, and the table of its front matter."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from flowmason.errors import ExpressionError, Fault, did_you_mean
from flowmason.expressions import FUNCTION_ARITY, Names, Static, Template, parse_template, references
from flowmason.ids import Digest, sha256
from flowmason.pipeline.keys import JSON_SCHEMA, LLM_SETTINGS, TEXT
from flowmason.pipeline.pointers import Path
from flowmason.pipeline.shapes import INVALID, Key, MapOf, Record, add_fault

REFERENCE = "$prompt"
"""The key of a prompt by reference: `{"$prompt": "name", "variables": {…}}`."""
SUFFIX = ".md"
HINTS = ("provider", "model", "temperature", "max_tokens")
"""Keys of the front matter that a stage's `llm_settings` win over."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TAKEN = frozenset({"input", "upstream", "stages", "context", "env", "error", "_error", *FUNCTION_ARITY})

FRONT_MATTER = Record(
    {
        "name": Key(TEXT, "The prompt's name, where it is written out: its path below prompts/ without .md."),
        "description": Key(TEXT, "For people."),
        "system": Key(TEXT, "The system prompt; may hold {{variables}}."),
        **{name: LLM_SETTINGS.keys[name] for name in HINTS},
        "variables": Key(MapOf(JSON_SCHEMA, "an object of variable → JSON Schema"), "What the texts may read."),
    },
    expected="a front matter (an object)",
)


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a prompt."""

    name: str
    text: str
    """The file, with `\\n` at the ends of its lines."""
    body: Template
    """What the user says: the file below its front matter, parsed."""
    system: Template | None = None
    variables: dict[str, dict[str, Any]] = {}
    """Name → JSON Schema. One with a `default` need not be given."""
    description: str = ""
    hints: dict[str, Any] = {}
    """Those of `HINTS` that are given: how it wants its language model."""
    file: str | None = None

    @property
    def digest(self) -> Digest:
        """Of `text`: what names this version."""
        return sha256(self.text.encode())

    @property
    def id(self) -> str:
        """`name@digest`."""
        return f"{self.name}@{self.digest}"


def read_front_matter(value: Any, faults: list[Fault]) -> dict[str, Any] | None:
    """The keys of a front matter, or None with every fault added."""
    before = len(faults)
    found = FRONT_MATTER.read(value if value is not None else {}, (), faults)
    if found is INVALID:
        return None
    found = {key: item for key, item in found.items() if item is not None}
    for name, schema in (found.get("variables") or {}).items():
        _check_variable(name, schema, faults)
    return found if len(faults) == before else None


def parse_text(text: str, variables: dict[str, Any], tell: Any) -> Template:
    """A text of a prompt as a template that reads its variables alone.

    `tell(reason, offset, nearest)` is told of everything that is wrong in it.
    """
    errors: list[ExpressionError] = []
    template = parse_template(text, Names(variables=frozenset(variables)), errors)
    for error in errors:
        details = error.failure.details or {}
        help = f". {error.failure.help}" if error.failure.help else ""
        nearest = details.get("nearest")
        tell(f"{details.get('reason', error)}{help}", details.get("offset", 0), nearest)
    for reference in references(template):
        if reference.root not in variables:
            reason = f"a prompt reads its variables alone, not {reference.root!r}; declare a variable and pass it"
            tell(reason, max(reference.offset, 0), did_you_mean(reference.root, list(variables)))
    return Static("") if errors else template


def _check_variable(name: str, schema: dict[str, Any], faults: list[Fault]) -> None:
    path: Path = ("variables", name)
    if not _NAME.match(name):
        add_fault(faults, path, f"{name!r} cannot be the name of a variable: letters, digits and _ only")
    elif name in _TAKEN:
        add_fault(faults, path, f"{name!r} means something else in expressions; choose another name")
    if "default" in schema:
        from jsonschema import Draft202012Validator

        for error in Draft202012Validator(schema).iter_errors(schema["default"]):
            add_fault(faults, (*path, "default"), f"the default does not fit the schema: {error.message[:200]}")
