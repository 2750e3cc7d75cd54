"""What is wrong with a text that no parser takes, in words for whoever wrote it."""

from __future__ import annotations

import re
from json import JSONDecodeError

_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def of_json(error: JSONDecodeError) -> str:
    """Why a text is no JSON."""
    text, at = error.doc, error.pos
    here, before = text[at : at + 1], text[:at].rstrip()
    word = _WORD.match(text, at)
    if not text.strip():
        return "the file is empty"
    if error.msg == "Extra data":
        return "the value has ended before this; a file holds one"
    if error.msg.startswith("Unterminated string"):
        return "the text that begins here is not closed"
    if error.msg.startswith("Invalid control character"):
        return "a control character inside a text; write it as \\n, \\t or \\u0001"
    if at >= len(text.rstrip()):
        return "the file ends before its lists and objects are closed"
    if text.startswith(("//", "/*", "#"), at):
        return "JSON has no comments; keys that begin with x- are kept, and YAML has comments"
    if here == "'":
        return "texts and keys stand in double quotes"
    if here in ("}", "]") and before.endswith(","):
        return f"a comma too many before {here!r}"
    if text.startswith("{{", at - 1) or text.startswith("{{", at):
        return "a template is a text and stands in double quotes"
    if word is not None and word.group() in _CONSTANTS:
        return f"JSON writes {_CONSTANTS[word.group()]}, not {word.group()}"
    if word is not None:
        return f"{word.group()!r} must stand in double quotes"
    return f"{error.msg[:1].lower()}{error.msg[1:]}"


def of_yaml(problem: str, context: str, character: str) -> str:
    """Why a text is no YAML: what the parser says, where it was, and the character at which it stopped."""
    if problem == "found character that cannot start any token":
        if character == "\t":
            return "a tab cannot indent; use spaces"
        return f"a text that starts with {character!r} must be quoted"
    if problem == "mapping values are not allowed in this context":
        return "a second ':' here; a text with ': ' in it must be quoted, and a key stands on a line of its own"
    if problem.startswith("did not find expected") and "block" in context:
        return f"{problem}; a line is indented as its neighbours are"
    if problem == "found unexpected end of stream" and "quoted" in context:
        return "the text that begins here is not closed"
    return problem


def first_control(text: str) -> int | None:
    """Where the first control character stands that YAML does not allow."""
    found = _CONTROL.search(text)
    return None if found is None else found.start()
