"""The numbers under a table of results."""

from __future__ import annotations

import math

_Z = 1.959963984540054
"""95 %."""


def wilson(passed: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a pass rate (Wilson's); (0, 1) where nothing was tried."""
    if not total:
        return 0.0, 1.0
    rate, square = passed / total, _Z * _Z
    centre = (rate + square / (2 * total)) / (1 + square / total)
    spread = _Z * math.sqrt(rate * (1 - rate) / total + square / (4 * total * total)) / (1 + square / total)
    return (
        0.0 if passed == 0 else max(0.0, centre - spread),
        1.0 if passed == total else min(1.0, centre + spread),
    )


def paired_p(better: int, worse: int) -> float:
    """How likely so uneven a split of flipped cases is by chance (McNemar's exact test, two-sided); 1.0 for none."""
    flipped = better + worse
    if not flipped:
        return 1.0
    tail = sum(math.comb(flipped, k) for k in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**flipped))


def mean(values: list[float]) -> float | None:
    """None of none."""
    return math.fsum(values) / len(values) if values else None


def percentile(values: list[float], share: float) -> float | None:
    """The nearest-rank percentile; `share` is 0 to 1."""
    if not values:
        return None
    ranked: list[float] = sorted(values)
    return ranked[max(0, math.ceil(share * len(values)) - 1)]
