"""A project's code as an archive, and what a worker makes of it that does not have the project."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from flowmason.errors import StageError
from flowmason.executor import WorkerSettings
from flowmason.ids import LOCAL_ORG, Digest, sha256
from flowmason.plan import ComponentRef
from flowmason.region import Worker
from flowmason.registry import find_components
from flowmason.registry.shipping import archive_code, unpack_code
from flowmason.values_fs import open_values

Make = Callable[..., Path]
Component = Callable[..., str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def archive(root: Path) -> bytes:
    found = archive_code(root)
    assert found is not None
    return found


def test_it_holds_what_components_need_and_nothing_else(project: Make, component: Component, tmp_path: Path) -> None:
    shout = component("shout", imports="from lib.helper import loud", body="loud(input.text)")
    helper = "def loud(text): return text.upper()\n"
    root = project(components__shout=shout, lib__helper=helper, other__unused="x = 1\n")
    (root / "components" / "words.txt").write_text("beside it")
    (root / "components" / ".env").write_text("KEY=1")
    (root / "secrets.json").write_text("{}")
    data = archive(root)
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert packed.namelist() == ["components/shout.py", "components/words.txt", "lib/helper.py"]
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    assert archive(copy) == data
    assert archive_code(tmp_path / "nothing") is None


def test_a_worker_without_the_project_runs_its_code_from_the_archive(
    project: Make, component: Component, tmp_path: Path
) -> None:
    root = project(components__shout=component("shout"))
    spec = find_components(root)["shout"]
    ref = ComponentRef(name=spec.name, version=spec.version, target=spec.target, digest=str(spec.digest))
    data = archive(root)
    url = str(tmp_path / "values")
    open_values(url).put(LOCAL_ORG, sha256(data), data)
    settings = WorkerSettings(values_url=url, project_root=str(tmp_path / "elsewhere"))
    with pytest.raises(StageError, match="cannot be loaded"):
        Worker(settings).component(ref)
    sent = msgspec.structs.replace(settings, project_archive=sha256(data))
    assert Worker(sent).component(ref).spec == spec
    lost = msgspec.structs.replace(settings, project_archive=sha256(b"never stored"))
    with pytest.raises(StageError, match="its code cannot be fetched"):
        Worker(lost).component(ref)
    # A machine that has another state of the project runs the one that the run was compiled with.
    (root / "components" / "shout.py").write_text(component("shout", body="'edited'"))
    older = msgspec.structs.replace(sent, project_root=str(root))
    assert Worker(older).component(ref).spec == spec


def test_what_was_unpacked_and_tampered_with_is_unpacked_again(project: Make, component: Component, home: Path) -> None:
    root = project(components__shout=component("shout"))
    data = archive(root)
    folder = unpack_code(data, sha256(data))
    assert folder.is_relative_to(home)
    (folder / "components" / "shout.py").write_text("raise SystemExit")
    assert unpack_code(data, sha256(data)) == folder
    assert (folder / "components" / "shout.py").read_text() == component("shout")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_leaves_the_folder_is_not_unpacked(home: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("../../escaped.py", "x")
        packed.writestr("fine.py", "x")
    folder = unpack_code(buffer.getvalue(), Digest("sha256:" + "a" * 64))
    assert [path.name for path in folder.iterdir()] == ["fine.py"]
    assert not list(home.rglob("escaped.py"))
    with pytest.raises(StageError, match="cannot be unpacked"):
        unpack_code(b"no archive", Digest("sha256:" + "b" * 64))
