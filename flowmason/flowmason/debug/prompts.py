"""What a stage asks its model: as its pipeline says, as somebody edited it, as it was asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from flowmason.debug.sight import Load, Sight
from flowmason.errors import FlowMasonError
from flowmason.event import PromptEdit
from flowmason.ids import format_path
from flowmason.report import ASKED, LogLine
from flowmason.state import RunState, StageState, Status


class Prompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stage's prompt."""

    path: str
    stage: str
    kind: str
    status: str
    attempt: int
    round: int
    source: str
    """asked: what the model was asked last (a debugged run tells); input: the stage's own fields, where it has them."""
    system_prompt: str | None = None
    user_prompt: str | None = None
    model: str | None = None
    edit: PromptEdit | None = None
    """What somebody edited for this round."""
    variables: dict[str, Any] = {}
    """The variables and loop variables that the stage sees."""
    input: Any = None
    """Its evaluated input; a field that cannot be evaluated here says why as `{"$error": …}`."""
    output: Any = None
    """Once it has ended."""


def prompt_of(state: RunState, stage: StageState, load: Load, logs: Iterable[LogLine] = ()) -> Prompt:
    """The prompt of an open stage. `logs` are the run's log lines (secrets are masked in them)."""
    sight = Sight(state, stage, load)
    given = sight.fields(stage.stage.inputs)
    asked = _asked(stage, logs)
    fields = asked.fields if asked is not None else _fields(given)
    edit = stage.edit
    if asked is None and edit is not None:
        fields = {**fields, **{key: text for key, text in msgspec.structs.asdict(edit).items() if text is not None}}
    return Prompt(
        path=format_path(stage.path),
        stage=stage.stage.id,
        kind=str(stage.stage.kind),
        status=str(stage.status),
        attempt=stage.attempt,
        round=stage.round,
        source="asked" if asked is not None else "input",
        system_prompt=_text(fields.get("system_prompt")),
        user_prompt=_text(fields.get("user_prompt")),
        model=_text(fields.get("model")),
        edit=edit,
        variables=_seen(sight),
        input=given,
        output=load(stage.output) if stage.status is Status.COMPLETED and stage.output is not None else None,
    )


def _asked(stage: StageState, logs: Iterable[LogLine]) -> LogLine | None:
    """The first thing that the last attempt of this round asked: what follows it are repairs of bad answers."""
    found: LogLine | None = None
    for line in logs:
        if line.path != stage.path or line.message != ASKED or line.attempt <= stage.base:
            continue
        if found is None or line.attempt > found.attempt:
            found = line
    return found


def _fields(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        return {}
    return {
        "system_prompt": given.get("system_prompt"),
        "user_prompt": given.get("user_prompt", given.get("prompt")),
        "model": given.get("model"),
    }


def _text(found: Any) -> str | None:
    return found if isinstance(found, str) else None


def _seen(sight: Sight) -> dict[str, Any]:
    try:
        return {**sight.variables, **sight.locals}
    except FlowMasonError as error:
        return {"$error": error.failure.message}
