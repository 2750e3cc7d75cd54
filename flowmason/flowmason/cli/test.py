"""`fm test`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from flowmason.cli import console

if TYPE_CHECKING:
    from flowmason.testing.results import CaseResult, FileResult, Report
    from flowmason.testing.suite import Options

REPORTERS = ("text", "json", "junit")
COVERAGES = ("text", "json", "lcov")
_MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "error": ("✗", "red"), "skipped": ("-", "yellow")}


class _Command(TyperCommand):
    """Lets `--coverage` stand alone: its format follows an equals sign, so that a path after it stays a path."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--coverage=text" if arg == "--coverage" else arg for arg in args])


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _test(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE|DIR]...", help="Files or folders of tests. Default: the whole project."),
    ] = None,
    coverage: Annotated[
        str | None,
        typer.Option("--coverage", metavar="[=text|json|lcov]", help="Tell which stages and branches the tests reach."),
    ] = None,
    coverage_out: Annotated[
        str | None, typer.Option("--coverage-out", metavar="FILE", help="Write the coverage to a file.")
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", min=0, max=100, help="Fail if less of stages and branches is reached."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Run again whenever a file changes.")] = False,
    update: Annotated[
        bool, typer.Option("--update-snapshots", "-u", help="Keep what the tests give as their snapshots.")
    ] = False,
    filter: Annotated[
        list[str] | None,
        typer.Option("--filter", "-k", metavar="TEXT", help="Run tests whose name has this in it. Repeatable."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", metavar="TAG", help="Run tests with this tag. Repeatable.")
    ] = None,
    reporter: Annotated[
        str, typer.Option("--reporter", metavar="text|json|junit", help="How to print the results.")
    ] = "text",
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Write the report to a file.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of components.")] = False,
) -> None:
    """Run the tests of a project's pipelines.

    Each test runs its pipeline on the real engine in this process, without Ray and without any network; mocks stand
    in for stages and models. Exit codes: 0 all passed, 1 failures or too little coverage, 2 refused file or usage.

    Examples:
      fm test
      fm test tests/triage.test.json --coverage
      fm test --tag fast --reporter junit --out results.xml
      fm test --coverage=lcov --coverage-out lcov.info --fail-under 80
    """
    from flowmason.testing.suite import Options

    console.be_verbose(verbose)
    console.choice(reporter, REPORTERS, "--reporter")
    if coverage is not None:
        console.choice(coverage, COVERAGES, "--coverage")
    elif coverage_out is not None:
        coverage = "lcov"
    if reporter != "text" and out is None and coverage not in (None, "text", reporter) and coverage_out is None:
        raise typer.BadParameter("the report and the coverage cannot both go to stdout", param_hint="--coverage-out")
    options = Options(
        filters=tuple(filter or ()),
        tags=tuple(tag or ()),
        update=update,
        whole=not paths and not filter and not tag,
    )
    shown = _Shown(reporter, out, coverage, coverage_out, fail_under, verbose)
    code = _once(paths or [], options, shown)
    if watch:
        code = _watch(paths or [], options, shown, code)
    raise typer.Exit(code)


app.command("test", cls=_Command, help=console.help_of(_test))(_test)
test = typer.main.get_command(app)


def _once(paths: list[str], options: Options, shown: _Shown) -> int:
    from flowmason.errors import Code, UsageError
    from flowmason.testing.finding import find_test_files
    from flowmason.testing.suite import Suite

    found = find_test_files(paths)
    for workspace, _ in found:
        for fault in workspace.component_faults():
            console.say(f"{console.paint('warning', 'yellow')} {fault}")
    suite = Suite(options, told=shown.file)
    report: Report = console.run_async(suite.run(found))
    console.abandoned.extend(suite.left_behind)
    if report.deselected and not any(file.cases or file.faults for file in report.files):
        wanted = ", ".join((*options.filters, *options.tags))
        raise UsageError(f"no test fits {wanted!r}; {report.deselected} were left out", code=Code.NOT_FOUND)
    shown.default_coverage = any(workspace.project.testing.coverage for workspace, _ in found)
    return shown.report(report)


def _watch(paths: list[str], options: Options, shown: _Shown, code: int) -> int:
    from flowmason.errors import FlowMasonError
    from flowmason.project import project_for
    from flowmason.testing.watching import watch

    roots = {project_for(Path(each).resolve()).root for each in paths or ["."]}

    def again(changed: list[Path]) -> None:
        nonlocal code
        names = ", ".join(path.name for path in changed[:3]) + (" …" if len(changed) > 3 else "")
        console.say(f"\n{console.paint(names, 'bold')} changed")
        try:
            code = _once(paths, options, shown)
        except FlowMasonError as error:
            console.print_error(error)
            code = console.exit_code(error)
        console.say(console.paint("waiting for changes; Ctrl-C ends", "dim"))

    console.say(console.paint("waiting for changes; Ctrl-C ends", "dim"))
    watch(roots, again)
    return code


class _Shown:
    """Prints results as they come, and reports at the end.

    What programs read goes to stdout alone, or to its file; the text for people goes to stdout only where nothing
    else does.
    """

    def __init__(
        self,
        reporter: str,
        out: str | None,
        coverage: str | None,
        coverage_out: str | None,
        fail_under: float | None,
        verbose: bool,
    ) -> None:
        self.default_coverage = False
        self._reporter = reporter
        self._out = out
        self._coverage = coverage
        self._coverage_out = coverage_out
        self._fail_under = fail_under
        self._verbose = verbose
        machine = reporter != "text" and out is None
        machine = machine or (coverage in ("json", "lcov") and coverage_out is None)
        self._to_stderr = machine
        self._lines: list[str] = []

    def say(self, text: str = "") -> None:
        """A line for people."""
        self._lines.append(text)
        if self._to_stderr:
            console.say(text)
        else:
            print(text, flush=True)

    def paint(self, text: str, *styles: str) -> str:
        import sys

        if self._reporter == "text" and self._out is not None:
            return text
        return console.paint(text, *styles, stream=sys.stderr if self._to_stderr else sys.stdout)

    def file(self, file: FileResult) -> None:
        """The results of one file."""
        subject = f"  {self.paint(file.subject, 'dim')}" if file.subject else ""
        if file.cases or file.faults:
            self.say(f"{self.paint(file.file, 'bold')}{subject}")
        if file.faults:
            console.print_faults(file.faults)
            self._lines += [f"  refused: {fault}" for fault in file.faults]
        for case in file.cases:
            self._case(case)
        for note in file.notes:
            self.say(f"  {note}")

    def _case(self, case: CaseResult) -> None:
        from flowmason.testing.reports import failure_lines

        mark, colour = _MARKS[case.status]
        time = f" {case.duration_ms:.0f} ms" if case.status != "skipped" else ""
        tries = f", attempt {case.attempts}" if case.attempts > 1 else ""
        reason = f" ({case.error})" if case.status == "skipped" and case.error else ""
        self.say(f"  {self.paint(mark, colour)} {case.name}{reason}{self.paint(time + tries, 'dim')}")
        if not case.failed:
            return
        for line in failure_lines(case):
            self.say(f"      {line}")
        if case.help:
            self.say(f"      {self.paint('help:', 'cyan')} {case.help}")
        if case.stack and self._verbose:
            self.say("\n".join("      " + line for line in case.stack.rstrip().splitlines()))

    def report(self, report: Report) -> int:
        """The summary and the reports; gives the exit code."""
        from flowmason.testing.reports import junit, report_document

        self._summary(report)
        lacking = self._covered(report)
        if self._reporter == "json":
            _write(self._out, console.to_json(report_document(report, coverage=self._coverage is not None)) + "\n")
        elif self._reporter == "junit":
            _write(self._out, junit(report))
        elif self._out is not None:
            _write(self._out, "".join(line + "\n" for line in self._lines))
        self._lines = []
        if report.refused:
            return console.REFUSED
        return console.FAILED if report.failed or lacking else console.OK

    def _summary(self, report: Report) -> None:
        counts = {name: count for name, count in report.counts().items() if count}
        refused = sum(bool(file.faults) for file in report.files)
        words = [self.paint(f"{count} {name}", _MARKS[name][1]) for name, count in counts.items()]
        words += [self.paint(f"{refused} refused {'file' if refused == 1 else 'files'}", "red")] if refused else []
        words += [f"{report.deselected} left out"] if report.deselected else []
        self.say(f"{', '.join(words) or 'no tests'} in {report.duration_ms / 1000:.2f} s")

    def _covered(self, report: Report) -> bool:
        """Tell of the coverage; says whether it is too little."""
        from flowmason.testing.coverage_reports import coverage_document, coverage_lines, lcov

        coverage = report.coverage
        if self._coverage == "text":
            text = "".join(line + "\n" for line in coverage_lines(coverage))
            if self._coverage_out is not None:
                _write(self._coverage_out, text)
            else:
                self.say(text.rstrip())
        elif self._coverage == "json" and (self._reporter != "json" or self._coverage_out is not None):
            _write(self._coverage_out, console.to_json(coverage_document(coverage)) + "\n")
        elif self._coverage == "lcov":
            _write(self._coverage_out, lcov(coverage))
        elif self.default_coverage and coverage.pipelines:
            reached, stages, taken, branches = coverage.totals()
            self.say(f"coverage: {reached} of {stages} stages, {taken} of {branches} branches")
        lacking = self._fail_under is not None and coverage.percent < self._fail_under
        if lacking:
            self.say(
                self.paint(f"coverage is {coverage.percent:.1f} %, less than {self._fail_under:g} %", "red", "bold")
            )
        return lacking


def _write(file: str | None, text: str) -> None:
    import sys

    if file is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    from flowmason.errors import UsageError

    try:
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror or error}") from None
