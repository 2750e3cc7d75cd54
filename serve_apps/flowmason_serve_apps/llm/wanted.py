"""Which models the Studio on this machine should serve, and what became of it: two files in FLOWMASON_HOME.

`fm model serve` and `fm model stop` write the first, the Studio's keeper the second, so that models outlive Ray: after
a restart of its head they are served again.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from flowmason.errors import EngineUnavailableError
from flowmason.places import home_dir
from flowmason.served import ServedModel
from flowmason_actors import processes

T = TypeVar("T")
Phase = Literal["starting", "running", "failed", "stopping"]


class Wanted(msgspec.Struct, frozen=True):
    """One model that should be served."""

    model: ServedModel
    asked_at: int
    """Nanoseconds since the epoch: asking again for one that failed is a new wish."""


class Standing(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a wish."""

    asked_at: int
    phase: Phase
    engine: str = ""
    on_cpu: bool = False
    """Whether it is what stands in for GPUs that are lacking."""
    replicas: int = 0
    """That answer."""
    deployed: bool = True
    """False: it was refused before anything was deployed; what was served under the name before goes on."""
    message: str = ""
    """Why it failed, or what it waits for."""


class WantedModels:
    """Reads and writes the two files; safe beside another process that does the same."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        home = home_dir(environ).absolute()
        self._wanted = home / "models.json"
        self._standing = home / "models-standing.json"

    def wanted(self) -> dict[str, Wanted]:
        """The models that should be served, by name."""
        return self._read(self._wanted, dict[str, Wanted])

    def standing(self) -> dict[str, Standing]:
        """What became of them, as the keeper wrote last."""
        return self._read(self._standing, dict[str, Standing])

    def serve(self, model: ServedModel) -> Wanted:
        """Ask for a model. Where the same one is served or about to be, that wish stands."""
        with self._locked():
            wishes = self.wanted()
            known = wishes.get(model.name)
            if known is not None and known.model == model:
                said = self.standing().get(model.name)
                if said is None or said.asked_at != known.asked_at or said.phase != "failed":
                    return known
            wishes[model.name] = Wanted(model, time.time_ns())
            self._write(self._wanted, wishes)
            return wishes[model.name]

    def stop(self, name: str) -> bool:
        """Ask for a model no longer; returns whether anybody did."""
        with self._locked():
            wishes = self.wanted()
            found = wishes.pop(name, None)
            if found is not None:
                self._write(self._wanted, wishes)
            return found is not None

    def tell(self, standing: Mapping[str, Standing]) -> None:
        """Write down what became of the wishes; for the keeper alone."""
        if dict(standing) != self.standing():
            self._write(self._standing, standing)

    def _read(self, file: Path, kind: type[dict[str, T]]) -> dict[str, T]:
        try:
            return msgspec.json.decode(file.read_bytes(), type=kind)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            raise EngineUnavailableError(f"cannot read {file}: {error}", help="Repair or remove the file.") from None

    def _write(self, file: Path, data: object) -> None:
        processes.write_private(file, msgspec.json.format(msgspec.json.encode(data)))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._wanted.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._wanted.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
