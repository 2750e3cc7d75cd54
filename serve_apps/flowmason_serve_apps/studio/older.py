"""The WebSocket's messages under their older names (`?compat=1`): `{type, run_id, payload, timestamp, seq}`.

Only what a journal says is translated: a stage that was not noted when it began has no `stage_started`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flowmason.assembly.outcome import moment
from flowmason_serve_apps.studio.socket_messages import encode
from flowmason_serve_apps.studio.wire import Item

_RUNS = {
    "run.started": ("run_started", "started", "running"),
    "run.completed": ("run_completed", "completed", "completed"),
    "run.failed": ("run_failed", "failed", "failed"),
    "run.cancelled": ("run_failed", "failed", "cancelled"),
}
_STAGES = {
    "stage.started": ("stage_started", "started", "running"),
    "stage.finished": ("stage_completed", "completed", "completed"),
    "stage.failed": ("stage_failed", "failed", "failed"),
}
_MOST_TEXT = 1024 * 1024


class Older:
    """Translates one run's messages; remembers which stages stream."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._streams: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}
        self._pausing = ""

    def words(self, item: Item) -> list[str]:
        """What is sent for an item; nothing where the older names know nothing of it."""
        found = msgspec.json.decode(item.data)
        if item.kind == "delta":
            return self._delta(found)
        if item.beside:
            return []
        return [
            *self._ended(found, item.number),
            *(self._say(kind, payload, found, item.number) for kind, payload in self._event(item.kind, found)),
        ]

    def reset(self, data: bytes) -> list[str]:
        """A stage streams anew: what was streamed counts no more."""
        path = msgspec.json.decode(data)["path"]
        self._streams.pop(path, None)
        self._sizes.pop(path, None)
        return []

    def _event(self, kind: str, found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        if kind in _RUNS:
            name, event_type, status = _RUNS[kind]
            failure = found.get("failure") or {}
            return [
                (
                    name,
                    {
                        "event_type": event_type,
                        "status": status,
                        "output": found.get("output"),
                        "error": failure.get("message") or found.get("reason"),
                        "failed_stage_id": failure.get("stage"),
                    },
                )
            ]
        if kind in _STAGES:
            name, event_type, status = _STAGES[kind]
            return [(name, {"event_type": event_type, "status": status, **_stage(found)})]
        if kind == "run.pausing":
            self._pausing = found.get("reason", "")
        if kind == "run.paused":
            return [("execution_paused", {"reason": self._pausing})]
        if kind in ("run.resumed", "run.reopened"):
            return [("execution_resumed", {})]
        if kind == "breakpoint.hit" and found.get("stops", True):
            path = found.get("path")
            return [("breakpoint_hit", {"stage_id": path, "stage_name": path, "reason": found.get("reason")})]
        return []

    def _delta(self, found: dict[str, Any]) -> list[str]:
        path = found["path"]
        said = []
        if path not in self._streams:
            self._streams[path], self._sizes[path] = [], 0
            said.append(self._say("stream_start", {"stage_id": path, "stage_name": path}, found, None))
        self._sizes[path] += len(found["text"])
        if self._sizes[path] <= _MOST_TEXT:
            self._streams[path].append(found["text"])
        payload = {"stage_id": path, "chunk": found["text"], "token_index": found["n"]}
        return [*said, self._say("token_chunk", payload, found, None)]

    def _ended(self, found: dict[str, Any], seq: int) -> list[str]:
        if found["kind"] not in ("stage.finished", "stage.failed", "stage.cancelled"):
            return []
        chunks = self._streams.pop(found["path"], None)
        if chunks is None:
            return []
        whole = "".join(chunks) if self._sizes.pop(found["path"]) <= _MOST_TEXT else None
        usage = found.get("usage") or {}
        tokens = usage.get("output_tokens", len(chunks))
        return [
            self._say(
                "stream_end", {"stage_id": found["path"], "total_tokens": tokens, "final_content": whole}, found, seq
            )
        ]

    def _say(self, kind: str, payload: dict[str, Any], found: dict[str, Any], seq: int | None) -> str:
        at = found.get("at")
        told = {"run_id": self._run_id, **payload}
        message = {"type": kind, "run_id": self._run_id, "payload": told, "timestamp": moment(at) if at else None}
        return encode(message if seq is None else {**message, "seq": seq}).decode()


def _stage(found: dict[str, Any]) -> dict[str, Any]:
    usage = found.get("usage") or {}
    failure = found.get("failure") or {}
    return {
        "stage_id": found["path"],
        "stage_name": found["path"],
        "duration_ms": found.get("duration_ms"),
        "output": found.get("output"),
        "error": failure.get("message"),
        "input_tokens": usage.get("input_tokens"),
        "output_tokens": usage.get("output_tokens"),
    }


__all__ = ["Older"]
