"""Log lines of the Studio's processes: JSON, one object a line, or coloured for a terminal; without credentials."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from typing import Any, TextIO

from flowmason.errors import UsageError
from flowmason.event import Recorded, RunCancelled, RunCompleted, RunFailed, StageFailed, StageLost, StageRetried, kind
from flowmason.ids import RunId, format_path
from flowmason.report import Report
from flowmason.studio.identity.credentials import masked

request_id: ContextVar[str | None] = ContextVar("flowmason_request_id", default=None)
"""The id of the request that is being answered."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_RUN = re.compile(r"\brun_[0-9A-HJKMNP-TV-Z]{26}\b")
_QUIET = ("uvicorn.access", "httpx", "httpcore")
log = logging.getLogger("flowmason.runs")


def install(environ: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> logging.Handler:
    """Have all loggers of this process write so, from FLOWMASON_LOG_LEVEL on. Raises `UsageError` for another level."""
    import structlog

    level = environ.get("FLOWMASON_LOG_LEVEL", "INFO").upper()
    if level not in LEVELS:
        raise UsageError(f"FLOWMASON_LOG_LEVEL is {level!r}", help=f"It may be {', '.join(LEVELS)}.")
    stream = stream or sys.stderr
    last: Any = (
        structlog.dev.ConsoleRenderer(colors=True)
        if stream.isatty()
        else structlog.processors.JSONRenderer(default=str)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _known,
                _mask,
                last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", *_QUIET):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for name in _QUIET:
        # Our own line says more of a request, and less of what stands in its query.
        logging.getLogger(name).setLevel(logging.WARNING)
    return handler


def _known(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the ids that are known where the line was written."""
    if "request_id" not in line and (found := request_id.get()) is not None:
        line["request_id"] = found
    if "run_id" not in line and (named := _RUN.search(str(line.get("event", "")))):
        line["run_id"] = named[0]
    return line


def _mask(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, item in line.items():
        line[name] = _masked(item)
    return line


def _masked(item: Any) -> Any:
    if isinstance(item, str):
        return masked(item)
    if isinstance(item, Mapping):
        return {name: _masked(each) for name, each in item.items()}
    if isinstance(item, list | tuple | set):
        return [_masked(each) for each in item]
    return item if item is None or isinstance(item, bool | int | float) else masked(str(item))


class RunLog:
    """A feed of a conductor: a line where a run ends, or a stage fails, is tried again or was lost."""

    def __init__(self, orgs: Any = None) -> None:
        self._orgs = orgs

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        """Say what is worth a line."""
        for each in events:
            event = each.event
            extra: dict[str, Any] = {"run_id": run_id}
            if self._orgs is not None and (org := self._orgs(run_id)) is not None:
                extra["org_id"] = org
            match event:
                case StageFailed() | StageRetried() | StageLost():
                    extra |= {"stage": format_path(event.path), "attempt": event.attempt, "code": event.failure.code}
                    log.warning("%s: %s", kind(event), event.failure.message, extra=extra)
                case RunFailed():
                    log.warning(
                        "%s: %s", kind(event), event.failure.message, extra={**extra, "code": event.failure.code}
                    )
                case RunCompleted() | RunCancelled():
                    log.info(kind(event), extra=extra)
                case _:
                    pass

    def beside(self, run_id: RunId, report: Report) -> None:
        """Of no interest."""
