"""The input of a run, from flags: `--input`, `--input-file`, `--sample`, `--set`."""

from __future__ import annotations

import json
import mimetypes
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowmason.errors import Code, RefusedError, UsageError
from flowmason.ids import LOCAL_ORG, Digest, OrgId, sha256
from flowmason.values import ValueStore


class Blobs:
    """Files that became part of an input; stored once the run's values are open."""

    def __init__(self) -> None:
        self._files: dict[Digest, bytes] = {}

    def add(self, path: Path) -> dict[str, Any]:
        """A file as `{"$blob": digest, "type": media type, "size": bytes}`. Raises `UsageError`."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}", code=Code.NOT_FOUND) from None
        digest = sha256(data)
        self._files[digest] = data
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return {"$blob": digest, "type": kind, "size": len(data)}

    def contents(self) -> Iterator[bytes]:
        """The bytes of every file, once each."""
        yield from self._files.values()

    def store(self, values: ValueStore, org_id: OrgId = LOCAL_ORG) -> None:
        """Put every file into the value store."""
        for digest, data in self._files.items():
            values.put(org_id, digest, data)


def read_input(
    text: str | None,
    file: str | None,
    *,
    sample: bool,
    sample_input: Mapping[str, Any] | None,
    assignments: Sequence[str],
    blobs: Blobs,
) -> dict[str, Any]:
    """The input that the flags ask for: `text` before `file` before the sample, and `--set` over all of them.

    The sample is also taken where nothing is given at all. Raises `UsageError`.
    """
    if sample and sample_input is None:
        raise UsageError("the pipeline has no sample_input", help="Give one with --input, --input-file or --set.")
    if text is not None:
        given = _object(_json(text, "--input"), "--input")
    elif file is not None:
        given = _object(_file(file), "--input-file")
    elif sample or (not assignments and sample_input is not None):
        given = dict(sample_input or {})
    else:
        given = {}
    for assignment in assignments:
        assign(given, assignment, blobs)
    return given


def assign(given: dict[str, Any], assignment: str, blobs: Blobs) -> None:
    """Take one `key.path=value` into `given`; the value is JSON where it can be read as such, else text."""
    path, equals, text = assignment.partition("=")
    if not equals or not path or not all(path.split(".")):
        raise UsageError(f"--set {assignment!r}: it must look like name=value or a.b=value")
    value: Any = blobs.add(Path(text[1:])) if text.startswith("@") else _json_or_text(text, f"--set {path}")
    *above, last = path.split(".")
    here: Any = given
    done: list[str] = []
    for key in above:
        done.append(key)
        here = here[_index(here, key, assignment)] if isinstance(here, list) else here.setdefault(key, {})
        if not isinstance(here, dict | list):
            raise UsageError(f"--set {assignment!r}: {'.'.join(done)} is {_kind(here)}, so nothing can be set in it")
    if isinstance(here, list):
        here[_index(here, last, assignment)] = value
    else:
        here[last] = value


def _index(items: list[Any], key: str, assignment: str) -> int:
    if not key.lstrip("-").isdecimal() or not -len(items) <= int(key) < len(items):
        raise UsageError(f"--set {assignment!r}: {key!r} is no position in a list of {len(items)}")
    return int(key)


def _json_or_text(text: str, where: str) -> Any:
    """JSON where the text is written as such, else the text itself. JSON that is refused is no text, either."""
    try:
        json.loads(text, parse_constant=_constant)
    except ValueError:
        return text
    except RecursionError:
        pass
    return _json(text, where)


def _json(text: str, where: str) -> Any:
    """As strict as files are: no duplicate keys, no infinities, nothing nested too deep."""
    from flowmason.document.json_text import parse_json

    try:
        return parse_json(text, None)
    except RefusedError as error:
        fault = error.faults[0]
        at = "" if fault.line is None else f" (line {fault.line}, column {fault.column})"
        raise UsageError(f"{where} is not JSON that can be read: {fault.reason}{at}") from None


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _file(file: str) -> Any:
    if file == "-":
        return _json(sys.stdin.read(), "the standard input")
    from flowmason.document import read_document

    return read_document(file).value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a JSON object, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds[type(value)]
