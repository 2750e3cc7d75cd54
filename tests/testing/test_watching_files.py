"""`fm test --watch`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmason.errors import EngineUnavailableError
from flowmason.testing.watching import concerns, watch
from fm_project import Project


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("pipelines/a.pipeline.json", True),
        ("pipelines/a.pipeline.yaml", True),
        ("components/x.py", True),
        ("tests/a.test.json", True),
        ("tests/__snapshots__/a.test.snap.json", False),
        (".flowmason/flowmason.db", False),
        (".flowmason/cache/specs/x.json", False),
        ("components/__pycache__/x.py", False),
        ("notes.pdf", False),
        ("../elsewhere.json", False),
    ],
)
def test_only_files_that_tests_may_depend_on_concern_us(path: str, expected: bool) -> None:
    root = Path("/project")
    assert concerns(Path("/elsewhere.json") if path.startswith("..") else root / path, root) is expected


def test_a_change_is_told_until_it_is_stopped(tmp_path: Path) -> None:
    stop, told = threading.Event(), []

    def again(changed: list[Path]) -> None:
        told.append([path.name for path in changed])
        stop.set()

    def change() -> None:
        while not stop.wait(0.1):  # the watcher may not have begun yet
            (tmp_path / "ignored.db").write_text("x")
            (tmp_path / "a.json").write_text("{}")

    writer = threading.Thread(target=change)
    writer.start()
    watch([tmp_path], again, stop=stop, debounce_ms=50)
    writer.join()
    assert told == [["a.json"]]


def test_without_the_extra_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(EngineUnavailableError) as caught:
        watch([tmp_path], lambda changed: None)
    assert "flowmason[watch]" in str(caught.value.failure.help)


def test_fm_test_runs_again_and_ctrl_c_ends_it(project: Project, tests_of: Callable[..., Path]) -> None:
    tests_of()
    process = project.start("test", "--watch")
    assert process.stderr is not None
    assert process.stdout is not None
    try:
        assert "waiting for changes" in process.stderr.readline()
        wrong = {"name": "wrong", "input": {"text": "x"}, "assertions": [{"path": "result.topic", "equals": "x"}]}
        seen = threading.Event()

        def change() -> None:
            while not seen.wait(0.5):  # again and again: it may not have looked yet when it said that it waits
                tests_of(wrong)

        changing = threading.Thread(target=change)
        changing.start()
        for line in process.stdout:
            if "1 failed" in line:
                break
        seen.set()
        changing.join()
        while "waiting for changes" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.communicate()
