"""How tests went, as data."""

from __future__ import annotations

from typing import Any

import msgspec

from flowmason.errors import Fault
from flowmason.testing.assertions import AssertionResult
from flowmason.testing.coverage import Coverage

PASSED, BROKEN, SKIPPED, ERROR = "passed", "failed", "skipped", "error"


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one test went."""

    name: str
    status: str
    """passed, failed, skipped, or error where it could not be run."""
    duration_ms: float = 0.0
    error: str | None = None
    """Why it failed, where it was not an assertion; why it was skipped."""
    code: str | None = None
    """Code of the failure that the run ended with."""
    stage: str | None = None
    """The stage that failed."""
    help: str | None = None
    stack: str | None = None
    """The Python traceback of a component."""
    assertions: tuple[AssertionResult, ...] = ()
    output: Any = None
    attempts: int = 1
    tags: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it makes the whole run fail."""
        return self.status in (BROKEN, ERROR)


class FileResult(msgspec.Struct, frozen=True, kw_only=True):
    """How the tests of one file went."""

    file: str
    name: str = ""
    subject: str = ""
    """`name@version` of the pipeline, or the component's name."""
    cases: tuple[CaseResult, ...] = ()
    faults: tuple[Fault, ...] = ()
    """Why the file, or its pipeline, was refused; none of its tests ran then."""
    duration_ms: float = 0.0
    notes: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a whole test run went."""

    files: tuple[FileResult, ...]
    coverage: Coverage
    duration_ms: float
    deselected: int = 0
    """Tests that the filter or the tags left out."""

    def counts(self) -> dict[str, int]:
        """Tests by status."""
        found = dict.fromkeys((PASSED, BROKEN, SKIPPED, ERROR), 0)
        for case in (case for file in self.files for case in file.cases):
            found[case.status] += 1
        return found

    @property
    def refused(self) -> tuple[Fault, ...]:
        """Everything that is wrong with files."""
        return tuple(fault for file in self.files for fault in file.faults)

    @property
    def failed(self) -> bool:
        """Whether a test failed."""
        return any(case.failed for file in self.files for case in file.cases)
