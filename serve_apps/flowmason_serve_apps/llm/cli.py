"""`fm model`: the models that a project declares, and those that the Studio on this machine serves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flowmason.cli import console
from flowmason.cli.tables import print_table
from flowmason.errors import EngineUnavailableError, Fault, FlowMasonError, RefusedError
from flowmason.project import find_project
from flowmason.served import FOLDER, ServedModel, bundles, names, read_folder, reading, sources
from flowmason_serve_apps.llm.wanted import Standing, WantedModels
from flowmason_serve_apps.studio import supervised
from flowmason_serve_apps.studio.supervised import StudioState

app = typer.Typer(help="Serve language models on Ray, and look at them.", no_args_is_help=True, rich_markup_mode=None)

_STOP_S = 20.0
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


@app.command("serve")
def serve_(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="As configs/llm declares it.")],
    within: Annotated[int, typer.Option("--within", metavar="SECONDS", min=1, help="How long to wait for it.")] = 900,
    folder: _DIR = None,
    as_json: _JSON = False,
) -> None:
    """Serve a model beside the Studio on this machine, and wait until it answers; it is served again after restarts.

    Where it is served already, it is left as it is; where its file has changed, it is replaced. Exit code 1 where it
    cannot be served, 4 where no Studio is running or it does not answer in time. On a cluster that exists:
    serve deploy configs/serve/models.yaml.

    Examples:
      fm model serve smollm2
      fm model serve qwen3-8b --within 3600
    """
    model = declared(folder, name)
    studio = _studio()
    files = WantedModels(os.environ)
    wish = files.serve(model)
    with _waiting(f"{name}: starting") as tell:
        found = _await(lambda: files.standing().get(name), wish.asked_at, within, tell, name)
    if as_json:
        console.print_json({**_standing(name, found), "url": _endpoint(studio)})
    elif found.phase == "running":
        console.say(f"{name}: served by {found.engine}{' (the stand-in for CPUs)' if found.on_cpu else ''}")
        console.say(f"  endpoint  {_endpoint(studio)} (API keys of the Studio)")
        console.say(f'  pipelines "llm_settings": {{"provider": "models", "model": "{name}"}}')
    if found.phase == "failed":
        if not as_json:
            console.say(f"{name} cannot be served: {found.message}")
        raise typer.Exit(console.FAILED)


@app.command()
def stop(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="One that is served.")], as_json: _JSON = False
) -> None:
    """Serve a model no longer. Its weights stay here."""
    files = WantedModels(os.environ)
    known = files.stop(name)
    deadline = time.monotonic() + _STOP_S
    while name in files.standing() and supervised.running(os.environ) and time.monotonic() < deadline:
        time.sleep(0.1)
    if as_json:
        console.print_json({"model": name, "stopped": known})
    else:
        console.say(f"{name}: {'stopped' if known else 'was not served'}")


@app.command()
def status(as_json: _JSON = False) -> None:
    """Show the models that the Studio on this machine serves. Exit code 4 where no Studio runs, 1 where one failed."""
    studio = _studio()
    files = WantedModels(os.environ)
    standing = files.standing()
    if studio.phase != "running":  # what was written before is not so any more
        standing = {}
    items = [_standing(name, standing.get(name)) for name in files.wanted()]
    if as_json:
        console.print_json({"items": items, "url": _endpoint(studio)})
    elif items:
        rows = [[e["model"], e["phase"], str(e["replicas"]), e["engine"], e["message"]] for e in items]
        print_table(("MODEL", "STATUS", "REPLICAS", "ENGINE", ""), rows)
        console.say(f"endpoint: {_endpoint(studio)}")
    else:
        console.say("no model is served (fm model serve MODEL serves one)")
    if any(each["phase"] == "failed" for each in items):
        raise typer.Exit(console.FAILED)


def _studio() -> StudioState:
    found = supervised.running(os.environ)
    if found is None:
        raise EngineUnavailableError(
            "no Studio is running on this machine",
            help="Start one: fm studio start. On a cluster that exists: serve deploy configs/serve/models.yaml.",
        )
    return found


def _endpoint(studio: StudioState) -> str:
    return f"{studio.url}{names.PREFIX}/v1"


def _await(
    look: Callable[[], Standing | None], asked_at: int, within: int, tell: Callable[[str], None], name: str
) -> Standing:
    """Wait until a wish came true or failed. Raises `EngineUnavailableError` where it takes too long."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        found = look()
        if found is not None and found.asked_at == asked_at:
            if found.phase != "starting":
                return found
            tell(f"{name}: starting {found.message[:80]}".strip())
        _studio()
        time.sleep(0.2)
    raise EngineUnavailableError(f"the model {name!r} does not answer after {within} s", help="fm model status")


def _standing(name: str, standing: Standing | None) -> dict[str, Any]:
    said = standing or Standing(0, "starting")
    return {
        "model": name,
        "phase": said.phase,
        "engine": said.engine,
        "on_cpu": said.on_cpu,
        "replicas": said.replicas,
        "message": said.message,
    }


@contextmanager
def _waiting(text: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is going on; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as line:
        yield line.update


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
