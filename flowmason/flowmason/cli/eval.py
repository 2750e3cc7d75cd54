"""`fm eval`."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from flowmason.cli import console

if TYPE_CHECKING:
    from flowmason.evals.graders import Grader
    from flowmason.evals.report import CaseResult, Report, Version
    from flowmason.prompt import Prompt


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be evaluated, as flags and an eval file say."""

    pipeline: str
    dataset: Path
    graders: tuple[Any, ...]
    home: Path | None = None
    """The eval file, whose project it is; None: that of `pipeline`."""
    gate: str | None = None
    models: tuple[str, ...] = ()
    prompts: dict[str, Any] = {}
    baseline: Path | None = None
    width: int = 8
    on: str = "ray"
    address: str | None = None
    allow_open: bool = False
    provider: str | None = None
    progress: bool = True


def eval_(
    pipeline: Annotated[
        str, typer.Argument(metavar="PIPELINE", help="A file or a name, or a *.eval.json that says everything.")
    ],
    dataset: Annotated[
        Path | None, typer.Option("--dataset", "-d", metavar="FILE", help="The cases: JSON Lines.")
    ] = None,
    grade: Annotated[
        list[str] | None,
        typer.Option(
            "--grade",
            "-g",
            metavar="GRADER",
            help="exact[:OF], schema:FILE, expression:EXPR or judge:PROMPT. Repeatable. Default: exact.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="prompt:NAME=FILE", help="Compare with this file as a prompt. Repeatable."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="[PROVIDER:]MODEL", help="Ask this model; given twice, compare them."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="REPORT", help="Compare with a report of before: id or file.")
    ] = None,
    gate: Annotated[
        str | None, typer.Option("--gate", metavar="EXPR", help='Exit code 1 unless it holds: "pass_rate >= 0.9".')
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="How many cases run at once. Default: 8.")] = None,
    on: Annotated[str, typer.Option("--on", envvar="FLOWMASON_ON", metavar="EXECUTOR", help="ray or local.")] = "ray",
    ray: Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help="Join this Ray cluster.")] = None,
    allow_open_ray: Annotated[bool, typer.Option(help="Use a Ray cluster although it asks for no token.")] = False,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Model provider for stages that name none.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Do not show how far it is.")] = False,
) -> None:
    """Run a pipeline over cases, judge what comes out, and compare versions side by side.

    The report is kept in .flowmason/evals/; `fm evals` lists and shows them. Ctrl-C ends it early with a report of what
    is there. Exit codes: 0, 1 where the gate does not hold, 2 refused, 3 ended early.

    Examples:
      fm eval triage --dataset cases.jsonl --grade 'expression:output.score >= 0.8' --gate "pass_rate >= 0.9"
      fm eval triage.eval.json --against prompt:summarise=drafts/summarise.v2.md
      fm eval triage.eval.json --model anthropic:claude-haiku-4-5 --model llamacpp:smollm2
    """
    from flowmason.cli import evals

    base = None if baseline is None else evals.find(baseline)
    wanted = _wanted(pipeline, dataset, grade or [], against or [], gate, concurrency)
    wanted = msgspec.structs.replace(
        wanted,
        models=tuple(model or ()),
        baseline=base,
        on=on,
        address=ray,
        allow_open=allow_open_ray,
        provider=provider,
        progress=not no_progress and not as_json,
    )
    with console.stdout_kept():
        report = console.run_async(evaluate(wanted))
    path = evals.store(report)
    if junit is not None:
        junit.parent.mkdir(parents=True, exist_ok=True)
        junit.write_text(evals.junit(report), encoding="utf-8")
    if as_json:
        console.print_json(report.document())
    else:
        evals.print_report(report)
        console.say(f"report {report.id}: {path}")
    raise typer.Exit(exit_code(report))


def gate_of(file: Path, *, on: str) -> Report:
    """The report of an eval file that has a gate; printed and kept. Raises `UsageError` where it has none."""
    from flowmason.cli import evals
    from flowmason.errors import UsageError

    wanted = _wanted(str(file), None, [], [], None, None)
    if wanted.gate is None:
        raise UsageError(f"{file} has no 'gate'", help='Say what must hold: "gate": "pass_rate >= 0.9".')
    with console.stdout_kept():
        report: Report = console.run_async(evaluate(msgspec.structs.replace(wanted, on=on)))
    evals.store(report)
    return report


def exit_code(report: Report) -> int:
    """What the command ends with."""
    if report.partial:
        return console.CANCELLED
    return console.FAILED if report.gate_passed is False else console.OK


def _wanted(
    pipeline: str, dataset: Path | None, grade: list[str], against: list[str], gate: str | None, width: int | None
) -> Wanted:
    from flowmason.document import read_document
    from flowmason.errors import UsageError
    from flowmason.evals.graders import from_flag
    from flowmason.evals.report import check_gate
    from flowmason.evals.spec import SUFFIX, read_eval_file

    if gate is not None:
        check_gate(gate)
    flags = tuple(from_flag(text, lambda file: read_document(file).value) for text in grade)
    prompts = dict(_replaced(text) for text in against)
    if pipeline.endswith(SUFFIX):
        file = read_eval_file(Path(pipeline))
        beside = file.path.parent / file.pipeline
        return Wanted(
            pipeline=str(beside.resolve()) if beside.is_file() else file.pipeline,
            home=file.path,
            dataset=dataset or file.dataset,
            graders=_distinct((*file.graders, *flags)),
            gate=gate or file.gate,
            prompts=prompts,
            width=width or file.concurrency or 8,
        )
    if dataset is None:
        raise UsageError("no cases are given", help="Name a file by --dataset, or give a *.eval.json.")
    graders = _distinct(flags) or (from_flag("exact", None),)
    return Wanted(pipeline=pipeline, dataset=dataset, graders=graders, gate=gate, prompts=prompts, width=width or 8)


def _distinct(graders: tuple[Grader, ...]) -> tuple[Grader, ...]:
    """Each with a title of its own: the second `exact` is `exact 2`."""
    seen: dict[str, int] = {}
    found = []
    for grader in graders:
        number = seen[grader.title] = seen.get(grader.title, 0) + 1
        found.append(msgspec.structs.replace(grader, name=f"{grader.title} {number}") if number > 1 else grader)
    return tuple(found)


def _replaced(text: str) -> tuple[str, Prompt]:
    from flowmason.document.prompts import load_prompt
    from flowmason.errors import UsageError

    kind, colon, rest = text.partition(":")
    name, equals, file = rest.partition("=")
    if kind != "prompt" or not colon or not name or not equals or not file:
        raise UsageError(f"--against {text}: it is written prompt:NAME=FILE")
    return name, load_prompt(file, name, named=False)


async def evaluate(wanted: Wanted) -> Report:
    """Run what is wanted and give its report. Raises `RefusedError` and `UsageError` before anything is started."""
    from flowmason.assembly.crowd import Crowd
    from flowmason.assembly.evaluating import Evaluation, judge_plan, variants
    from flowmason.assembly.running import opened
    from flowmason.assembly.workspace import Workspace
    from flowmason.cli import evals
    from flowmason.evals.cases import read_cases
    from flowmason.evals.report import Report, holds

    workspace = Workspace.at(wanted.home or wanted.pipeline)
    compiled = workspace.compile(wanted.pipeline)
    cases = read_cases(wanted.dataset)
    found = variants(wanted.models, wanted.prompts)
    plans = [(each.name, each.plan(workspace, compiled.source)) for each in found]
    for grader in wanted.graders:
        if grader.type == "judge":
            judge_plan(workspace, grader)
    versions: list[Version] = []
    if wanted.baseline is not None:
        before = evals.load(wanted.baseline)
        versions += [msgspec.structs.replace(each, name=f"{before.id} {each.name}") for each in before.versions[-1:]]
    stopped = False
    async with (
        opened(
            workspace,
            on=wanted.on,
            address=wanted.address,
            allow_open=wanted.allow_open,
            provider=wanted.provider,
        ) as (stores, executor),
        Crowd(stores, executor, resolve=workspace.resolve) as crowd,
    ):
        with _Progress(len(plans) * len(cases), wanted.progress) as progress:
            running = Evaluation(
                workspace,
                crowd,
                wanted.graders,
                width=wanted.width,
                provider=wanted.provider,
                told=progress.told,
            )
            with _Interrupts(running):
                for name, plan in plans:
                    versions.append(await running.version(name, plan, cases))
                    if running.stopped:
                        break
        stopped = running.stopped
    return Report(
        id=time.strftime("eval_%Y%m%d_%H%M%S_", time.gmtime()) + f"{time.time_ns() // 1000 % 1_000_000:06d}",
        pipeline=f"{compiled.plan.name}@{compiled.plan.version}",
        dataset=str(wanted.dataset),
        at=int(time.time() * 1000),
        graders=tuple(grader.title for grader in wanted.graders),
        versions=tuple(versions),
        partial=stopped,
        gate=wanted.gate,
        gate_passed=None if wanted.gate is None else not stopped and holds(wanted.gate, versions[-1]),
    )


class _Interrupts:
    """The first Ctrl-C ends the evaluation early, the second ends the process."""

    def __init__(self, running: Any) -> None:
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._stopping: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._loop.add_signal_handler(signal.SIGINT, self._interrupted)

    def __exit__(self, *exc: object) -> None:
        self._loop.remove_signal_handler(signal.SIGINT)

    def _interrupted(self) -> None:
        if self._stopping is not None:
            console.end_now(console.INTERRUPTED)
        console.say("\nending early; once more leaves no report")
        self._stopping = self._loop.create_task(self._running.stop())


class _Progress:
    """A bar on a terminal; elsewhere a line for every tenth part."""

    def __init__(self, total: int, wanted: bool) -> None:
        self._total, self._wanted = total, wanted
        self._done = self._failed = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        import sys

        if self._wanted and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("cases", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def told(self, version: str, case: CaseResult) -> None:
        """One more case is judged."""
        self._done += 1
        self._failed += not case.passed
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=f"{version}: {self._failed} failed")
        elif self._wanted and (self._done * 10 // self._total) > ((self._done - 1) * 10 // self._total):
            console.say(f"{self._done} of {self._total} cases, {self._failed} failed")
