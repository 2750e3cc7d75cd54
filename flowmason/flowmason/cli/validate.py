"""`fm validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason.cli import console

if TYPE_CHECKING:
    from flowmason.assembly.workspace import Workspace
    from flowmason.errors import Fault


def validate(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PIPELINE|DIR]...", help="Files, folders or names. Default: the whole project."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Check samples as well, and refuse for warnings.")] = False,
    format: Annotated[str, typer.Option("--format", metavar="text|json", help="How to print the answer.")] = "text",
    check_inheritance: Annotated[
        bool, typer.Option("--check-inheritance", help="Show what each pipeline extends, and warn of long chains.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of what is in order.")] = False,
) -> None:
    """Check pipeline files without running them.

    Every fault of a file is told in one go, with its line and column, the reason, and the nearest right name; what
    only follows from another fault is not told. Exit code 2 if anything is refused.

    Examples:
      fm validate
      fm validate pipelines/triage.pipeline.json --strict
      fm validate --format json | jq '.files[] | select(.ok | not)'
    """
    console.choice(format, ("text", "json"), "--format")
    reports = [report for target in paths or [""] for report in _check(target, check_inheritance, strict)]
    refused = [r for r in reports if r["faults"] or (strict and r["warnings"])]
    if format == "json":
        console.print_json({"ok": not refused, "files": [_plain(report, report in refused) for report in reports]})
    else:
        _print(reports, refused, strict, quiet)
    if refused:
        raise typer.Exit(console.REFUSED)


def _check(target: str, inheritance: bool, strict: bool) -> list[dict[str, Any]]:
    """A report for every file that `target` means."""
    from flowmason.assembly.workspace import Workspace, pipeline_files, shown
    from flowmason.errors import RefusedError, UsageError
    from flowmason.project import MANIFEST

    folder = Path(target)
    try:
        workspace = Workspace.at(target or None)
    except RefusedError as error:
        file = error.faults[0].file or MANIFEST
        return [_report(file, faults=error.faults)]
    if target and not folder.is_dir():
        return [_pipeline(workspace, workspace.find(target), inheritance, strict)]
    inside = not target or folder.resolve() == workspace.project.root
    files = workspace.project.pipeline_files() if inside else pipeline_files(folder)
    reports = [_pipeline(workspace, path, inheritance, strict) for path in files]
    if workspace.root is not None and inside:
        manifest = shown(workspace.root / MANIFEST)
        reports.insert(0, _report(manifest))
        by_file: dict[str, list[Fault]] = {}
        for fault in (*workspace.component_faults(), *workspace.prompts.faults()):
            by_file.setdefault(fault.file or manifest, []).append(fault)
        reports += [_report(file, faults=faults) for file, faults in by_file.items()]
    elif not files:
        raise UsageError(
            f"there is no pipeline file in {target or 'this folder'}",
            help="They end in .pipeline.json or .pipeline.yaml.",
        )
    return reports


def _pipeline(workspace: Workspace, path: Path, inheritance: bool, strict: bool) -> dict[str, Any]:
    from flowmason.assembly.workspace import shown
    from flowmason.errors import FlowMasonError, RefusedError

    file = shown(path)
    faults = list(workspace.check(path))
    report = _report(file, faults=[fault for fault in faults if fault.file in (None, file)])
    report["faults"] += [fault for fault in faults if fault.file not in (None, file)]
    try:
        source = workspace.source(path)
    except RefusedError:
        return report
    pipeline = source.pipeline
    report.update(pipeline=pipeline.name, version=pipeline.version, stages=len(pipeline.stages))
    report["warnings"] += _warnings(source, strict)
    if inheritance:
        from flowmason.errors import Fault
        from flowmason.inherit import chain

        try:
            names = [each.reference for each in chain(source.written, workspace.written)]
        except FlowMasonError:
            names = [source.written.reference]
        report["extends"] = names[1:]
        if len(names) > 3:
            report["warnings"].append(
                _at(source, Fault(f"{len(names)} pipelines extend one another; 3 are plenty", "$.extends"))
            )
    return report


def _warnings(source: Any, strict: bool) -> list[Fault]:
    """What a run would not stumble over, but its author may want to know."""
    from flowmason.errors import Fault, RefusedError

    found = []
    pipeline = source.pipeline
    for key in ("triggers", "schedule"):
        if getattr(source.written, key):
            found.append(Fault(f"{key} is kept, but nothing acts on it yet", f"$.{key}"))
    if strict and pipeline.sample_input is not None:
        from flowmason.inputs import prepare_input  # it may import jsonschema, which takes its time

        try:
            prepare_input(pipeline.input_schema, pipeline.sample_input)
        except RefusedError as error:
            for fault in error.faults:
                pointer = "$.sample_input" + fault.pointer.removeprefix("$.input")
                found.append(
                    Fault(f"the sample does not fit input_schema: {fault.reason}", pointer, nearest=fault.nearest)
                )
    return [_at(source, fault) for fault in found]


def _at(source: Any, fault: Fault) -> Fault:
    from flowmason.document import located

    return located(fault, source.document)


def _report(file: str, *, faults: Any = (), warnings: Any = ()) -> dict[str, Any]:
    return {"file": file, "faults": list(faults), "warnings": list(warnings)}


def _plain(report: dict[str, Any], refused: bool) -> dict[str, Any]:
    import msgspec

    more: dict[str, Any] = {key: report[key] for key in ("pipeline", "version", "stages", "extends") if key in report}
    return {
        "file": report["file"],
        "ok": not refused,
        **more,
        "faults": msgspec.to_builtins(report["faults"]),
        "warnings": msgspec.to_builtins(report["warnings"]),
    }


def _print(reports: list[dict[str, Any]], refused: list[dict[str, Any]], strict: bool, quiet: bool) -> None:
    told: list[Any] = []
    for report in reports:
        # What is wrong with a component is a fault of every pipeline that names one; it is told once.
        fresh = [fault for fault in report["faults"] if fault not in told]
        told += fresh
        console.print_faults(fresh)
        if strict or not quiet:
            console.print_faults(report["warnings"], label="warning", colour="red" if strict else "yellow")
        if not quiet and not report["faults"] and "pipeline" in report:
            chain = "".join(f" ← {name}" for name in report.get("extends", ()))
            name = f"{report['pipeline']}@{report['version']}{chain}"
            stages = console.count(report["stages"], "stage")
            print(f"{console.paint('✓', 'green')} {report['file']}  {name}, {stages}")
    faults = len(told)
    warnings = sum(len(report["warnings"]) for report in reports)
    if refused:
        more = f", {console.count(warnings, 'warning')}" if warnings else ""
        console.say(f"{console.count(faults, 'fault')}{more} in {console.count(len(refused), 'file')}")
