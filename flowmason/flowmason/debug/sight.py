"""What can be seen from a place in a run: the roots of expressions, evaluated without a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from flowmason import control, value
from flowmason.debug.points import names_at
from flowmason.dispatch import error_of, local_values
from flowmason.errors import Code, ExpressionError, FlowMasonError
from flowmason.expressions import ABSENT, Fields, Template, evaluate, parse_condition
from flowmason.ids import Digest, StageId
from flowmason.plan import Stage
from flowmason.state import RunState, ScopeState, StageState
from flowmason.state.lookup import value_of
from flowmason.value import Concat, Inline, Picked, Record, Sequence, Stored, Value

Load = Callable[[Value], Any]
"""The plain data of a value. Raises `FlowMasonError` where it is gone or too large to be looked at."""

MOST_BYTES = 16 * 1024 * 1024
"""A stored value that is larger is not looked at."""


def loader(fetch: Callable[[Digest], bytes], most: int = MOST_BYTES) -> Load:
    """A `Load` that reads stored values of at most `most` bytes by `fetch`."""

    def load(source: Value) -> Any:
        if isinstance(source, Inline):
            return value.decode(source.data)
        if isinstance(source, Stored):
            if source.size > most:
                raise FlowMasonError(
                    f"a value of {source.size} bytes is not looked at here (at most {most})",
                    code=Code.RESOURCE_EXHAUSTED,
                )
            return value.decode(fetch(source.digest))
        if isinstance(source, Record):
            return {key: load(part) for key, part in source.fields.items()}
        if isinstance(source, Sequence):
            return [load(part) for part in source.items]
        if isinstance(source, Concat):
            return [item for chunk in source.chunks for item in load(chunk)]
        assert isinstance(source, Picked)
        found = control.pick(load(source.source), source.path)
        return None if found is control.MISSING else found

    return load


class Watched(msgspec.Struct, frozen=True, omit_defaults=True):
    """A watch expression and its value, or why it has none."""

    expression: str
    value: Any = None
    error: str | None = None


class _Upstream(Mapping[str, Any]):
    """Outputs by stage id, read when they are looked at."""

    def __init__(self, scope: ScopeState, load: Load) -> None:
        self._scope = scope
        self._load = load

    def __getitem__(self, key: str) -> Any:
        if key not in self._scope.plan.stages:
            raise KeyError(key)
        found = value_of(self._scope, StageId(key))
        return ABSENT if found is None else self._load(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._scope.plan.stages)

    def __len__(self) -> int:
        return len(self._scope.plan.stages)


class Sight(Mapping[str, Any]):
    """The roots of expressions at a stage (or, without one, at the top of the run).

    `env` is known to workers alone; reading it here is an error that says so.
    """

    def __init__(self, state: RunState, stage: StageState | None, load: Load) -> None:
        scope = stage.scope if stage is not None else state.root
        assert scope is not None
        self.scope = scope
        self._state = state
        self._stage = stage
        self._load = load
        self._locals = local_values(scope)
        self._upstream = _Upstream(scope, load)
        self._made: dict[str, Any] = {}
        plain: Stage | None = stage.stage if stage is not None else None
        self.names = names_at(scope.plan, plain, self._locals)

    def __getitem__(self, key: str) -> Any:
        if key not in self._made:
            self._made[key] = self._make(key)
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("input", "upstream", "context", "error", *self._locals))

    def __len__(self) -> int:
        return 4 + len(self._locals)

    def _make(self, key: str) -> Any:
        if key in self._locals:
            return self.local(key)
        if key == "upstream":
            return self._upstream
        if key == "input":
            return None if self.scope.input is None else self._load(self.scope.input)
        if key == "context":
            return self._context()
        if key == "error":
            failure = error_of(self.scope)
            return None if failure is None else control.error_view(failure)
        if key == "env":
            raise ExpressionError("env is known to workers alone; it cannot be looked at here")
        raise KeyError(key)

    def local(self, name: str) -> Any:
        """The value of a loop variable."""
        source, position = self._locals[name]
        found = self._load(source)
        return found if position < 0 else found[position]

    @property
    def locals(self) -> dict[str, Any]:
        """The loop variables around the place."""
        return {name: self._or_error(partial(self.local, name)) for name in self._locals}

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the stage sees."""
        inherited = self.scope.inherited
        found: dict[str, Any] = dict(self._load(inherited)) if inherited is not None else {}
        for name, setters in (self._stage.stage.variables if self._stage is not None else {}).items():
            for setter in setters:
                output = self._upstream[setter]
                if isinstance(output, Mapping) and "value" in output:
                    found[name] = output["value"]
                    break
        return found

    def _context(self) -> dict[str, Any]:
        plan, run_id = self.scope.plan, self._state.run_id
        known: dict[str, Any] = {
            "run_id": run_id,
            "pipeline_id": plan.name,
            "pipeline_version": plan.version,
            "stage_id": self._stage.stage.id if self._stage is not None else None,
            "trace_id": str(self._state.options.get("trace_id") or run_id),
        }
        return {**self.variables, **known}

    def evaluate(self, template: Template) -> Any:
        """The value of an expression here. Raises `FlowMasonError`."""
        return evaluate(template, self)

    def read(self, expression: str) -> Any:
        """Read and evaluate an expression. Raises `FlowMasonError`."""
        return self.evaluate(parse_condition(expression, self.names))

    def _or_error(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except FlowMasonError as error:
            return {"$error": error.failure.message}

    def fields(self, template: Template) -> Any:
        """A stage's inputs, field by field; one that cannot be evaluated here says why as `{"$error": …}`."""
        if isinstance(template, Fields):
            return {key: self._or_error(partial(self.evaluate, part)) for key, part in template.fields.items()}
        return self._or_error(partial(self.evaluate, template))


def watch(sight: Sight, expressions: Iterable[str]) -> list[Watched]:
    """Every expression with its value, or why it has none."""
    found = []
    for expression in expressions:
        try:
            found.append(Watched(expression, sight.read(expression)))
        except FlowMasonError as error:
            found.append(Watched(expression, error=error.failure.message))
    return found
