"""The prompts of a project: the files below `prompts/`, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flowmason.document.prompts import load_prompt, parse_prompt
from flowmason.errors import Fault, RefusedError
from flowmason.prompt import SUFFIX, Prompt

FOLDER = "prompts"


class PromptFolder(Mapping[str, Prompt]):
    """Name (path below the folder, without `.md`) → prompt; names that begin with a dot are left out.

    Reading a faulty one raises `RefusedError`.
    """

    def __init__(self, root: Path, *, shown: Path | None = None) -> None:
        """`root`: of the project. `shown`: what paths in messages are relative to, default where we are."""
        self._folder = root / FOLDER
        self._shown = shown
        self._files: dict[str, Path] | None = None
        self._read: dict[str, Prompt] = {}

    def file(self, name: str) -> Path:
        """Where a prompt lies, or would lie."""
        return self._folder / f"{name}{SUFFIX}"

    def __getitem__(self, name: str) -> Prompt:
        if name not in self._read:
            self._read[name] = load_prompt(self._called(self._found()[name]), name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def faults(self) -> tuple[Fault, ...]:
        """Everything that is wrong in any of them."""
        found: list[Fault] = []
        for name in self:
            try:
                self[name]
            except RefusedError as error:
                found += error.faults
        return tuple(found)

    def _found(self) -> dict[str, Path]:
        if self._files is None:
            inside = (path.relative_to(self._folder) for path in self._folder.rglob(f"*{SUFFIX}") if path.is_file())
            names = {path.as_posix().removesuffix(SUFFIX): path for path in inside if _visible(path.parts)}
            self._files = {name: self._folder / path for name, path in sorted(names.items())}
        return self._files

    def _called(self, path: Path) -> Path:
        try:
            return path.relative_to(self._shown or Path.cwd())
        except ValueError:
            return path


def packed_prompts(contents: Iterable[tuple[str, bytes]], *, package: str) -> dict[str, Prompt]:
    """The prompts among the files of a package. Raises `RefusedError` with everything that is wrong in them."""
    found: dict[str, Prompt] = {}
    faults: list[Fault] = []
    for file, data in contents:
        folder, _, rest = file.partition("/")
        if folder == FOLDER and rest.endswith(SUFFIX) and _visible(rest.split("/")):
            name = rest.removesuffix(SUFFIX)
            try:
                found[name] = parse_prompt(data, name, file=f"{package}/{file}")
            except RefusedError as error:
                faults += error.faults
    if faults:
        raise RefusedError(faults)
    return found


def _visible(parts: Iterable[str]) -> bool:
    return not any(part.startswith(".") for part in parts)
