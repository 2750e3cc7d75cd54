"""Events as people read them keep what the envelope says and what the event says apart, and come back as they were."""

from __future__ import annotations

from typing import get_args

from flowmason.assembly.outcome import Shown
from flowmason.assembly.readable import readable, recorded_from
from flowmason.errors import Code, Failure
from flowmason.event import Event, Foreign, Recorded, StageRetried
from flowmason.ids import LOCAL_ORG, RunId
from flowmason.values_fs import open_values

ENVELOPE = {"run_id", "seq", "by", "kind"}


def test_a_retry_says_when_it_was_recorded_and_when_it_is_tried_again() -> None:
    retried = StageRetried(path=("ask",), attempt=1, failure=Failure(code=Code.TIMEOUT, message="late"), at=9_000)
    recorded = Recorded(RunId("run_1"), 7, 1_000, "cond_1", retried)
    told = readable(recorded, Shown(open_values("memory://readable"), LOCAL_ORG))
    assert (told["at"], told["retry_at"]) == (1_000, 9_000)
    assert recorded_from(told) == recorded


def test_no_event_has_a_field_that_would_take_the_place_of_the_envelopes() -> None:
    for cls in get_args(Event):
        if cls is not Foreign:
            assert not ENVELOPE & set(cls.__struct_fields__), cls
