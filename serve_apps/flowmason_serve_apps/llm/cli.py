"""`fm model list|pull`: the models that a project serves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flowmason.cli import console
from flowmason.cli.tables import print_table
from flowmason.errors import Fault, FlowMasonError, RefusedError
from flowmason.project import find_project
from flowmason.served import FOLDER, ServedModel, bundles, read_folder, reading, sources

app = typer.Typer(help="Serve language models on Ray, and look at them.", no_args_is_help=True, rich_markup_mode=None)

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
_DIR = Annotated[
    Path | None, typer.Option("--dir", metavar="FOLDER", help=f"Where models are declared (default: {FOLDER}).")
]


@app.command("list")
def list_(folder: _DIR = None, as_json: _JSON = False) -> None:
    """List the models that configs/llm declares: engine, what a replica takes, and whether the weights are here.

    Exit code 2 where a file is faulty.
    """
    models, faults = read_folder(_folder(folder))
    described = [_described(model) for model in models.values()]
    if as_json:
        console.print_json({"items": described})
    elif models:
        rows = [[d["name"], d["engine"], _takes(m), d["replicas"], _here(d), d["source"]]
                for d, m in zip(described, models.values(), strict=True)]  # fmt: skip
        print_table(("MODEL", "ENGINE", "A REPLICA TAKES", "REPLICAS", "WEIGHTS", "SOURCE"), rows)
    elif not faults:
        console.say(f"no models: a file {FOLDER}/<name>.yaml declares one (docs/models.md)")
    _refuse(faults)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="As configs/llm declares it.")],
    cpu: Annotated[bool, typer.Option("--cpu", help="What stands in for it on CPUs.")] = False,
    folder: _DIR = None,
    as_json: _JSON = False,
) -> None:
    """Fetch a model's weights, and its adapters', to this machine: `fm model serve` then starts at once.

    What is here already is left as it is.

    Examples:
      fm model pull smollm2
      fm model pull qwen3-8b --cpu
    """
    model = declared(folder, name, cpu=cpu)
    items = []
    for label, source in [(model.name, model.source), *((f"{model.name}/{a.name}", a.source) for a in model.adapters)]:
        known = sources.find(source, os.environ)
        with _progress(label) as tell:
            path = known or sources.fetch(source, os.environ, tell)
        size = sources.size(path)
        items.append({"model": label, "path": str(path), "bytes": size, "fetched": known is None})
        if not as_json:
            console.say(f"{label}: {'here already' if known else 'fetched'}, {_amount(size)}, {path}")
    if as_json:
        console.print_json({"items": items})


def declared(folder: Path | None, name: str, *, cpu: bool = False) -> ServedModel:
    """The declared model of a name. Raises `UsageError` where there is none, `RefusedError` where files are faulty."""
    models, faults = read_folder(_folder(folder))
    if name not in models and faults:
        raise RefusedError(faults)
    model = reading.choose(models, name)
    if cpu and model.cpu is None:
        raise reading.no_cpu(model)
    return model.cpu if cpu and model.cpu is not None else model


def _folder(given: Path | None) -> Path:
    return given if given is not None else (find_project() or Path.cwd()) / FOLDER


def _described(model: ServedModel) -> dict[str, Any]:
    scaling = model.autoscaling
    try:
        path = sources.find(model.source, os.environ)
        wrong = None
    except FlowMasonError as error:
        path, wrong = None, str(error)
    return {
        "name": model.name,
        "description": model.description,
        "engine": model.engine,
        "source": str(model.source),
        "path": None if path is None else str(path),
        "problem": wrong,
        "bundles": bundles(model),
        "replicas": str(model.replicas) if scaling is None else f"{scaling.min}-{scaling.max}",
        "adapters": [f"{model.name}/{each.name}" for each in model.adapters],
        "cpu": None if model.cpu is None else {"engine": model.cpu.engine, "source": str(model.cpu.source)},
    }


def _takes(model: ServedModel) -> str:
    if model.gpus is None:
        return f"{model.cpus:g} CPU"
    kind = f" {model.gpus.accelerator_type}" if model.gpus.accelerator_type else ""
    return f"{model.gpus.count} GPU{kind}" + (" (or CPU)" if model.cpu is not None else "")


def _here(described: dict[str, Any]) -> str:
    return "wrong" if described["problem"] else "here" if described["path"] else "to be fetched"


def _refuse(faults: list[Fault]) -> None:
    if faults:
        console.print_faults(faults)
        raise typer.Exit(console.REFUSED)


@contextmanager
def _progress(label: str) -> Iterator[sources.Tell]:
    """A bar on stderr while something is fetched; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda here, whole: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda here, whole: bar.update(task, completed=here, total=whole)


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
