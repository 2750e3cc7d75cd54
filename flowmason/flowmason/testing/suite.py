"""Running files of tests: which tests run, how each is judged, and what the whole came to."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from flowmason.assembly.workspace import Workspace, shown
from flowmason.document import located
from flowmason.errors import FlowMasonError, RefusedError
from flowmason.testing.assertions import AssertionResult, judge
from flowmason.testing.bench import Bench, Outcome, refused
from flowmason.testing.coverage import Coverage, PipelineCoverage, Seen, cover
from flowmason.testing.files import Script, TestCase, TestFile
from flowmason.testing.offline import scripted
from flowmason.testing.reading import read_test_file
from flowmason.testing.results import BROKEN, ERROR, PASSED, SKIPPED, CaseResult, FileResult, Report
from flowmason.testing.snapshots import Snapshots, orphans
from flowmason.testing.subjects import Subject, declared, project_sources, source_of, subject_of


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, and how."""

    filters: tuple[str, ...] = ()
    """Parts of names (`file name › test name`, any case); a test runs if one of them fits."""
    tags: tuple[str, ...] = ()
    """A test runs if it, or its file, has one of them."""
    update: bool = False
    """Keep new snapshots."""
    whole: bool = False
    """Coverage also tells of pipelines that have no tests."""

    @property
    def selective(self) -> bool:
        """Whether tests may be left out."""
        return bool(self.filters or self.tags)


Told = Callable[[FileResult], None]
"""Told of each file as soon as its tests are over."""


class Suite:
    """Runs the tests of some files. `left_behind` names threads of components that did not stop."""

    def __init__(self, options: Options, told: Told | None = None) -> None:
        self.left_behind: list[str] = []
        self._options = options
        self._told = told
        self._deselected = 0

    async def run(self, found: Sequence[tuple[Workspace, Sequence[Path]]]) -> Report:
        """Run them all. Whatever goes wrong is in the report."""
        begun = time.perf_counter()
        files: list[FileResult] = []
        pipelines: list[PipelineCoverage] = []
        for workspace, paths in found:
            with Bench(workspace) as bench:
                project = _Project(workspace, bench, self._options)
                for path in paths:
                    files.append(await project.file(path))
                    if self._told is not None:
                        self._told(files[-1])
                pipelines += project.coverage()
                self._deselected += project.deselected
                self.left_behind += bench.left_behind
        return Report(
            files=tuple(files),
            coverage=Coverage(tuple(pipelines)),
            duration_ms=_since(begun),
            deselected=self._deselected,
        )


class _Project:
    """The tests of one project."""

    def __init__(self, workspace: Workspace, bench: Bench, options: Options) -> None:
        self.deselected = 0
        self._workspace = workspace
        self._bench = bench
        self._options = options
        self._testing = workspace.project.testing
        self._seen = Seen()
        self._subjects: dict[Path, Subject] = {}
        self._folders: set[Path] = set()
        """Folders whose snapshots have been looked through."""

    async def file(self, path: Path) -> FileResult:
        begun = time.perf_counter()
        try:
            file, document = read_test_file(path, shown=shown(path))
            declared = (case.snapshot for case in file.cases if case.snapshot is not None)
            snapshots = Snapshots(path, declared, update=self._options.update)
        except FlowMasonError as error:
            return _refused(shown(path), path.name, error, None)
        try:
            subject = subject_of(self._workspace, file)
        except FlowMasonError as error:
            return _refused(shown(path), file.name, error, document)
        if subject.source is not None:
            self._subjects[subject.source.path] = subject
        run = _FileRun(self, file, subject, snapshots)
        cases = await run.cases()
        notes = self._tidied(path, snapshots)
        return FileResult(
            file=shown(path),
            name=file.name,
            subject=subject.name,
            cases=cases,
            duration_ms=_since(begun),
            notes=tuple(notes),
        )

    def _tidied(self, path: Path, snapshots: Snapshots) -> list[str]:
        """Write the snapshots of a file; what there is to say of it, and of those that belong to no test any more."""
        update, tidy = self._options.update, not self._options.selective
        obsolete = ", ".join(snapshots.obsolete) if tidy else ""
        notes = []
        if snapshots.save(tidy=tidy):
            notes.append(f"{shown(snapshots.path)} was {'written' if snapshots.path.exists() else 'removed'}")
        if obsolete:
            removes = "removed" if update else "`fm test -u` removes them"
            notes.append(f"obsolete snapshots: {obsolete}; {removes}")
        if tidy and path.parent not in self._folders:
            self._folders.add(path.parent)
            for orphan in orphans(path.parent):
                if update:
                    orphan.unlink(missing_ok=True)
                removes = "removed" if update else "`fm test -u` removes it"
                notes.append(f"obsolete snapshots: {shown(orphan)} is of a file of tests that is gone; {removes}")
        return notes

    def coverage(self) -> list[PipelineCoverage]:
        """Of the pipelines under test, those that they ran, and with `whole` of all others."""
        workspace = self._workspace
        sources = {path: subject.source for path, subject in self._subjects.items() if subject.source is not None}
        for name, version in dict.fromkeys(key[:2] for key in self._seen.status):
            source = source_of(workspace, name, version)
            if source is not None:
                sources.setdefault(source.path, source)
        if self._options.whole:
            for source in project_sources(workspace):
                sources.setdefault(source.path, source)
        return [
            cover(
                source.pipeline.name,
                source.pipeline.version,
                shown(source.path),
                declared(workspace, source),
                self._seen,
            )
            for _, source in sorted(sources.items())
        ]

    def selects(self, file: TestFile, case: TestCase) -> bool:
        """Whether the filter and the tags let a test run."""
        name = f"{file.name} › {case.name}".casefold()
        options = self._options
        if options.filters and not any(each.casefold() in name for each in options.filters):
            return False
        return not options.tags or not {*options.tags}.isdisjoint((*file.tags, *case.tags))

    async def attempt(self, file: TestFile, subject: Subject, case: TestCase) -> Outcome:
        """Run one test once."""
        given = {**file.setup.input, **case.input}
        try:
            plan, input_ = subject.plan(given)
        except RefusedError as error:
            return Outcome("failed", None, refused(error), 0.0)
        script: Script | None = case.llm or file.llm
        outcome = await self._bench.run(
            plan,
            input_,
            mocks=subject.mocks(case),
            model=scripted(script) if script is not None else None,
            setup=file.setup,
            timeout_ms=case.timeout_ms or file.timeout_ms or self._testing.timeout,
        )
        if outcome.seen is not None and subject.source is not None:
            self._seen.add(outcome.seen)
        return outcome

    @property
    def retries(self) -> int:
        """How often a failed test runs again."""
        return self._testing.retries

    @property
    def width(self) -> int:
        """How many tests run at once."""
        return max(2, os.cpu_count() or 2) if self._testing.parallel else 1


class _FileRun:
    """The tests of one file."""

    def __init__(self, project: _Project, file: TestFile, subject: Subject, snapshots: Snapshots) -> None:
        self._project = project
        self._file = file
        self._subject = subject
        self._snapshots = snapshots

    async def cases(self) -> tuple[CaseResult, ...]:
        """Run those that are selected, in the order of the file."""
        selected = [case for case in self._file.cases if self._project.selects(self._file, case)]
        self._project.deselected += len(self._file.cases) - len(selected)
        alone = any(case.only for case in self._file.cases)
        room = asyncio.Semaphore(self._project.width)

        async def one(case: TestCase) -> CaseResult:
            tags = (*self._file.tags, *case.tags)
            if case.skip or (alone and not case.only):
                reason = case.skip if isinstance(case.skip, str) else None
                return CaseResult(name=case.name, status=SKIPPED, error=reason, tags=tags)
            async with room:
                return await self._case(case, tags)

        return tuple(await asyncio.gather(*(one(case) for case in selected)))

    async def _case(self, case: TestCase, tags: tuple[str, ...]) -> CaseResult:
        for number in range(1, 2 + self._project.retries):
            try:
                found = self._judged(case, await self._project.attempt(self._file, self._subject, case))
            except FlowMasonError as error:
                return CaseResult(
                    name=case.name, status=ERROR, error=str(error), code=error.failure.code, attempts=number, tags=tags
                )
            found = msgspec.structs.replace(found, attempts=number, tags=tags)
            if not found.failed or found.code == "TIMEOUT":
                return found
        return found

    def _judged(self, case: TestCase, outcome: Outcome) -> CaseResult:
        """Hold an outcome against what the test says."""
        error, failure = _unexpected(case, outcome), outcome.error
        document = outcome.document()
        results: list[AssertionResult] = [judge(assertion, document) for assertion in case.assertions if error is None]
        if case.snapshot is not None and error is None:
            results.append(self._snapshots.check(case.snapshot, _kept(outcome)))
        passed = error is None and all(result.passed for result in results)
        told = failure if error is not None else None
        return CaseResult(
            name=case.name,
            status=PASSED if passed else BROKEN,
            duration_ms=round(outcome.duration_ms, 3),
            error=error,
            code=failure.code if failure is not None else None,
            stage=told.stage if told is not None else None,
            help=_help(told) if told is not None else None,
            stack=told.trace if told is not None else None,
            assertions=tuple(results),
            output=outcome.output,
        )


def _unexpected(case: TestCase, outcome: Outcome) -> str | None:
    """What is wrong with the way in which the run ended; None: nothing."""
    failure = outcome.error
    if failure is None:
        return "an error was expected, but the run completed" if case.expect_error else None
    told = f"[{failure.code}] {failure.message}"
    if not case.expect_error:
        return told
    if isinstance(case.expect_error, str):
        texts = (failure.code, failure.type, failure.message)
        if not any(case.expect_error in text for text in texts):
            return f"an error with {case.expect_error!r} was expected, not {failure.type} {told}"
    return None


def _help(failure: Any) -> str | None:
    if failure.code == "EGRESS_DENIED":
        return "Tests make no network calls: mock the stage."
    return str(failure.help) if failure.help else None


def _kept(outcome: Outcome) -> Any:
    """What a snapshot keeps: the output, or which error there was."""
    if outcome.error is None:
        return outcome.output
    return {"$error": {"code": str(outcome.error.code), "type": outcome.error.type, "stage": outcome.error.stage}}


def _refused(file: str, name: str, error: FlowMasonError, document: Any) -> FileResult:
    from flowmason.errors import Fault

    faults = error.faults if isinstance(error, RefusedError) else (Fault(str(error), "$", code=error.failure.code),)
    if document is not None:
        faults = tuple(located(fault, document) if fault.file is None else fault for fault in faults)
    placed = tuple(fault if fault.file else msgspec.structs.replace(fault, file=file) for fault in faults)
    return FileResult(file=file, name=name, faults=placed)


def _since(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 3)
