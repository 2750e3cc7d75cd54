"""`fm evals`: the reports of evaluations, kept in `.flowmason/evals/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason.cli import console

if TYPE_CHECKING:
    from flowmason.evals.report import Report, Version

app = typer.Typer(no_args_is_help=True, help="List and show the reports of `fm eval`.")
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
_WIDEST = 60


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """List the reports of this project, the newest first."""
    from flowmason.cli.tables import print_table

    reports = [load(path) for path in sorted(_folder().glob("*.json"), reverse=True)]
    if as_json:
        items = [{**_head(report), "versions": [_line(version) for version in report.versions]} for report in reports]
        console.print_json({"items": items})
        return
    rows = [
        [report.id, report.pipeline, version.name, rate(version), _gate(report)]
        for report in reports
        for version in report.versions
    ]
    if rows:
        print_table(("REPORT", "PIPELINE", "VERSION", "PASSED", "GATE"), rows)
    else:
        console.say("no reports")


@app.command()
def show(
    report: Annotated[str, typer.Argument(metavar="REPORT", help="The id of a report, or its file.")],
    as_json: _Json = False,
) -> None:
    """Show one report: its cases, what they came to, and how its versions compare."""
    found = load(find(report))
    if as_json:
        console.print_json(found.document())
    else:
        print_report(found)


def store(report: Report) -> Path:
    """Keep a report."""
    from flowmason.registry.places import write_whole

    path = _folder() / f"{report.id}.json"
    write_whole(path, console.to_json(report.document()).encode() + b"\n")
    return path


def find(wanted: str) -> Path:
    """The file of a report. Raises `UsageError`."""
    from flowmason.errors import Code, UsageError, did_you_mean

    for path in (Path(wanted), _folder() / f"{wanted}.json"):
        if path.is_file():
            return path
    near = did_you_mean(wanted, [path.stem for path in _folder().glob("*.json")])
    hint = f"; did you mean {near!r}?" if near else ""
    raise UsageError(f"there is no report {wanted!r}{hint}", code=Code.NOT_FOUND)


def load(path: Path) -> Report:
    """Read a report. Raises `UsageError` and `RefusedError`."""
    from flowmason.evals.report import read_report

    return read_report(path.read_bytes(), str(path))


def print_report(report: Report) -> None:
    """The table for people, on stdout."""
    from flowmason.cli.tables import print_table

    for version in report.versions:
        print(f"{report.pipeline}  {version.name}")
        rows = []
        for case in version.cases:
            marks = [_mark(case.grades.get(name)) for name in report.graders]
            why = case.error or next((f"{n}: {g.reason}" for n, g in case.grades.items() if not g.passed), "")
            rows.append([case.id, "pass" if case.passed else "FAIL", *marks, f"{case.latency_ms:.0f} ms", _cut(why)])
        print_table(("CASE", "", *report.graders, "TOOK", ""), rows, indent="  ")
    print_table(
        ("VERSION", "PASSED", "95 % INTERVAL", "MEAN SCORE", "LATENCY", "TOKENS", "COST"),
        [_summary(version) for version in report.versions],
    )
    for each in report.comparisons:
        print(f"{each.new} against {each.old}: {each.hint}")
        for words, ids in (("better", each.better), ("worse", each.worse)):
            if ids:
                print(f"  {words}: {_cut(', '.join(ids), 200)}")
    if report.partial:
        print("ended early: not all cases were run")
    if report.gate is not None:
        print(f"gate {report.gate}: {'passed' if report.gate_passed else 'FAILED'}")


def rate(version: Version) -> str:
    """`9 of 10 (90 %)`."""
    found = version.measures()
    return f"{found['passed']} of {found['cases']} ({(found['pass_rate'] or 0) * 100:.0f} %)"


def junit(report: Report) -> str:
    """JUnit XML: a suite for each version, a test for each case."""
    from xml.etree import ElementTree

    root = ElementTree.Element("testsuites", name=f"fm eval {report.pipeline}")
    for version in report.versions:
        failed = sum(not case.passed and case.error is None for case in version.cases)
        broken = sum(case.error is not None for case in version.cases)
        counts = {"tests": str(len(version.cases)), "failures": str(failed), "errors": str(broken)}
        suite = ElementTree.SubElement(root, "testsuite", {"name": _plain(version.name), **counts})
        for case in version.cases:
            test = ElementTree.SubElement(
                suite, "testcase", name=_plain(case.id), classname=report.pipeline, time=f"{case.latency_ms / 1000:.3f}"
            )
            if case.error is not None:
                ElementTree.SubElement(test, "error", message=_plain(case.error))
            for name, grade in case.grades.items():
                if not grade.passed and case.error is None:
                    ElementTree.SubElement(test, "failure", message=_plain(f"{name}: {grade.reason}"))
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _plain(text: str) -> str:
    return "".join(char for char in text if char in "\t\n" or ord(char) >= 32)


def _folder() -> Path:
    from flowmason.assembly.workspace import Workspace

    workspace = Workspace.at()
    return workspace.project.state_dir / "evals"


def _summary(version: Version) -> list[str]:
    found: dict[str, Any] = version.measures()
    took = found["latency_ms"]
    return [
        version.name,
        rate(version),
        f"{found['pass_low'] * 100:.0f} % to {found['pass_high'] * 100:.0f} %",
        f"{found['mean_score']:.3f}",
        f"{took:.0f} ms" if took is not None else "",
        str(found["tokens"]),
        f"${found['cost']:g}" if found["cost"] is not None else "unknown",
    ]


def _head(report: Report) -> dict[str, Any]:
    keys = ("id", "pipeline", "dataset", "at", "partial", "gate", "gate_passed")
    return {key: getattr(report, key) for key in keys}


def _line(version: Version) -> dict[str, Any]:
    return {"name": version.name, "plan": version.plan, "prompts": version.prompts, "summary": version.measures()}


def _gate(report: Report) -> str:
    return "" if report.gate_passed is None else "passed" if report.gate_passed else "failed"


def _mark(grade: Any) -> str:
    return "-" if grade is None else f"{'✓' if grade.passed else '✗'} {grade.score:.2f}"


def _cut(text: str, widest: int = _WIDEST) -> str:
    text = " ".join(text.split())
    return text if len(text) <= widest else text[: widest - 1] + "…"
