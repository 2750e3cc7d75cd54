"""The files that declare served models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flowmason.document import located, read_document
from flowmason.errors import Fault, RefusedError, UsageError, did_you_mean
from flowmason.served.model import Adapter, ServedModel, Source, SourceKind
from flowmason.served.parsing import parse_served

FOLDER = Path("configs/llm")
"""Where models are declared, from the project's root."""
_ENDINGS = (".yaml", ".yml", ".json")


def load_served(path: Path) -> ServedModel:
    """The model that a file declares; relative paths in it are from the file's folder.

    Raises `RefusedError` with every fault in its place, `UsageError` where it cannot be read.
    """
    document = read_document(path)
    faults: list[Fault] = []
    model = parse_served(document.value, faults)
    if model is None:
        raise RefusedError([located(fault, document) for fault in faults])
    return anchored(model, path.absolute().parent)


def read_folder(folder: Path) -> tuple[dict[str, ServedModel], list[Fault]]:
    """The models below a folder by name, and what is wrong with its files. A folder that is not there has none."""
    models: dict[str, ServedModel] = {}
    files: dict[str, str] = {}
    faults: list[Fault] = []
    for path in sorted(each for each in folder.glob("*") if each.suffix in _ENDINGS and each.is_file()):
        try:
            model = load_served(path)
        except RefusedError as error:
            faults += error.faults
            continue
        if model.name in models:
            faults.append(Fault(f"{files[model.name]} declares a model {model.name!r} too", "$.name", file=str(path)))
            continue
        models[model.name], files[model.name] = model, str(path)
    return models, faults


def choose(models: dict[str, ServedModel], name: str) -> ServedModel:
    """The model of a name. Raises `UsageError` where there is none."""
    if name in models:
        return models[name]
    near = did_you_mean(name, list(models))
    hint = f"; did you mean {near!r}?" if near else f"; there are {', '.join(models)}" if models else ""
    raise UsageError(
        f"no model {name!r} is declared{hint}", help=f"A file {FOLDER}/{name}.yaml declares one (docs/models.md)."
    )


def no_cpu(model: ServedModel) -> UsageError:
    """The refusal of `--cpu` for a model that declares nothing for CPUs."""
    return UsageError(
        f"the model {model.name!r} says nothing about CPUs" if model.gpus else f"the model {model.name!r} runs on CPUs",
        help="Its file may say with cpu what is served without GPUs." if model.gpus else "Leave --cpu out.",
    )


def anchored(model: ServedModel, folder: Path) -> ServedModel:
    """The model with relative paths made absolute."""

    def placed(source: Source) -> Source:
        if source.kind is not SourceKind.PATH:
            return source
        return msgspec.structs.replace(source, place=str((folder / Path(source.place).expanduser()).resolve()))

    changes: dict[str, Any] = {
        "source": placed(model.source),
        "adapters": tuple(Adapter(each.name, placed(each.source)) for each in model.adapters),
        "cpu": anchored(model.cpu, folder) if model.cpu is not None else None,
    }
    return msgspec.structs.replace(model, **changes)
