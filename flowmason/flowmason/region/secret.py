"""Secrets as a call has them: what it was handed, what a component sees of it, what is masked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from flowmason.component import ComponentContextError
from flowmason.errors import Code, Failure, FlowMasonError, StageError
from flowmason.report import Handed, Region
from flowmason.secrets import Masker, Secrets, canonical, variable


class HandedSecrets:
    """The source for a call that was handed its org's secrets. The environment belongs to somebody else."""

    def __init__(self, handed: Handed) -> None:
        self._handed = handed

    def get(self, name: str) -> str | None:
        """The value, or None where the org has not set it. Raises where the secrets could not be looked up."""
        if self._handed.failure is not None:
            raise _raised(self._handed.failure)
        return self._handed.secrets.get(canonical(name))


class DeclaredSecrets:
    """`context.secrets`."""

    def __init__(self, source: Secrets, masker: Masker, declared: frozenset[str], component: str) -> None:
        self._source = source
        self._masker = masker
        self._declared = declared
        self._component = component

    def get(self, name: str) -> str:
        """The secret's value; from here on it is masked in logs and failures."""
        if name not in self._declared:
            raise ComponentContextError(
                f"{self._component} does not declare the secret {name!r}",
                help=f'Add secrets=["{name}"] to its decorator.',
            )
        found = self._source.get(name)
        if found is None:
            of_org = isinstance(self._source, HandedSecrets)
            raise StageError(
                f"the secret {name!r} is not set",
                code=Code.SECRET_MISSING,
                help=f"Set it for the org: fm secrets set {canonical(name)}"
                if of_org
                else f"Set {variable(name)} where the workers run.",
            )
        self._masker.add(found)
        return found


def masker_of(region: Region) -> Masker | None:
    """A masker of what the call was handed, and of nothing else: others' secrets must not show by being masked."""
    handed = region.handed
    return None if handed is None else Masker([*handed.secrets.values(), *handed.keys.values()])


def keys_of(region: Region) -> tuple[Mapping[str, str], str]:
    """Keys of providers that the call was handed, and what tells them from other keys.

    Raises where they could not be looked up.
    """
    handed = region.handed
    if handed is None:
        return {}, ""
    if handed.failure is not None:
        raise _raised(handed.failure)
    return handed.keys, hashlib.sha256(msgspec.msgpack.encode(handed.keys, order="sorted")).hexdigest()


def mask_failure(failure: Failure, masker: Masker) -> Failure:
    """The failure with every secret replaced by stars."""
    if masker.empty:
        return failure
    return msgspec.convert(masker.mask(msgspec.to_builtins(failure)), Failure)


def _raised(failure: Failure) -> FlowMasonError:
    error = StageError(failure.message)
    error.failure = failure
    return error
