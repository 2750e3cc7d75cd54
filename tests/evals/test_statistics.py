"""The numbers under a table of results."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.errors import UsageError
from flowmason.evals.graders import Grade
from flowmason.evals.report import CaseResult, Version, check_gate, compare, holds
from flowmason.evals.statistics import paired_p, percentile, wilson

counts = st.integers(0, 300)


@given(counts, counts)
def test_an_interval_holds_its_rate_and_stays_within_bounds(passed: int, failed: int) -> None:
    low, high = wilson(passed, passed + failed)
    assert 0 <= low <= high <= 1
    if passed + failed:
        assert low <= passed / (passed + failed) <= high


@given(st.integers(1, 100), st.integers(0, 100))
def test_more_of_the_same_narrows_the_interval(passed: int, failed: int) -> None:
    low, high = wilson(passed, passed + failed)
    narrow_low, narrow_high = wilson(passed * 4, (passed + failed) * 4)
    assert narrow_high - narrow_low < high - low


def test_an_interval_is_that_of_the_literature() -> None:
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@given(counts, counts)
def test_chance_does_not_care_which_side_is_called_better(better: int, worse: int) -> None:
    assert paired_p(better, worse) == paired_p(worse, better)
    assert 0 <= paired_p(better, worse) <= 1


@given(st.integers(0, 60), st.integers(0, 60))
def test_chance_is_that_of_fair_coins(better: int, worse: int) -> None:
    flips, rare = better + worse, min(better, worse)
    as_rare = sum(math.comb(flips, k) for k in range(flips + 1) if min(k, flips - k) <= rare)
    assert paired_p(better, worse) == pytest.approx(as_rare / 2**flips)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_with_enough_below(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


def version(name: str, passed: dict[str, bool], cost: int | None = 0) -> Version:
    cases = [
        CaseResult(id=key, status="completed", grades={"g": Grade(ok, float(ok))}, cost_nanodollars=cost)
        for key, ok in passed.items()
    ]
    return Version(name, "sha256:0", {}, tuple(cases))


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.booleans(), st.booleans())))
def test_flips_add_up_to_the_difference_of_what_passed(both: dict[str, tuple[bool, bool]]) -> None:
    old = version("old", {key: pair[0] for key, pair in both.items()})
    new = version("new", {key: pair[1] for key, pair in both.items()})
    found = compare(old, new)
    assert len(found.better) - len(found.worse) == new.measures()["passed"] - old.measures()["passed"]  # type: ignore[operator]
    assert found.cases == len(both)


def test_cases_that_only_one_version_ran_are_not_compared() -> None:
    found = compare(version("a", {"x": True, "y": False}), version("b", {"y": True, "z": False}))
    assert (found.better, found.worse, found.cases) == (("y",), (), 1)


def test_a_gate_reads_measures_and_what_is_unknown_passes_none() -> None:
    good = version("a", {"x": True, "y": True})
    assert holds("pass_rate >= 0.9 and errors == 0", good)
    assert not holds("pass_rate > 1", good)
    assert not holds("cost < 5", version("a", {"x": True}, cost=None))
    for wrong in ("pass_rat > 1", "pass_rate >", "input.x"):
        with pytest.raises(UsageError, match="gate"):
            check_gate(wrong)
