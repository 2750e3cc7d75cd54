"""What the figures of a Studio say, and that they read a day's runs and what is under way, never all that is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from flowmason.ids import OrgId
from flowmason.studio.figures import WINDOW_MS, figures
from flowmason.studio.scope import StudioStore, System
from studio.kit import ACME, OTHER

NOW = 10 * WINDOW_MS
SUMMARY = {"duration_ms": 2000, "stages": {"completed": 3, "failed": 1}, "usage": {"cost_nanodollars": 500_000_000}}
DIALECTS: dict[str, Any] = {"sqlite": sqlite, "postgresql": postgresql}


class Explaining:
    """A transaction that notes the plan of every statement that it runs."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.dialect = system.dialect
        self.plans: list[str] = []

    def execute(self, statement: Any) -> Any:
        text = str(statement.compile(dialect=DIALECTS[self.dialect].dialect(), compile_kwargs={"literal_binds": True}))
        ask = "EXPLAIN QUERY PLAN " if self.dialect == "sqlite" else "EXPLAIN (COSTS OFF) "
        rows = self._system.execute(sa.text(ask + text.replace(":", "\\:")))
        self.plans.append("\n".join(str(row[-1]) for row in rows))
        return self._system.execute(statement)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StudioStore]:
    """A store with some thousand runs that were over long ago."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    made = StudioStore.open(request.getfixturevalue("postgres_url") if request.param == "postgres" else url)
    for org in (ACME, OTHER):
        _add(made, org, 2000, age=5 * WINDOW_MS)
    yield made
    made.close()


def _add(store: StudioStore, org: OrgId, count: int = 1, **said: Any) -> None:
    """Runs that were submitted `age` milliseconds before `NOW`."""
    created = NOW - said.pop("age", 1000)
    values = {
        "org_id": org, "plan_id": "p", "pipeline": "p", "version": "1", "status": "completed", "epoch": 1, "seq": 1,
        "owner": None, "wake_at": None, "priority": 0, "updated_at": created, "summary": json.dumps(SUMMARY), **said,
    }  # fmt: skip
    with store.system() as system:
        before = system.execute(sa.text("SELECT count(*) FROM runs")).scalar_one()
        runs = sa.table("runs", *(sa.column(name) for name in ("run_id", "created_at", *values)))
        new = [{"run_id": f"r{before + n}", "created_at": created - n, **values} for n in range(count)]
        system.execute(sa.insert(runs).values(new))


def _asked(store: StudioStore, orgs: list[OrgId] | None) -> tuple[Any, list[str]]:
    with store.system() as system:
        if system.dialect == "postgresql":
            system.execute(sa.text("ANALYZE runs"))
        explaining: Any = Explaining(system)
        return figures(explaining, NOW, orgs), explaining.plans


def test_figures_count_what_is_under_way_and_the_runs_of_a_day(store: StudioStore) -> None:
    _add(store, ACME, 2)
    _add(store, ACME, 1, status="failed")
    _add(store, ACME, 3, status="queued", age=2 * WINDOW_MS)
    _add(store, ACME, 1, status="running", wake_at=NOW + 5, age=3 * WINDOW_MS)
    _add(store, OTHER, 2, status="running", owner="c1")
    # One that is held is walked, and one that is paused or over waits for nobody.
    _add(store, OTHER, 1, status="queued", owner="c1")
    _add(store, OTHER, 1, status="paused")
    found, _ = _asked(store, None)
    assert [(each.org_id, each.waiting, each.oldest, each.walked) for each in found.now] == [
        (ACME, 4, NOW - 3 * WINDOW_MS, 0),
        (OTHER, 0, None, 3),
    ]
    past = {(each.org_id, each.status): each for each in found.past}
    assert {key: each.runs for key, each in past.items()} == {
        (ACME, "completed"): 2,
        (ACME, "failed"): 1,
        (OTHER, "running"): 2,
        (OTHER, "queued"): 1,
        (OTHER, "paused"): 1,
    }
    done = past[ACME, "completed"]
    assert (done.stages_completed, done.stages_failed, done.cost_dollars, done.seconds) == (6, 2, 1.0, 4.0)
    alone, _ = _asked(store, [ACME])
    assert alone.now == found.now[:1] and {each.org_id for each in alone.past} == {ACME}


@pytest.mark.parametrize(("orgs", "index"), [(None, "runs_recent"), ([ACME], "runs_by_age")])
def test_figures_read_no_more_than_they_count(store: StudioStore, orgs: list[OrgId] | None, index: str) -> None:
    _add(store, ACME, 5)
    _add(store, ACME, 2, status="queued")
    _add(store, OTHER, 2, status="running", owner="c1")
    _, (now, past) = _asked(store, orgs)
    assert _indexes(now) == ["runs_waiting", "runs_asleep", "runs_held"], now
    assert _indexes(past) == [index], past


def _indexes(plan: str) -> list[str]:
    """By which indexes a plan reads the runs, access by access; a table that is read whole counts as "all"."""
    by_index = r"Bitmap Index Scan on (\w+)|USING (?:COVERING )?INDEX (\w+)|Index (?:Only )?Scan using (\w+)"
    whole = r"(Seq Scan on runs|SCAN runs(?! USING))"
    found = re.finditer(f"{by_index}|{whole}", plan)
    return ["all" if match[4] else match[1] or match[2] or match[3] for match in found]
