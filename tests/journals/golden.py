"""Reading and writing golden journals, and the folded state as plain data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from flowmason import value
from flowmason.errors import Failure
from flowmason.event import Foreign, Recorded
from flowmason.ids import PlanId, format_path
from flowmason.plan import Plan
from flowmason.state import ForeachState, RunState, StageState, TryState
from flowmason.state.lookup import results
from flowmason.value import Concat, Inline, Picked, Record, Sequence, Stored, Value

FOLDER = Path(__file__).parent / "golden"
START = 1_750_000_000_000


class Golden(msgspec.Struct, frozen=True):
    """One golden journal."""

    name: str
    events: list[Recorded]
    plans: list[Plan]
    state: dict[str, Any]

    @property
    def plan(self) -> Plan:
        """The run's own Plan."""
        return self.plans[0]

    @property
    def known(self) -> dict[PlanId, Plan]:
        """Every Plan by its id."""
        return {plan.id: plan for plan in self.plans}


def names() -> list[str]:
    """The golden journals there are."""
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def load(name: str) -> Golden:
    """Read a golden journal."""
    folder = FOLDER / name
    lines = (folder / "journal.jsonl").read_bytes().splitlines()
    plans = msgspec.json.decode((folder / "plans.json").read_bytes(), type=list[Plan])
    return Golden(
        name, [_recorded(line) for line in lines], plans, msgspec.json.decode((folder / "state.json").read_bytes())
    )


def _recorded(line: bytes) -> Recorded:
    try:
        return msgspec.json.decode(line, type=Recorded)
    except msgspec.ValidationError:
        plain = msgspec.json.decode(line)
        event = plain.pop("event")
        return Recorded(event=Foreign(name=event.pop("kind"), data=event), **plain)


def save(golden: Golden) -> None:
    """Write a golden journal."""
    folder = FOLDER / golden.name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [msgspec.json.encode(recorded) + b"\n" for recorded in golden.events]
    (folder / "journal.jsonl").write_bytes(b"".join(lines))
    (folder / "plans.json").write_bytes(_pretty(golden.plans))
    (folder / "state.json").write_bytes(_pretty(golden.state))


def _pretty(data: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n"


def snapshot(state: RunState) -> dict[str, Any]:
    """What a state says, as plain JSON data."""
    found: dict[str, Any] = {
        "status": str(state.status),
        "seq": state.seq,
        "pipeline": list(state.pipeline),
        "output": None if state.output is None else shown(state.output),
        "failure": None if state.failure is None else _failure(state.failure),
        "usage": None if state.usage is None else msgspec.to_builtins(state.usage),
        "stages": {format_path(path): _stage(stage) for path, stage in sorted(state.stages.items(), key=str)},
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
    return plain


def _stage(stage: StageState) -> dict[str, Any]:
    found: dict[str, Any] = {"status": str(stage.status), "attempt": stage.attempt, "round": stage.round}
    if stage.output is not None:
        found["output"] = shown(stage.output)
    if stage.failure is not None:
        found["failure"] = _failure(stage.failure)
    if stage.choice is not None:
        found["choice"] = list(stage.choice)
    body = stage.body
    if isinstance(body, ForeachState):
        scope = stage.stage.scopes[0]
        found["items"] = {"total": body.total, "ended": body.ended, "failed": sorted(body.failures)}
        found["results"] = shown(results(body, scope.last))
    elif isinstance(body, TryState):
        found["rounds"] = body.round
    return found


def _failure(failure: Failure) -> dict[str, Any]:
    return {"code": str(failure.code), "message": failure.message, "stage": failure.stage}


def shown(kept: Value) -> Any:
    """A value as plain data; what lies in a value store appears as its digest."""
    if isinstance(kept, Inline):
        return value.decode(kept.data)
    if isinstance(kept, Stored):
        return {"$stored": kept.digest}
    if isinstance(kept, Record):
        return {key: shown(part) for key, part in kept.fields.items()}
    if isinstance(kept, Sequence):
        return [shown(part) for part in kept.items]
    if isinstance(kept, Concat):
        return [item for chunk in kept.chunks for item in shown(chunk)]
    assert isinstance(kept, Picked)
    return {"$picked": [shown(kept.source), kept.path]}


def timeless(recorded: Recorded) -> Recorded:
    """An event without what differs from one recording to the next: times, names of conductors, traces."""
    at = START + 10 * recorded.seq
    event = _timeless(recorded.event, at)
    return Recorded(recorded.run_id, recorded.seq, at, "golden", event)


_TIMES: dict[str, Callable[[int], Any]] = {
    "started_at": lambda at: at - 5,
    "duration_ms": lambda at: 4.0,
    "at": lambda at: at + 100,
}


def _timeless(part: Any, at: int) -> Any:
    if isinstance(part, Inline):
        return Inline(value.encode(_plain(value.decode(part.data))))
    if isinstance(part, Failure):
        part = msgspec.structs.replace(part, trace=None)
    if isinstance(part, msgspec.Struct):
        changed = {}
        for name in part.__struct_fields__:
            found = getattr(part, name)
            changed[name] = _TIMES[name](at) if name in _TIMES and found else _timeless(found, at)
        return msgspec.structs.replace(part, **changed)
    if isinstance(part, dict):
        return {key: _timeless(item, at) for key, item in part.items()}
    if isinstance(part, list | tuple):
        return type(part)(_timeless(item, at) for item in part)
    return part


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        times = {"execution_time_ms": 4.0}
        return {
            key: times.get(key, _plain(item)) if item is not None else None
            for key, item in data.items()
            if key != "trace"
        }
    return [_plain(item) for item in data] if isinstance(data, list) else data
