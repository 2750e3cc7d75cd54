"""Snapshots: kept with `-u`, compared without, tidied when nobody asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fm_project import Fm, Project

TestsOf = Callable[..., Path]
KEPT = "tests/__snapshots__/triage.test.snap.json"


def case(name: str, text: str = "on fire", /, **keys: Any) -> dict[str, Any]:
    return {"name": name, "input": {"text": text}, "snapshot": True, **keys}


def kept(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.root / KEPT).read_text())["snapshots"]
    return found


def test_a_snapshot_that_is_not_there_fails_until_it_is_kept(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of(case("a"), case("b", snapshot="named"))
    first = fm("test")
    assert first.code == 1
    assert "there is no snapshot 'a' yet; `fm test -u` keeps one" in first.out
    assert not (project.root / KEPT).exists()
    update = fm("test", "-u")
    assert update.code == 0
    assert f"{KEPT} was written" in update.out
    assert sorted(kept(project)) == ["a", "named"]
    assert kept(project)["a"]["result"] == {"topic": "hardware", "words": ["on", "fire"]}
    again = fm("test", "-u")
    assert "was written" not in again.out
    assert fm("test").code == 0


def test_a_changed_output_is_told_by_its_first_difference(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of(case("a"))
    fm("test", "-u")
    tests_of(case("a", "on water"))
    answer = fm("test")
    assert answer.code == 1
    assert 'output.result.words[1] is "water", it was "fire"' in answer.out
    assert fm("test", "--update-snapshots").code == 0
    assert kept(project)["a"]["result"]["words"] == ["on", "water"]


def test_an_expected_error_is_kept_as_what_it_is(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of(case("a", mocks={"answer": {"error": {"code": "BROKE"}}}, expect_error=True))
    assert fm("test", "-u").code == 0
    assert kept(project)["a"] == {"$error": {"code": "BROKE", "type": "StageError", "stage": "answer"}}


def test_a_failed_run_keeps_nothing(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of(case("a", mocks={"answer": {"error": {"code": "BROKE"}}}))
    assert fm("test", "-u").code == 1
    assert not (project.root / KEPT).exists()


def test_obsolete_snapshots_go_unless_tests_are_chosen(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of(case("a"), case("b"), case("c"))
    fm("test", "-u")
    tests_of(case("a"), case("b"))
    assert "obsolete snapshots: c; `fm test -u` removes them" in fm("test").out
    fm("test", "-u", "--filter", "a")
    assert sorted(kept(project)) == ["a", "b", "c"]
    tests_of(case("a"), case("b", skip=True))
    update = fm("test", "-u")
    assert "obsolete snapshots: c; removed" in update.out
    assert sorted(kept(project)) == ["a", "b"]
    tests_of(case("a", snapshot=False))
    assert f"{KEPT} was removed" in fm("test", "-u").out
    assert not (project.root / KEPT).exists()
    assert "obsolete" not in fm("test").out


def test_the_snapshot_of_a_test_that_fails_is_not_obsolete(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of(case("a"), case("b"))
    fm("test", "-u")
    tests_of(case("a"), case("b", mocks={"answer": {"error": {"code": "BROKE"}}}))
    assert "obsolete" not in fm("test").out
    assert fm("test", "-u").code == 1
    assert sorted(kept(project)) == ["a", "b"]


def test_snapshots_of_a_file_of_tests_that_is_gone_are_told_and_removed(
    fm: Fm, tests_of: TestsOf, project: Project
) -> None:
    tests_of(case("a"))
    fm("test", "-u")
    project.write("tests/__snapshots__/gone.test.snap.json", {"format": 1, "snapshots": {"x": 1}})
    gone = project.root / "tests/__snapshots__/gone.test.snap.json"
    answer = fm("test")
    assert answer.code == 0
    assert "gone.test.snap.json is of a file of tests that is gone; `fm test -u` removes it" in answer.out
    assert gone.exists()
    fm("test", "-u", "--filter", "a")
    assert gone.exists()
    assert "is gone; removed" in fm("test", "-u").out
    assert not gone.exists() and (project.root / KEPT).exists()


def test_a_file_that_holds_no_snapshots_is_refused(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of(case("a"))
    for content, reason in (([], "no file of snapshots"), ({"format": 9, "snapshots": {}}, "format 9")):
        project.write(KEPT, content)
        answer = fm("test")
        assert answer.code == 2
        assert reason in answer.err


def test_two_tests_do_not_share_a_snapshot(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(case("a"), case("b", snapshot="a"))
    answer = fm("test")
    assert answer.code == 2
    assert "the snapshot 'a' is that of the test 'a'" in answer.err
