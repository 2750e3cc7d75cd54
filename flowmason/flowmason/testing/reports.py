"""Reports of tests for programs: JSON and JUnit XML."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import msgspec

from flowmason.testing.coverage_reports import coverage_document
from flowmason.testing.results import ERROR, SKIPPED, CaseResult, FileResult, Report

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def report_document(report: Report, *, coverage: bool) -> dict[str, Any]:
    """The whole report as plain JSON data."""
    found: dict[str, Any] = {
        "ok": not report.failed and not report.refused,
        "summary": _summary(report),
        "files": [_file(file) for file in report.files],
    }
    if coverage:
        found["coverage"] = coverage_document(report.coverage)
    return found


def _summary(report: Report) -> dict[str, Any]:
    counts = report.counts()
    return {
        **counts,
        "total": sum(counts.values()),
        "refused_files": sum(bool(file.faults) for file in report.files),
        "deselected": report.deselected,
        "duration": report.duration_ms,
    }


def _file(file: FileResult) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for case in file.cases:
        counts[case.status] = counts.get(case.status, 0) + 1
    return {
        "file": file.file,
        "name": file.name,
        "subject": file.subject or None,
        "duration": file.duration_ms,
        "summary": counts,
        "faults": msgspec.to_builtins(file.faults),
        "notes": list(file.notes),
        "tests": [_case(case) for case in file.cases],
    }


def _case(case: CaseResult) -> dict[str, Any]:
    return {
        "name": case.name,
        "status": case.status,
        "duration": case.duration_ms,
        "attempts": case.attempts,
        "tags": list(case.tags),
        "error": case.error,
        "code": case.code,
        "stage": case.stage,
        "stack": case.stack,
        "assertions": [msgspec.to_builtins(each) for each in case.assertions],
        "output": case.output,
    }


def junit(report: Report) -> str:
    """The report as JUnit XML: a suite for each file, refused files as a test that could not be run."""
    counts = report.counts()
    root = ElementTree.Element(
        "testsuites",
        name="fm test",
        tests=str(sum(counts.values()) + sum(bool(file.faults) for file in report.files)),
        failures=str(counts["failed"]),
        errors=str(counts["error"] + sum(bool(file.faults) for file in report.files)),
        skipped=str(counts["skipped"]),
        time=_seconds(report.duration_ms),
    )
    for file in report.files:
        _suite(root, file)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(root: ElementTree.Element, file: FileResult) -> None:
    of = [case.status for case in file.cases]
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=_clean(file.name or file.file),
        file=_clean(file.file),
        tests=str(len(of) + bool(file.faults)),
        failures=str(of.count("failed")),
        errors=str(of.count("error") + bool(file.faults)),
        skipped=str(of.count("skipped")),
        time=_seconds(file.duration_ms),
    )
    if file.faults:
        whole = ElementTree.SubElement(suite, "testcase", name="(file)", classname=_clean(file.name), time="0.000")
        error = ElementTree.SubElement(whole, "error", type="refused", message=_clean(str(file.faults[0])))
        error.text = _clean("\n".join(str(fault) for fault in file.faults))
    for case in file.cases:
        _testcase(suite, file, case)


def _testcase(suite: ElementTree.Element, file: FileResult, case: CaseResult) -> None:
    element = ElementTree.SubElement(
        suite,
        "testcase",
        name=_clean(case.name),
        classname=_clean(file.name or file.file),
        time=_seconds(case.duration_ms),
    )
    if case.status == SKIPPED:
        ElementTree.SubElement(element, "skipped", message=_clean(case.error or ""))
    elif case.failed:
        lines = failure_lines(case)
        kind = "error" if case.status == ERROR else "failure"
        told = ElementTree.SubElement(element, kind, type=case.code or "assertion", message=_clean(lines[0]))
        told.text = _clean("\n".join([*lines, *([case.stack] if case.stack else [])]))


def failure_lines(case: CaseResult) -> list[str]:
    """Why a test failed, in one line for each reason."""
    where = f"{case.stage}: " if case.stage else ""
    lines = [f"{where}{case.error}"] if case.error else []
    return lines + [each.message for each in case.assertions if not each.passed]


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.3f}"


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return _NO_XML.sub("\ufffd", text)
