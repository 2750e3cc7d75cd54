"""The check that fault tests rely on finds what it is there to find."""

from __future__ import annotations

import pytest

from faults.kit import Entry, Story
from flowmason import event as ev
from flowmason.ids import PlanId, RunId, StageId
from flowmason.value import inline

PATH = (StageId("s"),)


def recorded(*events: ev.Event, start: int = 1) -> list[ev.Recorded]:
    """A journal in which the n-th event was committed at n * 10."""
    found: list[ev.Event] = [ev.RunSubmitted(PlanId("p"), inline(None)), *events]
    return [ev.Recorded(RunId("run_a"), start + n, (n + 1) * 10, "me", event) for n, event in enumerate(found)]


def begin(at: int, *, attempt: int = 1, key: str | None = "k") -> Entry:
    return Entry("begin", "s", 1, attempt, key, 1, at)


STARTED = ev.StageStarted(PATH, 1, 1)
AGAIN = ev.StageStarted(PATH, 2, 2)
FINISHED = ev.StageFinished(PATH, 1, inline(1))


def test_a_sound_story_passes() -> None:
    lost: list[ev.Event] = [STARTED, AGAIN, ev.StageFinished(PATH, 2, inline(1)), ev.RunCompleted(inline(1))]
    story = Story(recorded(*lost), [begin(21), begin(31, attempt=2)])
    story.check()
    assert (story.status, story.times("s")) == ("completed", 2)


@pytest.mark.parametrize(
    ("events", "begins", "complaint"),
    [
        ([STARTED, FINISHED], [begin(21), begin(31)], "redone"),
        ([STARTED, FINISHED, FINISHED], [begin(21)], "2 results"),
        ([STARTED, FINISHED], [begin(19)], "before it was journalled"),
        ([STARTED], [begin(21, attempt=2)], "before it was journalled"),
        ([STARTED, AGAIN], [begin(21), begin(31, attempt=2, key="other")], "2 keys"),
    ],
)
def test_what_must_not_happen_is_found(events: list[ev.Event], begins: list[Entry], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        Story(recorded(*events), begins).check()


def test_a_gap_in_the_journal_is_found() -> None:
    with pytest.raises(AssertionError):
        Story(recorded(STARTED, start=2), []).check()
