"""`Document`: the value of a text, and where in the text each part of it stands."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any, Literal

import msgspec

from flowmason.document.json_text import Lines, json_places, parse_json
from flowmason.document.limits import MAX_BYTES, Place, refused, too_large
from flowmason.errors import Code, Fault, UsageError
from flowmason.pipeline.pointers import Path, format_pointer, parse_pointer
from flowmason.pipeline.spellings import other_spellings

Format = Literal["json", "yaml"]


class Document:
    """A text that was read: `value` is made of plain JSON values; `file` is None for a text without one."""

    def __init__(self, value: Any, text: str, file: str | None = None, format: Format = "json") -> None:
        self.value = value
        self.text = text
        self.file = file
        self.format = format
        self._index: dict[Path, tuple[Place, Place]] | None = None

    def position(self, path: Path) -> Place | None:
        """Line and column (from 1) of what stands at `path`: of its key, where it is a member of an object.

        A path that leads nowhere has the place of the nearest thing above it.
        """
        return self.find(path)[1]

    def value_position(self, path: Path) -> Place | None:
        """Like `position`, but of the value itself."""
        index = self._places()
        return index[self.find(path)[0]][1] if index else None

    def find(self, path: Path) -> tuple[Path, Place | None]:
        """The path as this document spells it, as far as it goes, and its place.

        Faults name the canonical spelling (`component_type`, `loop_stages`); the document may use another.
        """
        index = self._places()
        best: Path = ()
        pending: list[tuple[Path, int]] = [((), 0)]
        while pending:
            actual, done = pending.pop()
            if len(actual) > len(best):
                best = actual
            if done == len(path):
                best = actual
                break
            part = path[done]
            names: tuple[str | int, ...] = (part, *other_spellings(part)) if isinstance(part, str) else (part,)
            pending.extend(((*actual, name), done + 1) for name in reversed(names) if (*actual, name) in index)
        return best, index[best][0] if best in index else None

    def _places(self) -> dict[Path, tuple[Place, Place]]:
        if self._index is None:
            if self.format == "yaml":
                from flowmason.document.yaml_text import parse_yaml

                self._index = {}
                parse_yaml(self.text, self.file, self._index)
            else:
                self._index = json_places(self.text)
        return self._index


def read_document(path: str | FilePath) -> Document:
    """Read a file. The format goes by its name; `.yaml` and `.yml` are YAML, all else is JSON.

    Raises `UsageError` where the file cannot be read, and `RefusedError` as `parse_document` does.
    """
    file = str(path)
    try:
        with FilePath(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        code = Code.NOT_FOUND if isinstance(error, FileNotFoundError) else Code.USAGE
        raise UsageError(f"cannot read {file}: {error.strerror or error}", code=code) from None
    return parse_document(data, file=file)


def parse_document(text: str | bytes, *, file: str | None = None, format: Format | None = None) -> Document:
    """Read a text into plain values.

    `format` goes by the name of `file` where it is not given, JSON without a name. Raises `RefusedError` for what is
    neither JSON nor YAML as `document` reads them, or is over the limits: 16 MiB, 64 levels, 400,000 values.
    """
    chosen: Format = format or ("yaml" if file is not None and file.lower().endswith((".yaml", ".yml")) else "json")
    if len(text) > MAX_BYTES:
        raise refused(too_large(), file)
    if isinstance(text, bytes):
        text = _decode(text, file)
    elif not text.isascii() and len(text.encode(errors="replace")) > MAX_BYTES:
        raise refused(too_large(), file)
    text = text.removeprefix("\ufeff")
    if chosen == "json":
        return Document(parse_json(text, file), text, file, chosen)
    from flowmason.document.yaml_text import parse_yaml

    return Document(parse_yaml(text, file), text, file, chosen)


def located(fault: Fault, document: Document) -> Fault:
    """The fault with file, line and column, and its pointer as the document spells it.

    A fault that has its line already is left alone.
    """
    if fault.line is not None:
        return fault
    try:
        path = parse_pointer(fault.pointer or "$")
    except ValueError:
        return msgspec.structs.replace(fault, file=fault.file or document.file)
    actual, place = document.find(path)
    line, column = place or (None, None)
    pointer = format_pointer(actual + path[len(actual) :])
    return msgspec.structs.replace(fault, pointer=pointer, line=line, column=column, file=fault.file or document.file)


def _decode(data: bytes, file: str | None) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise refused("not UTF-8 but UTF-16; save it as UTF-8", file) from None
        before = data[: error.start].decode()
        raise refused(
            f"not UTF-8: the byte 0x{data[error.start]:02x}; save it as UTF-8",
            file,
            place=Lines(before).place(len(before)),
        ) from None
