"""`fm run --max-cost` and `--max-tokens`, with the mock provider's price."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from flowmason.ids import LOCAL_ORG
from flowmason.journal_sql import open_journal
from flowmason.ledger import OrgCall
from flowmason.usage import Call
from fm_project import Fm, Project

MOCK = {"max_tokens": 200, "extra": {"price": {"input": "1000", "output": "2000"}}}
LINE = {
    "name": "line",
    "version": "1.0.0",
    "stages": [
        {"id": "one", "component_type": "generator", "config": {"prompt": "one two three"}},
        {"id": "two", "component_type": "generator", "config": {"prompt": "{{upstream.one.content}}"}},
    ],
}


@pytest.fixture
def line(project: Project) -> Project:
    return _configured(project)


def _configured(project: Project, **more: Any) -> Project:
    manifest = project.root / "flowmason.json"
    settings = json.loads(manifest.read_text())
    settings["providers"] = {"default": "mock", "mock": MOCK}
    manifest.write_text(json.dumps({**settings, **more}))
    project.pipeline(LINE)
    return project


def test_a_run_that_fits_says_what_it_cost(line: Project, fm: Fm) -> None:
    answer = fm("run", "line", "--max-cost", "5", "--json")
    assert answer.code == 0, answer
    usage = answer.json["usage"]
    assert usage["calls"] == 2
    assert float(usage["cost"]) == pytest.approx((usage["input_tokens"] + 2 * usage["output_tokens"]) / 1000)


def test_a_run_that_does_not_fit_fails_before_the_call(line: Project, fm: Fm) -> None:
    answer = fm("run", "line", "--max-cost", "0.40", "--json")
    assert answer.code == 1, answer
    assert answer.json["error"]["code"] == "BUDGET_EXCEEDED"
    assert answer.json["error"]["details"]["limit_nanodollars"] == 400_000_000
    assert answer.json["usage"]["calls"] == 0


def test_tokens_are_limited_too(line: Project, fm: Fm) -> None:
    assert fm("run", "line", "--max-tokens", "10").code == 1
    assert fm("run", "line", "--max-tokens", "100000").code == 0


def test_a_projects_budget_holds_whatever_the_flag_says(project: Project, fm: Fm) -> None:
    _configured(project, budget={"max_cost": "0.01"})
    answer = fm("run", "line", "--max-cost", "5", "--json")
    assert (answer.code, answer.json["error"]["code"]) == (1, "BUDGET_EXCEEDED")


def test_an_amount_that_is_none_is_refused(line: Project, fm: Fm) -> None:
    answer = fm("run", "line", "--max-cost", "much")
    assert answer.code == 2 and "0.50" in answer.err


def test_usage_is_added_up_over_runs_by_day_pipeline_and_model(line: Project, fm: Fm) -> None:
    assert fm("usage").code == 0
    costs = [fm("run", "line", "--json").json["usage"] for _ in range(2)]
    found = fm("usage", "--json").json
    (item,) = found["items"]
    assert (item["pipeline"], item["provider"], item["model"], item["calls"]) == ("line", "mock", "mock-1", 4)
    assert item["input_tokens"] == sum(cost["input_tokens"] for cost in costs)
    assert float(item["cost"]) == pytest.approx(sum(float(cost["cost"]) for cost in costs))
    assert found["total"]["calls"] == 4
    assert fm("runs", "prune", "--older-than", "0s").code == 0
    assert fm("usage", "--by", "model", "--json").json["total"]["cost"] == found["total"]["cost"]
    shown = fm("usage", "--by", "pipeline")
    assert "line" in shown.out and "$" in shown.out
    assert fm("usage", "--by", "moon").code == 2
    assert fm("usage", "--pipeline", "other", "--json").json == {"items": [], "total": None}


def test_kept_answers_are_cleared(line: Project, fm: Fm) -> None:
    one = {"id": "one", "component_type": "generator", "config": {"prompt": "one"}, "llm_settings": {"cache_s": 3600}}
    line.pipeline({**LINE, "stages": [one]})
    assert [fm("run", "line", "--json").json["usage"]["calls"] for _ in range(2)] == [1, 0]
    assert "1 kept answer removed" in fm("answers", "clear").err
    assert fm("run", "line", "--json").json["usage"]["calls"] == 1


def test_calls_over_http_are_shown_under_their_caller(line: Project, fm: Fm) -> None:
    async def called() -> None:
        journal = open_journal(f"sqlite:///{line.root / '.flowmason' / 'flowmason.db'}")
        made = OrgCall("call_1", LOCAL_ORG, "key_1", "models", "small")
        await journal.end_call(made, Call("", "", input_tokens=7), int(time.time() * 1000))
        await journal.close()

    fm("run", "line")
    asyncio.run(called())
    items = fm("usage", "--by", "caller", "--json").json["items"]
    assert {item["caller"]: item["input_tokens"] for item in items}["key_1"] == 7 and len(items) == 2
    shown = fm("usage", "--by", "pipeline,caller").out
    assert [each.split()[:3] for each in shown.splitlines() if "key_1" in each] == [["(over", "HTTP)", "key_1"]]


def test_a_run_that_failed_for_its_budget_goes_on_with_a_larger_one(line: Project, fm: Fm) -> None:
    failed = fm("run", "line", "--max-cost", "0.45", "--json")
    assert failed.code == 1 and failed.json["error"]["code"] == "BUDGET_EXCEEDED", failed
    assert fm("resume", failed.json["run_id"], "--json").code == 1
    done = fm("resume", failed.json["run_id"], "--max-cost", "5", "--json")
    assert done.code == 0 and done.json["usage"]["calls"] == 2, done
    told = fm("runs", "export", failed.json["run_id"]).out
    assert '"budget": {"max_cost": "5"}' in told or '"budget":{"max_cost":"5"}' in told


def test_a_run_without_a_budget_is_not_given_one_later(project: Project, fm: Fm) -> None:
    stage = {"id": "one", "component_type": "generator", "config": {"prompt": "{{input.no}}"}}
    project.pipeline({**LINE, "stages": [stage]})
    failed = fm("run", "line", "--json")
    assert failed.code == 1, failed
    answer = fm("resume", failed.json["run_id"], "--max-cost", "5")
    assert answer.code == 2 and "began without a budget" in answer.err
