"""The Studios that this user has signed in to: one file without secrets, and the keys in the system's keyring.

Where there is no keyring (a server, a container) the keys lie in `org-keys.json`, readable by the user alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from flowmason.errors import Code, UsageError, did_you_mean
from flowmason.places import home_dir

SERVICE = "flowmason"
ENVIRONMENT = "environment"
"""The alias of the org that `FLOWMASON_STUDIO_URL` and `FLOWMASON_API_KEY` name."""

T = TypeVar("T")


class Org(msgspec.Struct, frozen=True, omit_defaults=True):
    """One org of one Studio, under the name the user gave it."""

    alias: str
    url: str
    """Where the Studio answers, without `/api/v1`."""
    org_id: str = ""
    name: str = ""
    user: str = ""
    """Whom the key belongs to, as the Studio said at sign-in."""
    kept_in: str = "file"
    """`keyring`, `file`, or `environment`."""


class _Book(msgspec.Struct):
    orgs: dict[str, Org] = {}
    default: str | None = None


class OrgBook:
    """Reads and writes the list; safe beside another process that does the same."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._folder = home_dir(environ)
        self._file = self._folder / "orgs.json"
        self._keys = self._folder / "org-keys.json"

    def all(self) -> list[Org]:
        """Every org, by alias; one that the environment names comes first."""
        listed = [org for _, org in sorted(self._read(self._file, _Book).orgs.items())]
        given = self._of_environment()
        return [given, *listed] if given is not None else listed

    def default(self) -> str | None:
        """The alias that is meant where none is named."""
        if self._of_environment() is not None:
            return ENVIRONMENT
        book = self._read(self._file, _Book)
        if book.default is not None:
            return book.default
        return next(iter(book.orgs)) if len(book.orgs) == 1 else None

    def get(self, alias: str | None = None) -> Org:
        """The org of an alias, or the default. Raises `UsageError` where there is none."""
        wanted = alias or self.default()
        orgs = {org.alias: org for org in self.all()}
        if wanted is None:
            if orgs:
                raise UsageError(
                    f"which org? there are {', '.join(sorted(orgs))}",
                    help="Name one, or choose a default with `fm org default ALIAS`.",
                )
            raise UsageError("no org is known here", help="`fm org login` signs in to a Studio.")
        if wanted not in orgs:
            near = did_you_mean(wanted, list(orgs))
            hint = f"; did you mean {near!r}?" if near else ""
            raise UsageError(f"there is no org {wanted!r}{hint}", code=Code.NOT_FOUND, help="`fm org list` shows them.")
        return orgs[wanted]

    def key(self, org: Org) -> str:
        """The org's API key. Raises `UsageError` where it is gone."""
        if org.kept_in == "environment":
            return self._environ["FLOWMASON_API_KEY"]
        found = (
            _keyring().get_password(SERVICE, org.alias)
            if org.kept_in == "keyring"
            else self._read(self._keys, dict[str, str]).get(org.alias)
        )
        if not found:
            raise UsageError(
                f"the key of the org {org.alias!r} is gone from the {org.kept_in}",
                help="Sign in again: `fm org login`.",
            )
        return str(found)

    def add(self, org: Org, key: str, *, default: bool = False) -> Org:
        """Keep an org and its key; an earlier one of that alias is replaced. The first becomes the default."""
        if org.alias == ENVIRONMENT:
            raise UsageError(
                f"{ENVIRONMENT!r} stands for the org that FLOWMASON_STUDIO_URL names; choose another alias"
            )
        with self._locked():
            ring = usable_keyring()
            if ring is not None:
                ring.set_password(SERVICE, org.alias, key)
            else:
                self._write(self._keys, {**self._read(self._keys, dict[str, str]), org.alias: key})
            kept = msgspec.structs.replace(org, kept_in="keyring" if ring is not None else "file")
            book = self._read(self._file, _Book)
            book.orgs[org.alias] = kept
            if default or len(book.orgs) == 1:
                book.default = org.alias
            self._write(self._file, book)
        return kept

    def remove(self, alias: str) -> Org:
        """Forget an org and its key. Raises `UsageError` where there is none."""
        org = self.get(alias)
        if org.kept_in == "environment":
            raise UsageError("this org comes from the environment", help="Unset FLOWMASON_STUDIO_URL.")
        with self._locked():
            if org.kept_in == "keyring":
                _keyring().delete_password(SERVICE, alias)
            keys = self._read(self._keys, dict[str, str])
            if keys.pop(alias, None) is not None:
                self._write(self._keys, keys)
            book = self._read(self._file, _Book)
            book.orgs.pop(alias, None)
            if book.default == alias:
                book.default = None
            self._write(self._file, book)
        return org

    def make_default(self, alias: str) -> Org:
        """From now on `alias` is meant where none is named."""
        org = self.get(alias)
        with self._locked():
            book = self._read(self._file, _Book)
            book.default = alias
            self._write(self._file, book)
        return org

    def _of_environment(self) -> Org | None:
        url = self._environ.get("FLOWMASON_STUDIO_URL")
        if not url or not self._environ.get("FLOWMASON_API_KEY"):
            return None
        return Org(alias=ENVIRONMENT, url=url.rstrip("/"), kept_in="environment")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "orgs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, file: Path, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(file.read_bytes(), type=kind)
        except FileNotFoundError:
            return kind()
        except (OSError, msgspec.DecodeError) as error:
            raise UsageError(f"cannot read {file}: {error}", help="Repair or remove the file.") from None

    def _write(self, file: Path, data: Any) -> None:
        draft = file.with_suffix(f".{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(data)))
        draft.replace(file)


def usable_keyring() -> Any | None:
    """The system's keyring, where there is one that works without asking anybody; None otherwise."""
    try:
        import keyring
        from keyring.backends.fail import Keyring as Nothing
    except ImportError:
        return None
    ring = keyring.get_keyring()
    return None if isinstance(ring, Nothing) or ring.priority < 1 else ring


def _keyring() -> Any:
    ring = usable_keyring()
    if ring is None:
        raise UsageError("the keyring that holds the key is not available here", help="Sign in again: `fm org login`.")
    return ring
