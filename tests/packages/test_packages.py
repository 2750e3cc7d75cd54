"""`.fmpkg`: packing a project, checking a package, installing it, and running its components from there."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import Code, FlowMasonError, RefusedError, StageError, UsageError
from flowmason.package import inspect, install, installed, pack, uninstall
from flowmason.registry import find_components, load_component

pytestmark = pytest.mark.wheel

SHOUT = """
from flowmason import OperatorInput, OperatorOutput, operator
from components._words import louder

@operator(name="shout", description="Says it louder.", category="text")
class Shout:
    class Input(OperatorInput):
        text: str

    class Output(OperatorOutput):
        text: str

    async def execute(self, input, context):
        return self.Output(text=louder(input.text))
"""
PIPELINE = {"name": "main", "stages": [{"id": "say", "component": "shout", "config": {"text": "{{input.text}}"}}]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("FLOWMASON_HOME", str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Path:
    root = tmp_path / "loudness"
    files = {
        "flowmason.json": json.dumps({"name": "loudness", "version": "1.2.0", "main": "pipelines/main.pipeline.json"}),
        "pipelines/main.pipeline.json": json.dumps(PIPELINE),
        "components/shout.py": SHOUT,
        "components/_words.py": "from shared.upper import upper\n\ndef louder(text):\n    return upper(text) + '!'\n",
        "shared/upper.py": "def upper(text):\n    return text.upper()\n",
        "prompts/greeting.md": "Hello\n",
        "config/settings.json": "{}\n",
        "config/.env": "KEY=secret\n",
        ".flowmason/flowmason.db": "",
        "README.md": "# Loudness\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_package_holds_what_the_project_needs_and_no_more(project: Path) -> None:
    path = pack(project)
    assert path == project / "packages/loudness-1.2.0.fmpkg"
    manifest = inspect(path)
    assert set(manifest.files) == {
        "README.md",
        "components/_words.py",
        "components/shout.py",
        "config/settings.json",
        "flowmason.json",
        "pipelines/main.pipeline.json",
        "prompts/greeting.md",
        "shared/upper.py",
    }
    assert (manifest.name, manifest.version, manifest.entry) == ("loudness", "1.2.0", "pipelines/main.pipeline.json")
    assert manifest.components == ("components/shout.py",)
    assert [spec["name"] for spec in manifest.specs] == ["shout"]
    with zipfile.ZipFile(path) as archive:
        assert archive.read("manifest.json") == archive.read("flowmason-package.json")


def test_the_same_project_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    first = pack(project, tmp_path / "a.fmpkg").read_bytes()
    copy = tmp_path / "elsewhere"
    shutil.copytree(project, copy)
    for path in copy.rglob("*"):
        path.touch()
    code = f"from pathlib import Path; from flowmason.package import pack; pack(Path({str(copy)!r}), Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", "import sys; " + code, str(tmp_path / "b.fmpkg")],
        check=True,
        env={"PYTHONHASHSEED": "7", "FLOWMASON_HOME": str(tmp_path), "PATH": ""},
    )
    assert (tmp_path / "b.fmpkg").read_bytes() == first


async def test_an_installed_component_runs_in_a_clean_place(project: Path, tmp_path: Path, home: Path) -> None:
    package = pack(project, tmp_path / "loudness.fmpkg")
    own = find_components(project)["shout"]
    shutil.rmtree(project)
    item = install(package)
    assert item.folder == home / "packages/loudness/1.2.0"
    spec = find_components(packages_dirs=[home / "packages"])["shout"]
    assert spec.package == "loudness@1.2.0"
    assert spec.digest != own.digest
    loaded = load_component(spec)
    result = await loaded.make().execute(loaded.validate({"text": "hi"}), None)
    assert loaded.dump(result) == {"text": "HI!"}


def test_a_file_changed_after_installing_is_noticed(project: Path, tmp_path: Path, home: Path) -> None:
    item = install(pack(project))
    spec = find_components(packages_dirs=[home / "packages"])["shout"]
    (item.folder / "shared/upper.py").write_text("def upper(text):\n    return 'evil'\n")
    with pytest.raises(StageError, match="not the file that was packed") as caught:
        load_component(spec)
    assert caught.value.failure.code == Code.COMPONENT_CHANGED


def test_a_file_added_after_installing_is_not_imported(project: Path, home: Path) -> None:
    item = install(pack(project))
    spec = find_components(packages_dirs=[home / "packages"])["shout"]
    (item.folder / "shared/__init__.py").write_text("raise SystemExit('evil')\n")
    with pytest.raises(StageError, match="was not packed into loudness") as caught:
        load_component(spec)
    assert caught.value.failure.code == Code.COMPONENT_CHANGED


def test_installing_again_does_nothing_and_other_content_wants_a_word(project: Path, home: Path) -> None:
    install(pack(project))
    install(pack(project))
    (project / "prompts/greeting.md").write_text("Good day\n")
    changed = pack(project)
    with pytest.raises(UsageError, match="already installed with another content"):
        install(changed)
    item = install(changed, replace=True)
    assert (item.folder / "prompts/greeting.md").read_text() == "Good day\n"
    assert [path.name for path in (home / "packages").iterdir()] == ["loudness"]


def test_versions_live_side_by_side_and_the_newest_answers(project: Path, home: Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        install(pack(project, version=version))
    assert [item.version for item in installed()] == ["1.10.0", "1.9.0"]
    assert find_components(packages_dirs=[home / "packages"])["shout"].package == "loudness@1.10.0"
    assert [item.version for item in uninstall("loudness@1.10.0")] == ["1.10.0"]
    assert find_components(packages_dirs=[home / "packages"])["shout"].package == "loudness@1.9.0"
    uninstall("loudness")
    assert installed() == []
    assert list((home / "packages").iterdir()) == []


def test_uninstalling_what_is_not_there_names_the_nearest(project: Path) -> None:
    install(pack(project))
    with pytest.raises(UsageError, match="did you mean 'loudness'"):
        uninstall("loudnes")
    with pytest.raises(UsageError, match=r"no package 'loudness@9\.9\.9'"):
        uninstall("loudness@9.9.9")


def test_the_projects_own_component_hides_the_installed_one(project: Path, home: Path) -> None:
    install(pack(project))
    registry = find_components(project, packages_dirs=[home / "packages"])
    assert registry["shout"].package is None


def test_an_unreadable_installed_package_is_a_fault_beside_the_others(project: Path, home: Path) -> None:
    install(pack(project))
    broken = home / "packages/broken/1.0.0"
    broken.mkdir(parents=True)
    (broken / "flowmason-package.json").write_text("{")
    registry = find_components(packages_dirs=[home / "packages"])
    assert "shout" in registry
    assert [fault.file for fault in registry.faults if "packages" in (fault.file or "")] == [
        str(broken / "flowmason-package.json")
    ]
    assert {item.name: item.manifest is None for item in installed()} == {"broken": True, "loudness": False}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: (root / "components/shout.py").write_text("import no_such_module_here\n"), "no_such_module_here"),
        (lambda root: (root / "prompts/link.md").symlink_to("greeting.md"), "it is a link"),
        (lambda root: (root / "flowmason.json").write_text('{"name": "My Project"}'), "lower-case"),
        (lambda root: (root / "flowmason.json").write_text('{"name": "x", "version": "../1"}'), "1.2.3"),
        (
            lambda root: (root / "flowmason.json").write_text('{"name": "x", "main": "pipelines/man.pipeline.json"}'),
            "man",
        ),
    ],
)
def test_a_project_that_cannot_be_packed_says_why(project: Path, change: Callable[[Path], Any], reason: str) -> None:
    change(project)
    with pytest.raises(RefusedError, match=reason):
        pack(project)
    assert not (project / "packages").exists()


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        contents = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(contents)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def in_manifest(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(contents: dict[str, bytes]) -> None:
        text = json.dumps({**json.loads(contents["manifest.json"]), **changes}).encode()
        contents.update({"manifest.json": text, "flowmason-package.json": text})

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update({"../evil.py": b""}), "leaves the package"),
        (lambda c: c.update({"/etc/evil": b""}), "leaves the package"),
        (lambda c: c.update({"a\\..\\..\\evil": b""}), "leaves the package"),
        (lambda c: c.update({"C:evil": b""}), "leaves the package"),
        (lambda c: c.update({"README.MD": b""}), "there twice"),
        (lambda c: c.update({"readme.md/x": b""}), "there twice"),
        (lambda c: c.update({"unlisted.py": b""}), "not in the manifest"),
        (lambda c: c.update({"shared/upper.py": b"evil"}), "not what the manifest says"),
        (lambda c: c.pop("shared/upper.py"), "is missing"),
        (lambda c: c.pop("manifest.json"), "has no manifest.json"),
        (lambda c: c.update({"manifest.json": b"{}"}), "differ"),
        (in_manifest(name="../up"), "lower-case"),
        (in_manifest(version=".."), "1.2.3"),
        (in_manifest(format=2), "format 2"),
        (in_manifest(digest="sha256:0"), "digest does not fit"),
        (in_manifest(specs=[{"name": "x"}]), "not a component description"),
        (
            in_manifest(specs=[{"name": "x", "kind": "node", "target": "os:system", "digest": "sha256:0"}]),
            "lies in no file",
        ),
        (in_manifest(pipelines=["none.pipeline.json"]), "not among the files"),
    ],
)
def test_a_tampered_package_is_refused(
    project: Path, home: Path, change: Callable[[dict[str, bytes]], None], reason: str
) -> None:
    path = pack(project)
    rewrite(path, change)
    with pytest.raises(RefusedError) as caught:
        install(path)
    assert any(reason in fault.reason for fault in caught.value.faults)
    assert not (home / "packages").exists()


def test_links_duplicates_bombs_and_garbage_are_refused(project: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.fmpkg"
    with zipfile.ZipFile(link, "w") as archive:
        entry = zipfile.ZipInfo("a")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    twice = tmp_path / "twice.fmpkg"
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a", "1")
        archive.writestr("a", "2")
    bomb = tmp_path / "bomb.fmpkg"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(17 * 1024 * 1024))
    garbage = tmp_path / "garbage.fmpkg"
    garbage.write_bytes(b"PK\x03\x04 not really")
    cut = tmp_path / "cut.fmpkg"
    cut.write_bytes(pack(project).read_bytes()[:-200])
    for path, reason in [
        (link, "no plain file"),
        (twice, "there twice"),
        (bomb, "larger than 16 MiB"),
        (garbage, "not a package"),
        (cut, "not a package"),
        (tmp_path / "none.fmpkg", "No such file"),
    ]:
        with pytest.raises(FlowMasonError, match=reason):
            inspect(path)
