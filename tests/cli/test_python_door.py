"""`flowmason.load` and `flowmason.run`."""

from __future__ import annotations

import pytest

import flowmason
from flowmason import RefusedError
from flowmason.errors import UsageError
from fm_project import Project


def test_a_pipeline_runs_from_python(project: Project) -> None:
    result = flowmason.run("orders", {"orders": [{"id": 1, "total": 20}], "shop": {"city": "Ulm"}})
    assert result.ok
    assert result.output["result"]["city"] == "Ulm"
    assert list(result.stages) == ["big", "each", "end"]
    assert result.executor == "local"
    assert result.document()["stages"]["big"]["status"] == "completed"


def test_loading_checks_and_tells_what_is_there(project: Project) -> None:
    loaded = flowmason.load("pipelines/orders.pipeline.json")
    assert (loaded.name, loaded.version) == ("orders", "1.2.0")
    assert loaded.sample_input is not None
    assert loaded.plan.id == flowmason.load("orders").plan.id
    assert loaded.run(loaded.sample_input).ok
    with pytest.raises(UsageError, match="did you mean 'orders'"):
        flowmason.load("ordres")
    project.pipeline({"name": "wrong", "stages": [{"id": "a", "component_type": "fliter", "config": {}}]})
    with pytest.raises(RefusedError) as refused:
        flowmason.load("wrong")
    assert refused.value.faults[0].nearest == "filter"


def test_a_wrong_input_is_refused_and_a_failure_is_a_result(project: Project) -> None:
    with pytest.raises(RefusedError, match="orders"):
        flowmason.run("orders", {})
    project.pipeline({"name": "bad", "stages": [{"id": "a", "component_type": "needs_file", "config": {"path": "x"}}]})
    result = flowmason.run("bad")
    assert not result.ok
    assert result.error is not None
    assert result.error.code == "FILE_MISSING"


async def test_inside_a_loop_it_is_awaited(project: Project) -> None:
    loaded = flowmason.load("orders")
    with pytest.raises(UsageError, match="event loop"):
        loaded.run({"orders": []})
    assert (await loaded.run_async({"orders": []})).ok
