"""Cuts an expression into tokens, one at a time, so that the parser can stop at a closing `}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Never

import msgspec

from flowmason.errors import ExpressionError, Phase
from flowmason.expressions.limits import MAX_SOURCE

KEYWORDS = frozenset({"and", "or", "not", "in", "if", "else", "true", "false", "null", "True", "False", "None"})

_SPACE = re.compile(r"\s*")
_TOKEN = re.compile(
    r"""(?P<name>[^\W\d]\w*(?:-\w+)*)
      | (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
      | (?P<string>"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\\\r\n]|\\.)*')
      | (?P<op><=|>=|==|!=|[-+*/%<>()\[\]{},.:])""",
    re.VERBOSE,
)
_FIELD = re.compile(r"\s*(\w+(?:-\w+)*)")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_SIMPLE = {'"': '"', "'": "'", "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_FOREIGN = {
    "=": "Compare with ==.",
    "&": "Write `and`.",
    "|": "Write `or`. There are no filters: functions are called, as in upper(x).",
    "!": "Write `not`.",
    "?": "Write `a if condition else b`.",
}


def refuse(
    reason: str,
    source: str,
    offset: int,
    *,
    nearest: str | None = None,
    help: str | None = None,
    unknown: Mapping[str, str] | None = None,
) -> ExpressionError:
    """The error for a source that cannot be parsed.

    `details` hold `offset`, `reason`, `nearest` if any, and what is `unknown`: `{"stage": …}` or `{"name": …}`.
    """
    details: dict[str, Any] = {"offset": offset, "reason": reason}
    if unknown is not None:
        details["unknown"] = dict(unknown)
    hint = ""
    if nearest is not None:
        details["nearest"] = nearest
        hint = f" (did you mean {nearest!r}?)"
    shown = source if len(source) <= 80 else source[max(0, offset - 40) : offset + 40]
    error = ExpressionError(f"{reason}{hint}, at character {offset} of {shown!r}", help=help, details=details)
    error.failure = msgspec.structs.replace(error.failure, phase=Phase.COMPILE)
    return error


class Lexer:
    """The current token: `kind` (name, keyword, number, string, op, end), `text`, `start` and `end`."""

    def __init__(self, source: str, start: int = 0) -> None:
        self.source = source
        self.kind = "end"
        self.text = ""
        self.origin = self.start = self.end = start
        self.advance()

    def advance(self) -> None:
        """Go to the next token. Raises `ExpressionError` where there is none."""
        space = _SPACE.match(self.source, self.end)
        assert space is not None
        self.start = space.end()
        if self.start - self.origin > MAX_SOURCE:
            self.fail(f"the expression is longer than {MAX_SOURCE} characters", offset=self.origin)
        found = _TOKEN.match(self.source, self.start)
        if found is None:
            if self.start >= len(self.source):
                self.kind, self.text, self.end = "end", "", self.start
                return
            self._unexpected(self.source[self.start])
        self.text, self.end = found[0], found.end()
        self.kind = found.lastgroup or "op"
        if self.kind == "name" and self.text in KEYWORDS:
            self.kind = "keyword"
        elif self.kind == "number":
            following = self.source[self.end : self.end + 1]
            if following == "." or following == "_" or following.isalnum():
                self.fail("not a number", offset=self.start)

    def field(self) -> str:
        """With the current token a `.`: the field name after it, which becomes the current token."""
        found = _FIELD.match(self.source, self.end)
        if found is None:
            self.fail("a field name is missing after the dot", offset=self.end)
        self.kind, self.text = "field", found[1]
        self.start, self.end = found.start(1), found.end()
        if self.text.isdigit():
            self.fail(
                "a position in a list is written in brackets",
                help=f"Write [{self.text}]; for an object ['{self.text}'].",
            )
        return self.text

    def at(self, text: str) -> bool:
        """Whether the current token is this operator or keyword."""
        return self.text == text and self.kind in ("op", "keyword")

    def number(self) -> int | float:
        """The value of the current number."""
        text = self.text
        if text.isdigit():
            if len(text) > 1 and text[0] == "0":
                self.fail("a number does not begin with 0")
            if len(text) > 20 or int(text) >= 2**64:
                self.fail("an integer of more than 64 bits")
            return int(text)
        value = float(text)
        if value == float("inf"):
            self.fail("a number out of range")
        return value

    def string(self) -> str:
        """The value of the current string."""
        body = self.text[1:-1]
        if "\\" in body:
            body = _ESCAPE.sub(self._unescape, body)
            if not body.isascii():
                # JSON spells a character beyond the first plane as two escapes.
                body = body.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        check_text(body, self.source, self.start)
        return body

    def _unescape(self, found: re.Match[str]) -> str:
        code = found[1]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        if code not in _SIMPLE:
            self.fail(f"unknown escape \\{code}", help="Escapes are those of JSON, and \\'.")
        return _SIMPLE[code]

    def _unexpected(self, character: str) -> Never:
        if character in "\"'":
            self.fail("the string is not closed")
        self.fail(f"unexpected {character!r}", help=_FOREIGN.get(character))

    def fail(
        self,
        reason: str,
        *,
        offset: int | None = None,
        nearest: str | None = None,
        help: str | None = None,
        unknown: Mapping[str, str] | None = None,
    ) -> Never:
        """Refuse the source, by default at the current token."""
        at = self.start if offset is None else offset
        raise refuse(reason, self.source, at, nearest=nearest, help=help, unknown=unknown)


def check_text(text: str, source: str, offset: int) -> None:
    """Refuse half of a surrogate pair, which no encoding can store."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise refuse("half of a surrogate pair is not a character", source, offset) from None
