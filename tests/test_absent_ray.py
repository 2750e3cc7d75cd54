"""The heart works where Ray is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import flowmason

pytestmark = pytest.mark.wheel

BLOCK = """
import importlib.abc, sys

class NoRay(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, NoRay())
"""

PIPELINE = {
    "name": "hello",
    "stages": [{"id": "greet", "component": "return", "config": {"value": "Hello, {{input.name}}!"}}],
}


@pytest.fixture
def without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pipeline; Python processes started there cannot import Ray."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCK)
    (tmp_path / "hello.pipeline.json").write_text(json.dumps(PIPELINE))
    for name in [*os.environ]:
        if name.startswith(("FLOWMASON_", "RAY_")) or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path / "home"))
    return tmp_path


def python(folder: Path, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def fm(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "from flowmason.cli import main; main()", *args)


def test_ray_is_really_absent_there(without_ray: Path) -> None:
    assert "ModuleNotFoundError: No module named 'ray'" in python(without_ray, "import ray").stderr


def test_every_module_of_the_heart_imports(without_ray: Path) -> None:
    folders = [str(path) for path in flowmason.__path__]
    names = [module.name for module in pkgutil.walk_packages(folders, "flowmason.")]
    # Alembic runs migrations; importing a __main__ runs it.
    wanted = [name for name in names if ".migrations." not in name and not name.endswith(".__main__")]
    if importlib.util.find_spec("psycopg") is None:
        wanted.remove("flowmason.database.postgres")
    assert len(wanted) > 150
    code = (
        f"import importlib, sys\nfor name in {wanted!r}: importlib.import_module(name)\nassert 'ray' not in sys.modules"
    )
    ended = python(without_ray, code)
    assert ended.returncode == 0, ended.stderr


def test_validate_and_run_on_local_work(without_ray: Path) -> None:
    assert fm(without_ray, "validate", "hello.pipeline.json").returncode == 0
    ended = fm(without_ray, "run", "hello.pipeline.json", "--on", "local", "--set", "name=Ada", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["output"] == "Hello, Ada!"


def test_a_run_on_ray_is_refused_with_the_extra_and_the_way_out(without_ray: Path) -> None:
    ended = fm(without_ray, "run", "hello.pipeline.json", "--set", "name=Ada")
    assert ended.returncode == 4
    assert "flowmason[ray]" in ended.stderr
    assert "--on local" in ended.stderr
