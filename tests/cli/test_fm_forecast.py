"""`fm run --forecast` and `fm usage --forecast`, with the mock provider's price."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowmason.cli.forecast_told import line
from fm_project import Fm, Project

PRICE = {"input": "1000", "output": "2000"}
ASK = {"id": "ask", "component_type": "generator", "config": {"prompt": "one two three"}}
LINE = {"name": "line", "version": "1.0.0", "stages": [ASK]}
CALLED = {**LINE, "name": "called", "budget": {"max_tokens": 3000, "max_cost": "3"}}


@pytest.fixture
def priced(project: Project) -> Project:
    manifest = project.root / "flowmason.json"
    mock = {"max_tokens": 200, "extra": {"price": PRICE}}
    known = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**known, "providers": {"default": "mock", "mock": mock}}))
    project.pipeline(LINE)
    project.pipeline(CALLED)
    return project


def _each(items: Any, **more: Any) -> dict[str, Any]:
    """Calls the pipeline `called` for each of some items."""
    call = {"id": "call", "component_type": "subpipeline", "config": {"pipeline_id": "called"}}
    each = {"id": "each", "component_type": "foreach", "config": {"items": items, "loop_stages": ["call"]}, **more}
    return {"name": "many", "version": "1.0.0", "stages": [each, call]}


def test_before_the_first_run_it_says_that_nothing_is_known_and_nothing_bounds_it(priced: Project, fm: Fm) -> None:
    told = fm("usage", "--forecast", "line", "--json").json
    assert told["worst"] == {"cost": None, "tokens": None} and told["usual"] is None
    (stage,) = told["stages"]
    assert stage["stage"] == "ask"
    assert stage["models"] == [{"provider": "mock", "model": "mock-1", "price": PRICE, "max_tokens": 200}]
    shown = fm("usage", "--forecast", "line").out
    assert "no bound" in shown and "no completed run" in shown and "$1000 in, $2000 out" in shown


def test_what_is_usual_is_what_completed_runs_used(priced: Project, fm: Fm) -> None:
    usages = [fm("run", "line", "--json").json["usage"] for _ in range(2)]
    fm("run", "line", "--max-tokens", "5")  # fails, and tells nothing
    found = fm("usage", "--forecast", "line", "--json").json["usual"]
    assert (found["runs"], found["same"], found["beyond"], found["unpriced"]) == (2, 2, 0, 0)
    assert {found["cost"][key] for key in ("min", "median", "max")} == {usages[0]["cost"]}
    assert found["tokens"]["median"] == usages[0]["input_tokens"] + usages[0]["output_tokens"]
    assert found["calls"] == {"min": 1, "median": 1, "max": 1}


def test_a_run_says_its_forecast_on_stderr_and_leaves_stdout_alone(priced: Project, fm: Fm) -> None:
    fm("run", "line")
    answer = fm("run", "line", "--forecast", "--max-cost", "5", "--json")
    assert answer.code == 0 and answer.json["usage"]["calls"] == 1, answer
    assert "at most $5" in answer.err and "1 run" in answer.err and "mock/mock-1" in answer.err
    assert "forecast" not in fm("run", "line", "--max-cost", "5").err


def test_runs_that_used_more_than_the_budget_are_counted_and_nothing_is_refused(priced: Project, fm: Fm) -> None:
    fm("run", "line")
    answer = fm("run", "line", "--forecast", "--max-tokens", "5")
    assert "1 of them used more than that" in answer.err
    assert "BUDGET_EXCEEDED" in answer.err  # the budget itself refused it


def test_the_budget_of_a_sub_pipeline_counts_for_each_known_item(priced: Project, fm: Fm) -> None:
    priced.pipeline(_each([1, 2, 3, 4]))
    told = fm("usage", "--forecast", "many", "--json").json
    assert told["worst"] == {"cost": "12", "tokens": 12000} and told["notes"] == []


def test_items_that_are_known_only_in_the_run_leave_it_unbounded_and_are_named(priced: Project, fm: Fm) -> None:
    priced.pipeline(_each("{{input.items}}"))
    told = fm("usage", "--forecast", "many", "--json").json
    assert told["worst"] == {"cost": None, "tokens": None}
    assert "each.call: at most $3 and 3,000 tokens each time" in told["notes"][0]
    # With the input at hand they are known.
    answer = fm("run", "many", "-i", '{"items": [1, 2]}', "--forecast")
    assert "at most $6 and 6,000 tokens" in answer.err


def test_a_stages_own_budget_holds_all_items_together(priced: Project, fm: Fm) -> None:
    priced.pipeline(_each("{{input.items}}", budget={"max_cost": "2"}))
    assert fm("usage", "--forecast", "many", "--json").json["worst"] == {"cost": "2", "tokens": None}


def test_an_unknown_price_is_named(priced: Project, fm: Fm) -> None:
    stage = {**ASK, "llm_settings": {"provider": "openai", "model": "nobody-knows", "max_tokens": 7}}
    priced.pipeline({**LINE, "name": "dear", "stages": [stage]})
    shown = fm("usage", "--forecast", "dear").out
    assert "openai/nobody-knows (price unknown, answers up to 7 tokens)" in shown


def test_the_price_that_a_served_model_declares_is_told(priced: Project, fm: Fm) -> None:
    price = {"input": "0.15", "output": "0.60"}
    model = {"name": "small", "source": {"path": "m.gguf"}, "engine": "llamacpp", "price": price}
    folder = priced.root / "configs" / "llm"
    folder.mkdir(parents=True)
    (folder / "small.json").write_text(json.dumps(model))
    for name, found in (("small", price), ("other", {"input": "0", "output": "0"})):
        stage = {**ASK, "llm_settings": {"provider": "models", "model": name, "max_tokens": 7}}
        priced.pipeline({**LINE, "name": "served", "stages": [stage]})
        (told,) = fm("usage", "--forecast", "served", "--json").json["stages"]
        assert told["models"] == [{"provider": "models", "model": name, "price": found, "max_tokens": 7}]


def test_what_is_not_here_has_no_forecast(priced: Project, fm: Fm) -> None:
    assert fm("run", "line", "--forecast", "--submit").code == 2
    assert fm("usage", "--forecast", "lime").code == 2


def test_of_a_file_it_tells_the_runs_of_the_files_own_project(
    priced: Project, fm: Fm, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fm("run", "line")
    (file,) = priced.root.rglob("line.pipeline.*")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert fm("usage", "--forecast", str(file), "--json").json["usual"]["runs"] == 1


def test_in_a_line_it_says_the_worst_and_the_median(priced: Project, fm: Fm) -> None:
    fm("run", "line")
    told = fm("usage", "--forecast", "line", "--json").json
    cost = told["usual"]["cost"]["median"]
    assert line(told) == f"forecast: no bound: no budget holds it; usually ${cost} (1 run)"


@given(
    items=st.lists(st.integers(0, 9), max_size=3),
    tokens=st.integers(300, 2000),
    stage=st.none() | st.integers(300, 4000),
    known=st.booleans(),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_run_uses_more_than_its_worst_case(
    items: list[int], tokens: int, stage: int | None, known: bool, priced: Project, fm: Fm
) -> None:
    priced.pipeline({**CALLED, "budget": {"max_tokens": tokens}})
    more = {} if stage is None else {"budget": {"max_tokens": stage}}
    priced.pipeline(_each(items if known else "{{input.items}}", **more))
    worst = fm("usage", "--forecast", "many", "--json").json["worst"]["tokens"]
    if known:
        assert worst == min(len(items) * tokens, stage if stage is not None else len(items) * tokens)
    else:
        assert worst == stage
    usage = fm("run", "many", "-i", json.dumps({"items": items}), "--json").json["usage"]
    used = usage["input_tokens"] + usage["output_tokens"]
    assert used <= (used if worst is None else worst)
