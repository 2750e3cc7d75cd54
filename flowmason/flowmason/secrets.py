"""The ports for secrets, the environment as their source, and the masking of those that were handed out."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, quote_plus

from flowmason.ids import OrgId

PREFIX = "FLOWMASON_SECRET_"
MASK = "***"
_SHORTEST_MASKED = 4
_SHORTEST_ENCODED = 8
"""Of shorter values the middle of a spelling in base64 would be found in innocent text."""
_BEGIN = 4
_LOWER = re.compile("%[0-9A-F]{2}")


class Secrets(Protocol):
    """Where secrets come from."""

    def get(self, name: str) -> str | None:
        """The secret's value, or None where it is not set."""
        ...


class OrgSecrets(Protocol):
    """Where conductors look up the secrets of orgs."""

    async def values(self, org_id: OrgId, names: Collection[str]) -> dict[str, str]:
        """The newest values of those secrets that are set, by canonical name.

        Raises `FlowMasonError` where they cannot be looked up or do not open.
        """
        ...


def canonical(name: str) -> str:
    """The one spelling of a secret's name: `API-Key`, `api.key` and `api_key` are the same secret."""
    return name.lower().replace("-", "_").replace(".", "_")


def variable(name: str) -> str:
    """The environment variable that holds a secret: `api-key` → `FLOWMASON_SECRET_API_KEY`."""
    return PREFIX + canonical(name).upper()


class EnvironmentSecrets:
    """Reads `FLOWMASON_SECRET_<NAME>`; an empty variable counts as not set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, name: str) -> str | None:
        return self._environ.get(variable(name)) or None


def spellings(value: str) -> set[str]:
    """How a secret may be written: as it is, line by line, escaped for JSON or a URL, in base64 and hex."""
    stripped = value.strip()
    plain = {part for part in (value, stripped, *value.splitlines()) if len(part) >= _SHORTEST_MASKED}
    found = set(plain)
    for part in plain:
        found |= {json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]}
        raw = part.encode(errors="replace")
        quoted = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
        found |= quoted | {_LOWER.sub(lambda escape: escape[0].lower(), text) for text in quoted}
    if len(stripped) >= _SHORTEST_ENCODED:
        raw = stripped.encode(errors="replace")
        found |= {raw.hex(), raw.hex().upper()}
        for middle in map(partial(_base64_middle, raw), range(3)):
            found |= {middle, middle.replace("+", "-").replace("/", "_")}
    return found


def _base64_middle(raw: bytes, before: int) -> str:
    """What of its base64 depends on nothing around it, where `before` bytes (modulo 3) stand before it."""
    text = b64encode(b"\0" * before + raw).decode()
    # Of a character that has bits of a byte before or after it, nothing is known.
    return text[(0, 2, 3)[before] : (before + len(raw)) * 8 // 6]


class Masker:
    """Replaces known secrets by `***` in text and structures, also where they stand in a common encoding.

    Values shorter than 4 characters are not masked: they would blot out innocent text and so give themselves away. Of
    those of 8 characters and more their spellings in base64 (also inside of something larger) and hex are masked, too.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: list[str] = []
        self._known: set[str] = set()
        self._bytes: list[bytes] = []
        self._begins: dict[str, list[str]] = {}
        for value in values:
            self.add(value)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to mask."""
        return not self._values

    def add(self, value: str) -> None:
        """From now on mask `value`, and each of its lines where it has several (a private key)."""
        fresh = {part for part in spellings(value) if part not in self._known}
        if not fresh:
            return
        self._known |= fresh
        # A secret that contains another is replaced whole.
        self._values = sorted(self._known, key=lambda part: (-len(part), part))
        self._bytes = [part.encode(errors="surrogatepass") for part in self._values]
        for part in fresh:
            self._begins.setdefault(part[:_BEGIN], []).append(part)

    def text(self, text: str) -> str:
        """`text` without secrets."""
        for value in self._values:
            if value in text:
                text = text.replace(value, MASK)
        return text

    def held_back(self, text: str) -> int:
        """Where the end of `text` begins that may be the beginning of a secret; its length where it is none."""
        longest = len(self._values[0]) if self._values else 0
        for start in range(max(0, len(text) - longest + 1), len(text)):
            rest = text[start : start + _BEGIN]
            # Most places are told by their first characters alone: a piece of text comes with every token of a model.
            likely = self._begins.get(rest, ()) if len(rest) == _BEGIN else self._values
            if any(value.startswith(text[start:]) for value in likely):
                return self._uncut(text, start)
        return len(text)

    def _uncut(self, text: str, start: int) -> int:
        """`start`, or as far before it as needed: a secret that reaches into what is held back is not cut in two."""
        moved = True
        while moved:
            moved = False
            for value in self._values:
                at = text.find(value, max(0, start - len(value) + 1), start + len(value))
                if 0 <= at < start:
                    start, moved = at, True
        return start

    def mask(self, value: Any) -> Any:
        """A copy of plain data (str, bytes, list, tuple, dict) without secrets, keys of objects included."""
        if not self._values:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            for secret in self._bytes:
                if secret in value:
                    value = value.replace(secret, MASK.encode())
            return value
        if isinstance(value, Mapping):
            return {self.mask(key): self.mask(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.mask(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self.mask(item) for item in value)
        return value


class StreamMasker:
    """Masks a text that comes in pieces: what may be the beginning of a secret waits for the piece after it."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be shown once `piece` has come."""
        text = self._held + piece
        cut = self._masker.held_back(text)
        self._held = text[cut:]
        return self._masker.text(text[:cut])

    def end(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return self._masker.text(held)
