"""`*.eval.json`: which pipeline is run over which cases, and how its outputs are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flowmason.document import located, read_document
from flowmason.errors import Fault, RefusedError, UsageError, did_you_mean
from flowmason.evals.graders import Grader, check_grader
from flowmason.evals.report import check_gate
from flowmason.pipeline.pointers import format_pointer

SUFFIX = ".eval.json"
_GRADER_KEYS = tuple(field.name for field in msgspec.structs.fields(Grader))
_TYPES: dict[str, tuple[type, ...]] = {"threshold": (int, float), "schema": (dict,), "prompt": (str, dict)}


class EvalFile(msgspec.Struct, frozen=True):
    """One file as it is written; paths in it are relative to it."""

    path: Path
    pipeline: str
    dataset: Path
    graders: tuple[Grader, ...]
    gate: str | None = None
    concurrency: int | None = None


def read_eval_file(path: Path, *, shown: str | None = None) -> EvalFile:
    """Raises `RefusedError` with every fault in its place, and `UsageError` where the file cannot be read."""
    document = read_document(shown or path)
    faults: list[Fault] = []
    given = document.value
    known = ("$schema", "pipeline", "dataset", "graders", "gate", "concurrency")
    if not isinstance(given, dict):
        raise RefusedError([located(Fault("an object is expected", "$"), document)])
    for key in given:
        if key not in known:
            faults.append(Fault(f"unknown key {key!r}", format_pointer((key,)), nearest=did_you_mean(key, known)))
    for key in ("pipeline", "dataset"):
        if not isinstance(given.get(key), str) or not given[key]:
            faults.append(Fault(f"the key {key!r} (a text) is missing", f"$.{key}" if key in given else "$"))
    gate, width = given.get("gate"), given.get("concurrency")
    if gate is not None:
        try:
            check_gate(gate if isinstance(gate, str) else "")
        except UsageError as error:
            faults.append(Fault(error.failure.message.removeprefix("--gate: "), "$.gate"))
    if width is not None and (not isinstance(width, int) or isinstance(width, bool) or width < 1):
        faults.append(Fault("a whole number of at least 1 is expected", "$.concurrency"))
    graders = _graders(given.get("graders"), faults)
    if faults:
        raise RefusedError([located(fault, document) for fault in faults])
    return EvalFile(path, given["pipeline"], path.parent / given["dataset"], graders, gate, width)


def _graders(listed: Any, faults: list[Fault]) -> tuple[Grader, ...]:
    if not isinstance(listed, list) or not listed:
        faults.append(Fault("a list of graders is expected", "$.graders" if listed is not None else "$"))
        return ()
    found: list[Grader] = []
    titles: set[str] = set()
    for index, item in enumerate(listed):
        pointer, before = f"$.graders[{index}]", len(faults)
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            faults.append(Fault("a grader is an object with a 'type'", pointer))
            continue
        for key, value in item.items():
            if key not in _GRADER_KEYS:
                near = did_you_mean(key, _GRADER_KEYS)
                faults.append(Fault(f"unknown key {key!r}", f"{pointer}.{key}", nearest=near))
            elif not isinstance(value, _TYPES.get(key, (str,))) or isinstance(value, bool):
                words = {"threshold": "a number", "schema": "an object", "prompt": "a text or an object"}
                faults.append(Fault(f"{words.get(key, 'a text')} is expected", f"{pointer}.{key}"))
        if len(faults) > before:
            continue
        grader = Grader(**item)
        faults += check_grader(grader, pointer)
        if grader.title in titles:
            faults.append(Fault(f"two graders are called {grader.title!r}; give one a 'name'", pointer))
        titles.add(grader.title)
        found.append(grader)
    return tuple(found)
