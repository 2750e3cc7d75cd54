"""The ports for secrets, the environment as their source, and the masking of those that were handed out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from flowmason.ids import OrgId

PREFIX = "FLOWMASON_SECRET_"
MASK = "***"
_SHORTEST_MASKED = 4


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


class Masker:
    """Replaces known secrets by `***` in text and structures.

    Values shorter than 4 characters are not masked: they would blot out innocent text and so give themselves away.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: list[str] = []
        for value in values:
            self.add(value)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to mask."""
        return not self._values

    def add(self, value: str) -> None:
        """From now on mask `value`, and each of its lines where it has several (a private key)."""
        for part in {value, value.strip(), *value.splitlines()}:
            if len(part) >= _SHORTEST_MASKED and part not in self._values:
                self._values.append(part)
        self._values.sort(key=len, reverse=True)  # a secret that contains another is replaced whole

    def text(self, text: str) -> str:
        """`text` without secrets."""
        for value in self._values:
            text = text.replace(value, MASK)
        return text

    def held_back(self, text: str) -> int:
        """Where the end of `text` begins that may be the beginning of a secret; its length where it is none."""
        longest = len(self._values[0]) if self._values else 0
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(value.startswith(text[start:]) for value in self._values):
                # A secret that reaches into what is held back is not cut in two.
                for value in self._values:
                    at = text.find(value, max(0, start - len(value) + 1))
                    if 0 <= at < start < at + len(value):
                        start = at
                return start
        return len(text)

    def mask(self, value: Any) -> Any:
        """A copy of plain data (str, bytes, list, tuple, dict) without secrets, keys of objects included."""
        if not self._values:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            for secret in self._values:
                value = value.replace(secret.encode(), MASK.encode())
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
