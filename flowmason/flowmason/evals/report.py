"""What an evaluation came to: per case, per version, and between two versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from flowmason.errors import ExpressionError, RefusedError, UsageError
from flowmason.evals.graders import Grade
from flowmason.evals.statistics import mean, paired_p, percentile, wilson
from flowmason.expressions import Names, evaluate, parse_condition
from flowmason.usage import dollars

FORMAT = 1
MEASURES = (
    *("pass_rate", "pass_low", "pass_high", "mean_score", "cases", "passed", "errors"),
    *("latency_ms", "latency_p95_ms", "tokens", "cost"),
)
"""What a gate may read."""


class CaseResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One case with one version."""

    id: str
    status: str
    """Of its run: completed, failed, cancelled; `refused` where its input was not accepted."""
    run_id: str | None = None
    grades: dict[str, Grade] = {}
    error: str | None = None
    output: Any = None
    latency_ms: float = 0.0
    tokens: int = 0
    cost_nanodollars: int | None = 0
    """None: at an unknown price."""
    judge_tokens: int = 0
    tags: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the run completed and every grader is content."""
        return self.status == "completed" and self.error is None and all(grade.passed for grade in self.grades.values())

    @property
    def score(self) -> float:
        """The mean of its graders' scores; 0 without a result."""
        if self.status != "completed" or self.error is not None:
            return 0.0
        return mean([grade.score for grade in self.grades.values()]) or 0.0 if self.grades else 1.0


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """All cases with one version of a pipeline."""

    name: str
    plan: str
    """Digest of its Plan."""
    prompts: dict[str, str] = {}
    cases: tuple[CaseResult, ...] = ()

    def measures(self) -> dict[str, float | int | None]:
        """`MEASURES`, computed. Latencies are those of completed runs; cost is in dollars, None where unknown."""
        passed, total = sum(case.passed for case in self.cases), len(self.cases)
        low, high = wilson(passed, total)
        times = [case.latency_ms for case in self.cases if case.status == "completed"]
        costs = [case.cost_nanodollars for case in self.cases]
        known = [cost for cost in costs if cost is not None]
        return {
            "pass_rate": passed / total if total else 0.0,
            "pass_low": low,
            "pass_high": high,
            "mean_score": mean([case.score for case in self.cases]) or 0.0,
            "cases": total,
            "passed": passed,
            "errors": sum(case.status != "completed" or case.error is not None for case in self.cases),
            "latency_ms": mean(times),
            "latency_p95_ms": percentile(times, 0.95),
            "tokens": sum(case.tokens for case in self.cases),
            "cost": float(dollars(sum(known))) if len(known) == len(costs) else None,
        }


class Comparison(msgspec.Struct, frozen=True):
    """A version against the one before it, case by case."""

    old: str
    new: str
    better: tuple[str, ...]
    """Cases that pass now and did not."""
    worse: tuple[str, ...]
    cases: int
    """Those that both versions ran."""
    p: float
    """How likely so uneven a split is by chance."""

    @property
    def hint(self) -> str:
        """What that means, in words."""
        if not self.better and not self.worse:
            return "no case flipped"
        found = "a real difference" if self.p < 0.05 else "may well be chance"
        return f"{len(self.better)} better, {len(self.worse)} worse, p = {self.p:.3f}: {found}"


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One evaluation; the stored form."""

    id: str
    pipeline: str
    dataset: str
    at: int
    """Milliseconds since the epoch."""
    graders: tuple[str, ...] = ()
    versions: tuple[Version, ...] = ()
    partial: bool = False
    """Whether it was ended before all cases were run."""
    gate: str | None = None
    gate_passed: bool | None = None
    format: int = FORMAT

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Each version against the first."""
        return tuple(compare(self.versions[0], other) for other in self.versions[1:])

    def document(self) -> dict[str, Any]:
        """The report as plain JSON data, with its numbers."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        for version, written in zip(self.versions, found.get("versions", ()), strict=True):
            written["summary"] = version.measures()
            for case, line in zip(version.cases, written.get("cases", ()), strict=True):
                line |= {"passed": case.passed, "score": case.score}
        found["comparisons"] = [{**msgspec.to_builtins(each), "hint": each.hint} for each in self.comparisons]
        return found


def compare(old: Version, new: Version) -> Comparison:
    """Two versions over the cases that both ran."""
    before = {case.id: case.passed for case in old.cases}
    shared = [case for case in new.cases if case.id in before]
    better = tuple(case.id for case in shared if case.passed and not before[case.id])
    worse = tuple(case.id for case in shared if not case.passed and before[case.id])
    return Comparison(old.name, new.name, better, worse, len(shared), paired_p(len(better), len(worse)))


def check_gate(gate: str) -> None:
    """Raises `UsageError` for a gate that cannot be read."""
    from flowmason.expressions import references

    try:
        tree = parse_condition(gate, Names(variables=frozenset(MEASURES)))
    except ExpressionError as error:
        raise UsageError(f"--gate: {error.failure.message}", help=f"It may read {', '.join(MEASURES)}.") from None
    strange = sorted({reference.root for reference in references(tree)} - set(MEASURES))
    if strange:
        raise UsageError(f"--gate cannot read {strange[0]!r}", help=f"It may read {', '.join(MEASURES)}.")


def holds(gate: str, version: Version) -> bool:
    """Whether a version passes a gate. What is unknown (a cost, say) passes none."""
    try:
        return evaluate(parse_condition(gate, Names(variables=frozenset(MEASURES))), version.measures()) is True
    except ExpressionError:
        return False


def read_report(data: bytes, file: str) -> Report:
    """A report that was stored. Raises `UsageError`, and `RefusedError` for one of a newer format."""
    from flowmason.errors import Fault

    try:
        value = msgspec.json.decode(data)
        if isinstance(value, dict) and value.get("format", 1) > FORMAT:
            raise RefusedError(
                [Fault(f"the report has format {value['format']}; this FlowMason knows {FORMAT}", file=file)]
            )
        return msgspec.convert(value, Report)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{file} is no report of fm eval: {error}") from None


def ordered(cases: Sequence[CaseResult], ids: Sequence[str]) -> tuple[CaseResult, ...]:
    """Results in the order of the data set."""
    place = {name: number for number, name in enumerate(ids)}
    return tuple(sorted(cases, key=lambda case: place[case.id]))
