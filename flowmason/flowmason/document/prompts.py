"""Prompt files: a front matter in YAML between two lines `---`, and below it what the user says."""

from __future__ import annotations

from pathlib import Path as FilePath

from flowmason.document.json_text import Lines
from flowmason.document.limits import refused
from flowmason.document.reading import Document, located, parse_document
from flowmason.errors import Code, Fault, RefusedError, UsageError
from flowmason.prompt import HINTS, Prompt, parse_text, read_front_matter

MOST_BYTES = 1024 * 1024
_FENCE = "---"


def load_prompt(path: str | FilePath, name: str, *, named: bool = True) -> Prompt:
    """Read the file of the prompt `name`. Raises `RefusedError` with every fault in its place, and `UsageError`."""
    file = str(path)
    try:
        with FilePath(path).open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        code = Code.NOT_FOUND if isinstance(error, FileNotFoundError) else Code.USAGE
        raise UsageError(f"cannot read {file}: {error.strerror or error}", code=code) from None
    return parse_prompt(data, name, file=file, named=named)


def parse_prompt(data: str | bytes, name: str, *, file: str | None = None, named: bool = True) -> Prompt:
    """Read a prompt from its text. Raises `RefusedError` with every fault in its place.

    With `named`, a `name` in the front matter must be `name`; without, the file stands in for that of another name.
    """
    if len(data) > MOST_BYTES:
        raise refused("larger than 1 MiB", file)
    text = data if isinstance(data, str) else _decoded(data, file)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    front, body, start = _split(text, file)
    document = parse_document(front, file=file, format="yaml")
    faults: list[Fault] = []
    given = read_front_matter(document.value, faults)
    if given is not None and named and given.get("name", name) != name:
        reason = f"the front matter says {given['name']!r}, but by its place the prompt is called {name!r}"
        faults.append(Fault(reason, "$.name", nearest=name))
    if given is None:
        raise RefusedError([located(fault, document) for fault in faults])
    variables = given.get("variables") or {}
    lines = Lines(text)

    def in_body(reason: str, offset: int, nearest: str | None) -> None:
        line, column = lines.place(start + offset)
        faults.append(Fault(reason, "", line=line, column=column, nearest=nearest, file=file))

    def in_system(reason: str, offset: int, nearest: str | None) -> None:
        faults.append(_in_system(document, f"{reason} (at character {offset + 1})", nearest))

    template = parse_text(body, variables, in_body)
    system = given.get("system")
    spoken = parse_text(system, variables, in_system) if system and system.strip() else None
    if not body and spoken is None and not faults:
        in_body("the prompt says nothing: there is neither a body nor a system text", 0, None)
    if faults:
        raise RefusedError([located(fault, document) for fault in faults])
    return Prompt(
        name=name,
        text=text,
        body=template,
        system=spoken,
        variables=variables,
        description=given.get("description") or "",
        hints={key: given[key] for key in HINTS if key in given},
        file=file,
    )


def _decoded(data: bytes, file: str | None) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        raise refused("not UTF-8", file, place=Lines(before).place(len(before))) from None


def _split(text: str, file: str | None) -> tuple[str, str, int]:
    """The front matter (its first line blank, so that lines keep their numbers), the body, and where that begins."""
    if not text.startswith(_FENCE + "\n"):
        return "", text.strip(), len(text) - len(text.lstrip())
    end = text.find(f"\n{_FENCE}\n", len(_FENCE))
    if end < 0 and text.endswith(f"\n{_FENCE}"):
        end = len(text) - len(_FENCE) - 1
    if end < 0:
        raise refused("the front matter has no end: a line '---' is missing", file, place=(1, 1))
    rest = text[end + len(_FENCE) + 1 :]
    start = len(text) - len(rest.lstrip())
    return "\n" + text[len(_FENCE) + 1 : end + 1], rest.strip(), start


def _in_system(document: Document, reason: str, nearest: str | None) -> Fault:
    return located(Fault(reason, "$.system", nearest=nearest), document)
