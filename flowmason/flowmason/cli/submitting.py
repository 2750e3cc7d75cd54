"""`fm run --submit`: the same run as a job of a cluster, where it goes on without this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowmason.cli import console

GROUP = "flowmason.submitters"
"""Entry points of functions that run `fm` as a job of a cluster and return its exit code."""


def submit(path: str | None, request: Mapping[str, Any], show: Any) -> int:
    """Check the pipeline and its input here, then hand the command to the cluster. Returns the exit code.

    Raises `RefusedError` and `UsageError` before anything is uploaded, `EngineUnavailableError` where there is no
    cluster to submit to.
    """
    from flowmason.assembly.workspace import Workspace
    from flowmason.cli.given import Blobs, read_input
    from flowmason.errors import UsageError
    from flowmason.inputs import prepare_input

    workspace = Workspace.at(path)
    root = workspace.project.root.absolute()
    main = workspace.project.main
    if path is None and main is None:
        raise UsageError("no pipeline is named", help="Name one: `fm list pipelines` shows those there are.")
    wanted = path if path is not None else str(root / str(main))
    compiled = workspace.compile(wanted)
    given = read_input(
        request["input"],
        request["input_file"],
        sample=request["sample"],
        sample_input=compiled.sample_input,
        assignments=request["assignments"],
        blobs=Blobs(),
    )
    prepare_input(compiled.plan.input_schema, given)
    file = compiled.source.path.absolute()
    if not file.is_relative_to(root):
        raise UsageError(f"{file} lies outside of {root}, the folder that is uploaded")
    code: int = _submitter()(
        root=root,
        arguments=[
            *("run", str(file.relative_to(root))),
            *_input(request, given, root, workspace.cwd),
            *_options(request, show),
        ],
        name=f"{compiled.plan.name}@{compiled.plan.version}",
        address=request["address"],
        allow_open=request["allow_open"],
        say=show.say,
    )
    return code


def _input(request: Mapping[str, Any], given: Mapping[str, Any], root: Path, cwd: Path) -> list[str]:
    """The flags that give the job the input; files are named as they will lie there."""
    files = [text.partition("=")[2] for text in request["assignments"]]
    if not any(text.startswith("@") for text in files):
        named = request["input_file"]
        if named in (None, "-") or request["input"] is not None or request["assignments"]:
            return ["--input", console.to_json(given, indent=0)]
        return ["--input-file", _uploaded(named, root, cwd)]
    if request["input_file"] == "-":
        raise _not_uploaded("the standard input")
    flags = ["--input", request["input"]] if request["input"] is not None else []
    if request["input_file"] is not None:
        flags += ["--input-file", _uploaded(request["input_file"], root, cwd)]
    flags += ["--sample"] if request["sample"] else []
    for text in request["assignments"]:
        name, _, value = text.partition("=")
        flags += ["--set", f"{name}=@{_uploaded(value[1:], root, cwd)}" if value.startswith("@") else text]
    return flags


def _uploaded(name: str, root: Path, cwd: Path) -> str:
    path = (cwd / Path(name).expanduser()).resolve()
    if not path.is_relative_to(root.resolve()):
        raise _not_uploaded(name)
    return str(path.relative_to(root.resolve()))


def _not_uploaded(name: str) -> Exception:
    from flowmason.errors import UsageError

    return UsageError(
        f"{name} lies outside of the folder that is uploaded", help="Put the file into the project, or use --input."
    )


def _options(request: Mapping[str, Any], show: Any) -> list[str]:
    """The other flags that go with the run, not with the way there."""
    flags = ["--on", request["on"]] if request["on"] != "ray" else []
    for name in ("provider", "max_concurrency", "max_cost", "max_tokens", "timeout"):
        if request[name] is not None:
            flags += [f"--{name.replace('_', '-')}", str(request[name])]
    given = {"--json": show.json, "--items": show.items, "--quiet": show.quiet, "--verbose": show.verbose}
    flags += [flag for flag, wanted in given.items() if wanted]
    return [*flags, *([] if show.progress else ["--no-progress"])]


def _submitter() -> Any:
    from importlib.metadata import entry_points

    from flowmason.errors import EngineUnavailableError

    points = entry_points(group=GROUP)
    if not points:
        raise EngineUnavailableError("nothing here can submit a job", help="pip install 'flowmason[ray]'.")
    return console.loaded(next(iter(points)))
