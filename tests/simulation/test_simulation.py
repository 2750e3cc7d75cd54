"""The real conductor and region runner on virtual time, in a world that loses, delays, doubles and crashes.

A failure prints its seed: `FLOWMASON_SIM_FIRST=<seed> FLOWMASON_SIM_SEEDS=1` runs that one alone.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import pytest

from flowmason.event import kind
from simulation.drive import Outcome, simulate

FIRST = int(os.environ.get("FLOWMASON_SIM_FIRST", "0"))
SEEDS = int(os.environ.get("FLOWMASON_SIM_SEEDS", "2000"))
_BATCH = 100
BATCHES = range(FIRST, FIRST + SEEDS, _BATCH)
_LOOKED_AT = 150
"""Seeds of which several tests look at what came of them."""


@pytest.fixture(autouse=True)
def quiet() -> object:
    """Crashes are part of the plot; their tracebacks are not."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@cache
def _kept(seed: int) -> Outcome:
    return simulate(seed)


def _batch(first: int) -> tuple[str, Counter[str]]:
    """What is wrong with the first bad seed of a batch, and how the runs ended."""
    logging.disable(logging.CRITICAL)
    statuses: Counter[str] = Counter()
    for seed in range(first, min(first + _BATCH, FIRST + SEEDS)):
        try:
            outcome = simulate(seed)
        except BaseException as error:
            return f"seed {seed}: {type(error).__name__}: {error}", statuses
        if outcome.problems:
            return f"seed {seed} ({outcome.status}): {outcome.problems}", statuses
        statuses[outcome.status] += 1
    return "", statuses


@pytest.fixture(scope="module")
def batches() -> Iterator[dict[int, Future[tuple[str, Counter[str]]]]]:
    """All batches, simulated by one process for each CPU."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        yield {first: pool.submit(_batch, first) for first in BATCHES}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("first", BATCHES)
def test_every_seed_keeps_the_promises(first: int, batches: dict[int, Future[tuple[str, Counter[str]]]]) -> None:
    problem, statuses = batches[first].result()
    assert not problem, problem
    if SEEDS >= _BATCH:
        assert len(statuses) >= 2, f"the world has grown dull: {statuses}"


def test_without_trouble_every_seed_ends_by_itself() -> None:
    for seed in range(200):
        outcome = simulate(seed, trouble=False)
        assert not outcome.problems, f"seed {seed}: {outcome.problems}"
        assert outcome.status in ("completed", "failed", "cancelled")
        assert outcome.crashes == 0


def test_crashes_happen_and_are_survived() -> None:
    outcomes = [_kept(seed) for seed in range(100)]
    assert sum(outcome.crashes for outcome in outcomes) > 30


def test_regions_of_several_runs_share_tasks() -> None:
    assert sum(_kept(seed).shared for seed in range(100)) > 30


def test_a_seed_gives_the_same_journal_under_any_hash_seed() -> None:
    program = (
        "import logging; logging.disable(logging.CRITICAL)\n"
        "from simulation.drive import simulate\n"
        "print([simulate(seed).fingerprint for seed in range(40)])"
    )
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root / "tests")},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    printed = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(printed) == 1


def test_budgets_bite_and_calls_are_lost() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(_LOOKED_AT):
        for item in _kept(seed).events:
            event = item.event
            kinds[kind(event)] += 1
            kinds.update(str(call.end) for call in getattr(event, "calls", ()))
            failure = getattr(event, "failure", None)
            kinds.update([failure.code] if failure is not None else [])
    assert min(kinds[name] for name in ("stage.deferred", "answered", "failed", "aborted", "lost")) > 0, kinds
    assert kinds["BUDGET_EXCEEDED"] > 10, kinds
