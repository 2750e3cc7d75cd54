"""What goes over the WebSocket of runs: messages of clients, read strictly, and answers, as JSON texts."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec

from flowmason.errors import Failure, UsageError
from flowmason_serve_apps.studio.wire import Item

MOST_BYTES = 4096
"""A message of a client is no longer."""
RunName = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Text = Annotated[str, msgspec.Meta(max_length=500)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A message of a client; `id` comes back in the answer."""

    id: Annotated[str, msgspec.Meta(max_length=100)] | None = None


class OfRun(Message, frozen=True, kw_only=True):
    """A message about a run."""

    run_id: RunName


class Subscribe(OfRun, frozen=True, kw_only=True, tag="subscribe"):
    """Send a run's events after `after`; with `side`, log lines and token deltas after `side_after` too."""

    after: Number = 0
    side_after: Number = 0
    side: bool = True


class Unsubscribe(OfRun, frozen=True, kw_only=True, tag="unsubscribe"):
    """Send no more of a run."""


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    """Answer with a pong."""

    run_id: RunName | None = None


class Pause(OfRun, frozen=True, kw_only=True, tag="pause"):
    """Start nothing more of a run."""

    reason: Text = ""


class Resume(OfRun, frozen=True, kw_only=True, tag="resume"):
    """Go on with a paused or failed run."""


class Continue(OfRun, frozen=True, kw_only=True, tag="continue"):
    """Go on with a paused run to its next stop."""


class Step(OfRun, frozen=True, kw_only=True, tag="step"):
    """Go on by one stage: over, into or out."""

    kind: Annotated[str, msgspec.Meta(pattern="^(over|into|out)$")] = "over"


class Stop(OfRun, frozen=True, kw_only=True, tag="stop"):
    """Cancel a run."""

    reason: Text = ""


Known = Subscribe | Unsubscribe | Ping | Pause | Resume | Continue | Step | Stop
TYPES = tuple(str(kind.__struct_config__.tag) for kind in Known.__args__)
encode = msgspec.json.Encoder().encode


def read(text: str) -> Known:
    """Read a message. Raises `UsageError` that says what is wrong with it."""
    try:
        plain = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        found: Known = msgspec.convert(plain, Known)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise UsageError(f"no message: {error}", help=f"Types: {', '.join(TYPES)}.") from None
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def event(item: Item) -> str:
    """An event, or a line beside the journal, as it is sent."""
    if item.beside:
        return item.data.decode()
    head = f'{{"type":"event","run_id":{json.dumps(item.run_id)},"seq":{item.number},"data":'
    return head + item.data.decode() + "}"


def answer(kind: str, to: Message | None = None, **fields: Any) -> str:
    """An answer, with the id of what it answers."""
    named = {"id": to.id} if to is not None and to.id is not None else {}
    return encode({"type": kind, **named, **fields}).decode()


def failed(failure: Failure, to: Message | None = None, **fields: Any) -> str:
    """An error as it is sent."""
    help_ = {"help": failure.help} if failure.help else {}
    return answer("error", to, code=failure.code, detail=failure.message, **help_, **fields)
