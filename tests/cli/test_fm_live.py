"""The live view: what it shows, as data; and that a terminal can draw it."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from flowmason import event as ev
from flowmason.assembly.workspace import Workspace
from flowmason.cli.live import LiveModel, View
from flowmason.cli.live.plain import PlainView
from flowmason.cli.live.terminal import render
from flowmason.cli.live.words import cost, duration, usage_words
from flowmason.errors import Failure
from flowmason.ids import PlanId, RunId
from flowmason.plan import Plan
from flowmason.report import Delta, LogLine, Progress, Report
from flowmason.state import Status
from flowmason.usage import Usage
from flowmason.value import inline
from fm_project import ORDERS, Project

RUN = RunId("run_1")


class Story:
    """Tells a model events in order."""

    def __init__(self, plan: Plan) -> None:
        self.model = LiveModel(plan, RUN)
        self.lines: list[str] = []
        self.plain = PlainView(self.model, logs=True, write=self.lines.append)
        self._seq = 0

    def tell(self, *events: ev.Event, at: int = 1000) -> None:
        recorded = []
        for event in events:
            self._seq += 1
            recorded.append(ev.Recorded(RUN, self._seq, at, "me", event))
        self.model.committed(RUN, recorded)
        self.plain.committed(RUN, recorded)

    def aside(self, **parts: Any) -> None:
        self.model.beside(RUN, Report("r", **parts))

    def rows(self, now: int = 5000, most: int = 40) -> dict[str, Any]:
        return {row.path: row for row in self.model.view(now, most).rows}


def orders_plan(project: Project) -> Plan:
    return Workspace.at().compile("orders").plan


def begun(project: Project) -> Story:
    story = Story(orders_plan(project))
    story.tell(ev.RunSubmitted(plan=PlanId("p"), input=inline({}), pipeline="orders", version="1.2.0"), ev.RunStarted())
    return story


def finished(path: str, **more: Any) -> ev.StageFinished:
    return ev.StageFinished(path=(path,), attempt=1, output=inline({}), started_at=1000, duration_ms=250.0, **more)


def test_stages_stand_in_file_order_and_what_nothing_holds_back_runs(project: Project) -> None:
    rows = begun(project).rows()
    assert [(row.path, row.status) for row in rows.values()] == [
        ("big", Status.RUNNING),
        ("each", Status.RUNNING),
        ("end", Status.PENDING),
    ]


def test_a_stage_shows_time_attempts_and_failure(project: Project) -> None:
    story = begun(project)
    lost = Failure(code="CONNECTIVITY", message="nobody\nanswers")
    story.tell(finished("big"), ev.StageRetried(path=("each",), attempt=1, failure=lost))
    rows = story.rows()
    assert (rows["big"].status, rows["big"].elapsed_ms) == (Status.COMPLETED, 250.0)
    assert rows["each"].attempts == 1
    assert rows["each"].detail == "again after: nobody answers"
    story.tell(ev.StageFailed(path=("each",), attempt=2, failure=lost))
    assert story.rows()["each"].attempts == 2
    assert story.rows()["each"].detail == "nobody answers"


def test_a_foreach_counts_its_items_however_they_are_recorded(project: Project) -> None:
    story = begun(project)
    story.tell(ev.StageExpanded(path=("each",), attempt=1, total=10))
    story.tell(ev.ItemsFinished(path=("each",), start=0, count=4))
    story.tell(ev.StageFinished(path=("each", 4, "line"), attempt=1, output=inline(1)))
    story.tell(ev.StageFailed(path=("each", 5, "line"), attempt=1, failure=Failure(code="EXECUTION", message="no")))
    row = story.rows()["each"]
    assert (row.done, row.total, row.detail) == (6, 10, "1 failed")
    assert len(story.model.picture.stages) == 3, "items that ended are not remembered"


def test_streamed_text_shows_its_end_and_restarts_with_an_attempt(project: Project) -> None:
    story = begun(project)
    story.aside(deltas=(Delta(("big",), 1, 1, "Once upon"), Delta(("big",), 1, 2, "\na time")))
    story.aside(deltas=(Delta(("big",), 1, 2, "\na time"),))
    assert story.rows()["big"].tail == "Once upon a time"
    story.aside(deltas=(Delta(("big",), 2, 1, "Again"),))
    assert story.rows()["big"].tail == "Again"
    story.tell(finished("big"))
    assert story.rows()["big"].tail == ""


def test_progress_that_a_stage_tells_is_a_bar(project: Project) -> None:
    story = begun(project)
    story.aside(progress=(Progress(("big",), 1, 3, 12, "reading"),))
    row = story.rows()["big"]
    assert (row.done, row.total, row.detail) == (3, 12, "reading")


def test_what_does_not_fit_is_counted_and_what_runs_or_failed_stays(project: Project) -> None:
    stages = [{"id": f"s{n:03}", "component_type": "nap", "config": {"value": "x"}} for n in range(300)]
    project.pipeline({"name": "wide", "stages": stages})
    story = Story(Workspace.at().compile("wide").plan)
    story.tell(ev.RunSubmitted(plan=PlanId("p"), input=inline({}), pipeline="wide", version="1.0.0"), ev.RunStarted())
    story.tell(*[finished(f"s{n:03}") for n in range(290)])
    story.tell(ev.StageFailed(path=("s295",), attempt=1, failure=Failure(code="EXECUTION", message="no")))
    view = story.model.view(5000, 12)
    assert len(view.rows) == 12
    assert [row.path for row in view.rows][-10:] == [f"s{n}" for n in range(290, 300)]
    assert view.hidden == {"completed": 288}
    assert (view.ended, view.stages) == (291, 300)
    assert "… and 288 more: 288 completed" in drawn(view)


def test_another_run_is_none_of_its_business(project: Project) -> None:
    story = begun(project)
    other = RunId("run_2")
    story.model.committed(other, [ev.Recorded(other, 9, 1, "me", finished("big"))])
    story.model.beside(other, Report("r", deltas=(Delta(("big",), 1, 1, "x"),)))
    assert story.rows()["big"].status is Status.RUNNING
    assert story.rows()["big"].tail == ""


def test_usage_and_the_end_are_shown(project: Project) -> None:
    story = begun(project)
    used = Usage(input_tokens=700, output_tokens=112, cost_nanodollars=1_200_000, calls=3)
    story.tell(finished("big", usage=used), ev.RunCompleted(output=inline({})), at=4000)
    view = story.model.view(9000)
    assert (view.status, view.elapsed_ms) == (Status.COMPLETED, 3000)
    text = drawn(view)
    assert "812 tokens · $0.0012" in text
    assert "✓ orders@1.2.0  completed" in text


def test_plain_lines_tell_the_same_without_a_terminal(project: Project) -> None:
    story = begun(project)
    story.tell(finished("big"), ev.StageExpanded(path=("each",), attempt=1, total=100))
    story.tell(ev.ItemsFinished(path=("each",), start=0, count=5))
    story.tell(ev.ItemsFinished(path=("each",), start=5, count=45))
    story.tell(ev.StageSkipped(path=("end",), reason="not chosen by big"))
    story.aside(logs=(LogLine(("big",), 1, 1, 1000, "info", "hello"),))
    story.plain.beside(RUN, Report("r"))
    assert story.lines == [
        "  ✓ big  250 ms",
        "  ● each  50/100",
        "  ○ end  skipped: not chosen by big",
        "    info    big: hello",
    ]


def test_words() -> None:
    assert [duration(ms) for ms in (0, 0.4, 12, 1200, 184_000, 7_500_000)] == [
        "0 ms",
        "0.4 ms",
        "12 ms",
        "1.2 s",
        "3 min 04 s",
        "2 h 05 min",
    ]
    assert cost(Usage(cost_nanodollars=None)) == "price unknown"
    assert usage_words(Usage()) == ""
    assert ORDERS["name"] == "orders"


def drawn(view: View) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(render(view, 100))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)
