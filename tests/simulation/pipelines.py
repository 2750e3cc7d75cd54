"""Random pipelines for the simulation: every kind of stage, nested, with trouble in them."""

from __future__ import annotations

import random
from typing import Any

from flowmason.compiler import compile_pipeline
from flowmason.component import ComponentSpec
from flowmason.pipeline import parse_pipeline
from flowmason.plan import Plan
from flowmason.policy import Effect, OnLost, Placement, RetryPolicy

_INPUT = {
    "type": "object",
    "properties": {"value": {}, "flaky": {"type": "number"}, "fails": {}},
    "additionalProperties": False,
}
_OUTPUT = {
    "type": "object",
    "properties": {"value": {}, "path": {"type": "string"}},
    "additionalProperties": False,
}


def _spec(name: str, effect: Effect, retries: int) -> ComponentSpec:
    return ComponentSpec(
        name=name,
        kind="operator",
        input_schema=_INPUT,
        output_schema=_OUTPUT,
        effect=effect,
        placement=Placement.TASK if effect is Effect.PURE else Placement.HOST,
        on_lost=OnLost.UNKNOWN if effect is Effect.UNSAFE else OnLost.RERUN,
        retry=RetryPolicy(max_retries=retries, initial_delay_ms=100),
        timeout_ms=5_000,
        target=f"simulated:{name}",
        digest=f"sha256:{name}",
    )


def _control(name: str) -> ComponentSpec:
    from flowmason.registry import find_components

    return find_components(None).require(name)


class Specs(dict[str, ComponentSpec]):
    """The simulated components, and the built-in control flow."""

    def __init__(self) -> None:
        super().__init__(
            pure=_spec("pure", Effect.PURE, 0),
            careful=_spec("careful", Effect.IDEMPOTENT, 3),
            unsafe=_spec("unsafe", Effect.UNSAFE, 0),
        )
        for name in ("conditional", "router", "foreach", "trycatch", "return"):
            self[name] = _control(name)


class Maker:
    """Draws a pipeline from a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"{seed}/pipeline")
        self._budgets = random.Random(f"{seed}/budgets of stages")
        self._count = 0
        self.stages: list[dict[str, Any]] = []

    def make(self) -> dict[str, Any]:
        """A pipeline document."""
        self._scope([], depth=0, size=self._rng.randint(1, 6))
        return {"name": "simulated", "version": "1.0.0", "stages": self.stages}

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def _scope(self, outside: list[str], *, depth: int, size: int) -> list[str]:
        rng = self._rng
        here: list[str] = []
        for _ in range(size):
            visible = [*outside, *here]
            kind = rng.choices(
                ("pure", "careful", "unsafe", "conditional", "foreach", "trycatch", "return"),
                (8, 3, 2, 2, 3 if depth < 2 else 0, 3 if depth < 2 else 0, 0.3),
            )[0]
            here += getattr(self, f"_{kind}", self._work)(kind, visible, here, depth)
        return here

    def _some(self, names: list[str]) -> list[str]:
        return sorted(self._rng.sample(names, min(len(names), self._rng.choice((0, 1, 1, 2)))))

    def _work(self, kind: str, visible: list[str], here: list[str], depth: int) -> list[str]:
        rng, name = self._rng, self._name(kind)
        config: dict[str, Any] = {}
        reads = self._some(visible)
        if reads:
            config["value"] = [f"{{{{upstream.{read}}}}}" for read in reads]
        if rng.random() < 0.2:
            config["flaky"] = 0.4
        if rng.random() < 0.04:
            config["fails"] = True
        stage = {"id": name, "component": kind, "config": config, "depends_on": self._some(here)}
        if self._budgets.random() < 0.1:
            stage["budget"] = {"max_tokens": self._budgets.choice((500, 2_000, 20_000))}
        self.stages.append(stage)
        return [name]

    def _conditional(self, kind: str, visible: list[str], here: list[str], depth: int) -> list[str]:
        guard = self._name("if")
        self.stages.append({"id": guard, "component": "conditional", "config": {"condition": self._rng.random() < 0.5}})
        position = len(self.stages) - 1
        yes = self._work("pure", visible, here, depth)
        no = self._work(self._rng.choice(("pure", "careful")), visible, here, depth)
        self.stages[position]["config"].update(true_branch_stages=yes, false_branch_stages=no)
        return [guard, *yes, *no]

    def _foreach(self, kind: str, visible: list[str], here: list[str], depth: int) -> list[str]:
        name, rng = self._name("each"), self._rng
        stage: dict[str, Any] = {"id": name, "component": "foreach"}
        self.stages.append(stage)
        body = self._scope(visible, depth=depth + 1, size=rng.randint(1, 3))
        stage["config"] = {
            "items": list(range(rng.choice((0, 1, 3, 7)))),
            "loop_stages": self._owned(body),
            "parallel": rng.random() < 0.6,
            "max_parallel": rng.choice((1, 2, 5)),
            "break_on_error": rng.random() < 0.5,
        }
        return [name]

    def _trycatch(self, kind: str, visible: list[str], here: list[str], depth: int) -> list[str]:
        name, rng = self._name("try"), self._rng
        stage: dict[str, Any] = {"id": name, "component": "trycatch"}
        self.stages.append(stage)
        parts = {
            "try_stages": self._scope(visible, depth=depth + 1, size=rng.randint(1, 3)),
            "catch_stages": self._scope(visible, depth=depth + 1, size=rng.randint(0, 2)),
            "finally_stages": self._scope(visible, depth=depth + 1, size=rng.randint(0, 1)),
        }
        stage["config"] = {key: self._owned(body) for key, body in parts.items()}
        stage["config"].update(
            error_scope=rng.choice(("propagate", "continue")), max_retries=rng.choice((0, 0, 1)), retry_delay_ms=100
        )
        return [name]

    def _return(self, kind: str, visible: list[str], here: list[str], depth: int) -> list[str]:
        name = self._name("return")
        self.stages.append(
            {
                "id": name,
                "component": "return",
                "config": {"condition": self._rng.random() < 0.5, "return_value": name},
                "depends_on": self._some(here),
            }
        )
        return [name]

    def _owned(self, body: list[str]) -> list[str]:
        """The body's own stages: a nested owner's body is not listed again."""
        return list(body)


_specs: Specs | None = None


def random_plan(seed: int) -> Plan:
    """The Plan of a random pipeline."""
    global _specs
    if _specs is None:
        _specs = Specs()
    faults: list[Any] = []
    pipeline = parse_pipeline(Maker(seed).make(), faults)
    assert pipeline is not None and not faults, faults
    return compile_pipeline(pipeline, _specs)
