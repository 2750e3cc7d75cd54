"""Reading the inputs of a stage: templates parsed, every path they name noted, loop variables given one spelling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from flowmason.compiler.draft import Draft, PromptUse, Use, Work
from flowmason.compiler.faults import Known, below
from flowmason.compiler.prompts import expand
from flowmason.errors import ExpressionError
from flowmason.expressions import Names, Path, Static, Template, parse_condition, parse_template, references
from flowmason.ids import StageId
from flowmason.plan import LOOP_TOTAL, Kind

_CONDITIONS = {Kind.CONDITIONAL: "condition", Kind.RETURN: "condition"}
"""Inputs that hold one expression, evaluated before the component sees it; others are marked `x-condition`."""

_OWN: dict[Kind, dict[str, frozenset[str]]] = {
    Kind.CONDITIONAL: {"condition_expression": frozenset({"value"})},
    Kind.ROUTER: {"value_expression": frozenset({"value"})},
    Kind.RETURN: {"condition_expression": frozenset({"value"})},
    Kind.FOREACH: {"filter_expression": frozenset({"item", "index"})},
}
"""Inputs that the component evaluates itself → the names it knows there; others are marked `x-expression`."""


Parse = Callable[[Any, Names, list[ExpressionError]], Template]


class Parser:
    """Parses inputs for the stages of one pipeline."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stages = frozenset(work.by_id)
        self._names: dict[frozenset[str], Names] = {}

    def read(self, draft: Draft) -> None:
        """Parse the inputs of a stage into `templates` and `uses`."""
        own = _own_expressions(draft)
        conditions = _conditions(draft)
        names = self.names(self._variables(draft))
        spelling = Spelling(self._work, draft)
        for name, use in draft.prompts.items():
            draft.pointers.setdefault(name, use.pointer)
            draft.templates[name] = self._prompt(draft, use, names, spelling)
        for name, value in draft.inputs.items():
            if name in draft.prompts:
                continue
            if name in own:
                self._check_own(draft, name, value, own[name])
                draft.templates[name] = Static(value)
            else:
                parse = parse_condition if name in conditions else parse_template
                draft.templates[name] = self._parse(draft, name, parse, names)
        for name, template in draft.templates.items():
            if name in draft.prompts:
                continue
            draft.templates[name] = self._bind(draft, template, draft.pointers[name], spelling)

    def _prompt(self, draft: Draft, use: PromptUse, names: Names, spelling: Spelling) -> Template:
        for name, schema in use.prompt.variables.items():
            if name not in use.written:
                use.given[name] = Static(schema.get("default"))
                continue
            place = below(below(use.pointer, "variables"), name)
            errors: list[ExpressionError] = []
            template = parse_template(use.written[name], names, errors)
            for error in errors:
                self._tell(draft, place, error)
                use.refused.add(name)
            use.given[name] = self._bind(draft, template, place, spelling)
        return expand(self._work, draft, use, use.given)

    def names(self, variables: frozenset[str]) -> Names:
        """What a parser may resolve where these loop variables are in sight."""
        if variables not in self._names:
            self._names[variables] = Names(stages=self._stages, variables=variables)
        return self._names[variables]

    def _variables(self, draft: Draft) -> frozenset[str]:
        """The loop variables in sight; `item` and `index` mean the nearest loop's where nothing else is called so."""
        loops = draft.loops
        if not loops:
            return frozenset()
        spare = {"item", "index"} - self._stages
        return frozenset(spare.union(*(loop.loop for loop in loops)))

    def _parse(self, draft: Draft, name: str, parse: Parse, names: Names) -> Template:
        errors: list[ExpressionError] = []
        template = parse(draft.inputs[name], names, errors)
        for error in errors:
            self._tell(draft, draft.pointers[name], error)
        return template

    def _tell(self, draft: Draft, pointer: str, error: ExpressionError) -> None:
        details = error.failure.details or {}
        reason = str(details.get("reason", error.failure.message))
        offset = details.get("offset")
        if isinstance(offset, int):
            reason += f" (at character {offset + 1})"
        if error.failure.help:
            reason += f". {error.failure.help}"
        place = _under(pointer, details.get("place", ()))
        draft.broken.add(place)
        unknown = details.get("unknown", {})
        missing = unknown.get("stage", unknown.get("name"))
        rests = self._work.unplaced(draft) if "name" in unknown else None  # it may be a loop variable
        self._work.fault(draft, place, reason, nearest=details.get("nearest"), missing=missing, rests=rests)
        self._work.leave_open(Known.EDGES)

    def _check_own(self, draft: Draft, name: str, value: Any, known: frozenset[str]) -> None:
        if not isinstance(value, str) or not value:
            return
        pointer = draft.pointers[name]
        try:
            tree = parse_condition(value, self.names(known))
        except ExpressionError as error:
            self._tell(draft, pointer, error)
            return
        for reference in references(tree):
            if reference.root not in known:
                seen = ", ".join(sorted(known))
                reason = f"{name} is evaluated by the component, which sees only {seen}, not {reference.root}"
                self._work.fault(draft, pointer, reason)

    def _bind(self, draft: Draft, template: Template, pointer: str, spelling: Spelling) -> Template:
        changed = False
        for reference in references(template):
            place = _under(pointer, reference.place)
            path = spelling.plain(reference.root, reference.path, place)
            if path is None:
                draft.uses.append(Use(reference.root, reference.path, reference.optional, place))
            else:
                changed = changed or path != (reference.root, reference.path)
        return respell(template, spelling) if changed else template


def _marked(draft: Draft, mark: str) -> dict[str, Any]:
    """The inputs whose schema carries a mark."""
    spec = draft.spec or draft.like
    declared = spec.input_schema.get("properties") if spec is not None else None
    return {
        name: schema[mark] for name, schema in (declared or {}).items() if isinstance(schema, dict) and mark in schema
    }


def _conditions(draft: Draft) -> set[str]:
    found = {name for name, marked in _marked(draft, "x-condition").items() if marked is True}
    if draft.kind in _CONDITIONS:
        found.add(_CONDITIONS[draft.kind])
    return found


def _own_expressions(draft: Draft) -> dict[str, frozenset[str]]:
    found = dict(_OWN.get(draft.kind, {})) if draft.kind is not None else {}
    for name, names in _marked(draft, "x-expression").items():
        if isinstance(names, list):
            found[name] = frozenset(str(name) for name in names)
    if draft.kind is Kind.FOREACH:
        found["filter_expression"] |= frozenset(draft.loop)
    return found


class Spelling:
    """The ways in which a stage may write its loop variables, turned into the one that the Plan keeps."""

    def __init__(self, work: Work, draft: Draft) -> None:
        self._work = work
        self._draft = draft
        self._loops = {loop.id: loop for loop in draft.loops}
        self._declared = {name for loop in self._loops.values() for name in loop.loop}

    def plain(
        self, root: str, path: tuple[str | int, ...], pointer: str | None = None
    ) -> tuple[str, tuple[str | int, ...]] | None:
        """A path to a loop variable in its plain spelling; None for any other path.

        With a `pointer`, a variable that cannot be reached is told of there.
        """
        if not self._loops:
            return None
        if root in self._declared:
            return root, path
        if root in ("item", "index"):
            return self._nearest(root == "index"), path
        head = path[0] if path else None
        if root == "context" and head in ("loop_item", "loop_index"):
            return self._nearest(head == "loop_index"), path[1:]
        if root == "context" and head in self._declared:
            return str(head), path[1:]
        if root == "context" and head == LOOP_TOTAL:
            return LOOP_TOTAL, path[1:]
        if root == "upstream" and head in self._loops and len(path) > 1:
            return self._through(self._loops[StageId(str(head))], path, pointer)
        return None

    def _nearest(self, index: bool) -> str:
        return next(iter(self._loops.values())).loop[index]

    def _through(
        self, loop: Draft, path: tuple[str | int, ...], pointer: str | None
    ) -> tuple[str, tuple[str | int, ...]] | None:
        item, index = loop.loop
        name = {"current_item": item, "current_index": index, item: item, index: index}.get(str(path[1]))
        if name is None:
            return None
        for inner in self._loops.values():
            if inner is loop:
                break
            if name in inner.loop and pointer is not None:
                reason = f"the loop variable {name!r} of {loop.id} is hidden by the one of {inner.id}"
                help = "give one of them another name by item_variable or index_variable"
                self._work.fault(self._draft, pointer, f"{reason}; {help}")
        return name, path[2:]


def _under(pointer: str, place: Iterable[str | int]) -> str:
    for key in place:
        pointer = below(pointer, key)
    return pointer


def respell(node: Any, spelling: Spelling) -> Any:
    """The tree with every loop variable in its plain spelling."""
    if isinstance(node, Static):
        return node
    if isinstance(node, Path):
        found = spelling.plain(node.root, node.path)
        return node if found is None else Path(*found)
    if isinstance(node, msgspec.Struct):
        fields = {name: respell(getattr(node, name), spelling) for name in node.__struct_fields__}
        return msgspec.structs.replace(node, **fields)
    if isinstance(node, tuple):
        return tuple(respell(part, spelling) for part in node)
    if isinstance(node, dict):
        return {key: respell(part, spelling) for key, part in node.items()}
    return node
