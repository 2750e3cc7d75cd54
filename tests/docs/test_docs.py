"""The documentation says what the code does: tables are current, examples run, links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import flowmason
import shell_blocks
from flowmason.errors import Code
from flowmason.lab import COMPONENTS
from flowmason.project import reading
from flowmason.project.settings import Testing
from flowmason.providers.llamacpp import local_model_installed
from flowmason.state import Status

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(path for path in ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "decisions").glob("*.md")),
    *sorted((ROOT / "examples").glob("**/README.md")),
]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """scripts/generate_docs.py."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_generated_parts_are_current(generate: ModuleType) -> None:
    pages = generate.pages()
    assert {path.name for path in pages} >= {"cli.md", "components.md", "errors.md", "pipelines.md", "llm.md"}
    stale = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run python scripts/generate_docs.py"


def test_every_generated_part_has_a_place(generate: ModuleType) -> None:
    used = {
        name for path in (ROOT / "docs").glob("*.md") for name in re.findall(r"generated: ([a-z-]+)", path.read_text())
    }
    assert used == set(generate.PARTS)


def test_every_command_and_exit_code_is_described(generate: ModuleType) -> None:
    text = page("cli.md")
    names = [name for name, _ in generate.commands()]
    assert {"fm run", "fm resume", "fm cluster up", "fm runs prune", "fm test"} <= set(names)
    for name in names:
        assert f"### {name}\n" in text
    for code in (0, 1, 2, 3, 4, 130):
        assert f"| {code} | " in text


def test_every_built_in_component_is_described() -> None:
    from flowmason.component import spec_of

    text = page("components.md")
    assert len(COMPONENTS) == 20
    for component in COMPONENTS:
        spec = spec_of(component)
        part = text.partition(f"### {spec.name}\n")[2].partition("\n### ")[0]
        for field in (*spec.input_schema["properties"], *spec.output_schema["properties"]):
            assert f"| `{field}` |" in part, f"{spec.name}.{field}"


def test_every_code_has_a_meaning(generate: ModuleType) -> None:
    text = page("errors.md")
    assert set(generate.CODES) == set(Code)
    for code in Code:
        assert f"| `{code}` | " in text


def test_every_setting_of_a_project_is_described() -> None:
    text = page("pipelines.md").partition("## The project")[2]
    for key in (*reading._KEYS, *Testing.__struct_fields__):
        assert key == "$schema" or f"`{key}`" in text or f'"{key}"' in text, key


def test_the_states_of_a_run_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "semantics.md").read_text()
    for status in Status:
        assert status in text or status in ("pending", "skipped"), status


def code_blocks(name: str, language: str) -> Iterator[str]:
    yield from re.findall(rf"```{language}\n(.*?)```", page(name), re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples, as the pages expect it; we are in it."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns(".flowmason"))
    for name in [*os.environ]:
        if name.startswith(("FLOWMASON_", "RAY_")) or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_python_of_a_page_runs(name: str, checkout: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), {})


def test_the_five_minutes_of_the_readme_go_as_it_says(checkout: Path) -> None:
    text = (ROOT / "README.md").read_text().partition("## Five minutes")[2].partition("\n## ")[0]
    wanted = shell_blocks.commands(text)
    assert ("fm init shop", 0) in wanted
    if not local_model_installed():
        wanted = [(command, code) for command, code in wanted if "fm run describe" not in command]
    shell_blocks.run(wanted, checkout)


def test_the_readme_has_every_exit_code() -> None:
    from flowmason.cli import console

    text = (ROOT / "README.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    codes = [console.OK, console.FAILED, console.REFUSED, console.CANCELLED, console.UNAVAILABLE, console.INTERRUPTED]
    assert [int(number) for number in re.findall(r"\d+", text)] == codes


def test_the_floors_are_those_that_the_linter_enforces() -> None:
    drawn = (ROOT / "ARCHITECTURE.md").read_text().partition("## The floors")[2].partition("## One stage")[0]
    contract = (ROOT / ".importlinter").read_text().partition("layers =\n")[2].partition("\n[")[0]
    for name in re.findall(r"[a-z_]+", contract):
        assert re.search(rf"\b{name}\b", drawn), name


def test_the_component_of_the_page_about_components_is_one() -> None:
    from flowmason.component import spec_of

    blocks = list(code_blocks("components.md", "python"))
    names: dict[str, Any] = {"__name__": "docs_components"}
    exec(compile(blocks[0], "docs/components.md", "exec"), names)
    assert spec_of(names["Shout"]).name == "shout"


def test_the_pipeline_of_the_page_about_pipelines_compiles(tmp_path: Path) -> None:
    path = tmp_path / "page.pipeline.json"
    path.write_text(next(code_blocks("pipelines.md", "json")))
    loaded = flowmason.load(path)
    assert loaded.name == "ticket-triage"
    assert list(loaded.plan.stages) == ["clean", "draft"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_decision_is_dated_and_listed_in_order() -> None:
    files = sorted((ROOT / "decisions").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in files] == list(range(1, len(files) + 1))
    for path in files:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
        assert first.startswith(f"# {path.name[:4]} ")
        assert re.search(r"^20\d\d-\d\d-\d\d$", rest.strip().splitlines()[0]), path.name
