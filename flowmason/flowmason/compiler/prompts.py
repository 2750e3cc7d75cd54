"""Prompts by reference: `{"$prompt": "name", "variables": {…}}` becomes the template that the prompt's file holds.

What the stage passes stands in the place of the prompt's variables, so the Plan knows nothing of variables; it keeps
which prompts it was made from, word by word.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from flowmason.compiler.draft import Draft, PromptUse, Work
from flowmason.compiler.faults import below, close_to
from flowmason.compiler.fit import Fit, Look
from flowmason.compiler.shapes import Shape
from flowmason.errors import Code, FlowMasonError, RefusedError
from flowmason.expressions import (
    Access,
    Call,
    Expr,
    Fields,
    Items,
    Literal,
    MakeList,
    MakeObject,
    Path,
    Static,
    Template,
    Text,
)
from flowmason.expressions.limits import MAX_DEPTH, Budget, Meter
from flowmason.expressions.operators import splice
from flowmason.expressions.tree import depth
from flowmason.plan import Kind
from flowmason.prompt import HINTS, REFERENCE, Prompt

USER, SYSTEM = "prompt", "system_prompt"
"""Inputs of components that ask a model; a prompt's system text goes to the second."""
_KEYS = (REFERENCE, "variables")


def read_prompts(work: Work, draft: Draft) -> None:
    """Find the prompts that the inputs of a stage refer to; tell of those that cannot be had."""
    for name, value in draft.inputs.items():
        faults = len(work.faults)
        if isinstance(value, dict) and REFERENCE in value:
            _read(work, draft, name, value)
        else:
            _refuse_deeper(work, draft, value, draft.pointers[name])
        if len(work.faults) > faults:
            draft.refused.add(name)


def expand(work: Work, draft: Draft, use: PromptUse, given: dict[str, Template]) -> Template:
    """The template of a prompt with what the stage gives in the place of its variables."""
    found = _fill(use.template, given)
    if depth(found) > MAX_DEPTH:
        work.fault(draft, use.pointer, f"with its variables filled in, the prompt nests more than {MAX_DEPTH} deep")
        return Static("")
    return found


def check_variables(work: Work, draft: Draft, look: Look) -> None:
    """Tell of every variable that is given something which its schema refuses."""
    fit = Fit(look, lax=False)
    for use in draft.prompts.values():
        for name, template in use.given.items():
            schema = use.prompt.variables.get(name)
            if schema is not None and name in use.written.keys() - use.refused:
                place = below(below(use.pointer, "variables"), name)
                for misfit in fit.check(template, Shape(schema, schema), place):
                    work.fault(draft, misfit.pointer, misfit.reason, wrong=misfit.wrong, known=misfit.known)


def hints_of(draft: Draft, settings: dict[str, Any]) -> dict[str, Any]:
    """A stage's `llm_settings` over how its prompts want their model; the stage's own inputs win over the latter."""
    found: dict[str, Any] = {}
    if draft.kind is not Kind.NODE:
        return settings
    for use in draft.prompts.values():
        hints = {key: use.prompt.hints[key] for key in HINTS if key in use.prompt.hints and key not in draft.inputs}
        if settings.get("provider", hints.get("provider")) != hints.get("provider"):
            hints.pop("model", None)  # a model of another provider
        found = {**hints, **found}
    return {**found, **settings}


def _read(work: Work, draft: Draft, name: str, value: dict[str, Any]) -> None:
    pointer = draft.pointers[name]
    for key in value:
        if key not in _KEYS:
            reason = f"unknown key {key!r}; a prompt by reference has {REFERENCE} and variables"
            work.fault(draft, below(pointer, key), reason, wrong=key, known=_KEYS)
    wanted, given = value[REFERENCE], value.get("variables") or {}
    if not isinstance(wanted, str):
        work.fault(draft, below(pointer, REFERENCE), "the name of a prompt (a string) is expected")
        return
    if not isinstance(given, dict):
        work.fault(draft, below(pointer, "variables"), "an object of variable → value is expected")
        return
    prompt = _find(work, draft, wanted, below(pointer, REFERENCE))
    if prompt is None:
        return
    _check_names(work, draft, prompt, given, pointer)
    template = prompt.body
    if name == SYSTEM and prompt.system is not None:
        template = prompt.system
    elif prompt.system is not None:
        declared = (draft.spec.input_schema.get("properties") or {}) if draft.spec is not None else {}
        if name != USER or (draft.spec is not None and SYSTEM not in declared):
            what = f"{draft.spec.name}.{name}" if draft.spec is not None else name
            work.fault(draft, pointer, f"the prompt {wanted!r} has a system text, which cannot be given with {what}")
        elif SYSTEM not in draft.inputs:
            draft.prompts[SYSTEM] = PromptUse(prompt, prompt.system, given, pointer)
    if template == Static(""):
        work.fault(draft, pointer, f"the prompt {wanted!r} has only a system text; refer to it in {SYSTEM}")
    draft.prompts[name] = PromptUse(prompt, template, given, pointer)
    work.used[prompt.name] = prompt


def _find(work: Work, draft: Draft, wanted: str, pointer: str) -> Prompt | None:
    try:
        prompt = work.prompts.get(wanted)
    except RefusedError as error:
        for fault in error.faults[:5]:
            work.fault(draft, pointer, f"the prompt {wanted!r} is refused: {fault}", code=fault.code)
        return None
    except FlowMasonError as error:
        work.fault(draft, pointer, f"the prompt {wanted!r}: {error.failure.message}", code=error.failure.code)
        return None
    if prompt is None:
        reason = f"there is no prompt {wanted!r}"
        work.fault(draft, pointer, reason, wrong=wanted, known=work.prompts, code=Code.NOT_FOUND)
    return prompt


def _check_names(work: Work, draft: Draft, prompt: Prompt, given: dict[str, Any], pointer: str) -> None:
    place = below(pointer, "variables")
    slips: set[str | None] = set()
    for name in given:
        if name not in prompt.variables:
            reason = f"the prompt {prompt.name!r} has no variable {name!r}"
            near = close_to(name, prompt.variables)
            slips.add(near)
            work.fault(draft, below(place, name), reason, nearest=near)
    for name, schema in prompt.variables.items():
        if name not in given and name not in slips and "default" not in schema:
            work.fault(draft, pointer, f"the variable {name!r} of the prompt {prompt.name!r} is missing")


def _refuse_deeper(work: Work, draft: Draft, value: Any, pointer: str) -> None:
    if isinstance(value, dict):
        if REFERENCE in value:
            work.fault(draft, pointer, f"a prompt by reference ({REFERENCE}) is the whole value of an input")
            return
        for key, item in value.items():
            _refuse_deeper(work, draft, item, below(pointer, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _refuse_deeper(work, draft, item, below(pointer, position))


def _fill(template: Template, given: dict[str, Template]) -> Template:
    if isinstance(template, Text):
        parts: list[str | Expr] = []
        for part in template.parts:
            filled = Static(part) if isinstance(part, str) else _fill(part, given)
            for piece in filled.parts if isinstance(filled, Text) else (_piece(filled),):
                if isinstance(piece, str) and parts and isinstance(parts[-1], str):
                    parts[-1] += piece
                else:
                    parts.append(piece)
        return (
            Static("".join(cast("list[str]", parts))) if all(isinstance(p, str) for p in parts) else Text(tuple(parts))
        )
    if isinstance(template, Path):
        return _at(given[template.root], template.path) if template.root in given else template
    if isinstance(template, Static | Literal):
        return template
    return cast("Template", _rebuilt(template, given))


def _piece(template: Template) -> str | Expr:
    if isinstance(template, Static) and (template.value is None or isinstance(template.value, str | int)):
        return splice(template.value, Meter(Budget()))
    return _expression(template)


def _rebuilt(node: Any, given: dict[str, Template]) -> Any:
    """An expression with its variables filled in."""
    if isinstance(node, Path):
        return _expression(_fill(node, given))
    if isinstance(node, msgspec.Struct):
        fields = {name: _rebuilt(getattr(node, name), given) for name in node.__struct_fields__}
        return msgspec.structs.replace(node, **fields)
    return tuple(_rebuilt(part, given) for part in node) if isinstance(node, tuple) else node


def _at(template: Template, keys: tuple[str | int, ...]) -> Template:
    """What a path below a variable finds in what is given for it."""
    for position, key in enumerate(keys):
        if isinstance(template, Path) and template.root != "env":
            return Path(template.root, (*template.path, *keys[position:]))
        if isinstance(template, Fields) and key in template.fields:
            template = template.fields[str(key)]
        elif isinstance(template, Static) and isinstance(template.value, dict) and key in template.value:
            template = Static(template.value[key])
        else:
            template = Access(_expression(template), Literal(key))
    return template


def _expression(template: Template) -> Expr:
    """A template as one expression of the same value."""
    match template:
        case Static(value):
            return _literal(value)
        case Text(parts):
            return Call("join", (MakeList(tuple(Literal(p) if isinstance(p, str) else p for p in parts)),))
        case Fields(fields):
            return MakeObject(tuple((key, _expression(item)) for key, item in fields.items()))
        case Items(items):
            return MakeList(tuple(_expression(item) for item in items))
    return template


def _literal(value: Any) -> Expr:
    if isinstance(value, dict):
        return MakeObject(tuple((key, _literal(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return MakeList(tuple(_literal(item) for item in value))
    return Literal(value)
