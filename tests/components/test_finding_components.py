"""Finding components without importing anything of the user's in this process."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmason.errors import Code, Fault, UsageError
from flowmason.registry import ComponentSpec, Registry, find_components

Make = Callable[..., Path]
Component = Callable[..., str]


def own_faults(registry: Registry) -> list[Fault]:
    return [fault for fault in registry.faults if (fault.file or "").startswith("components/")]


def own(registry: Registry) -> list[str]:
    return [spec.id for spec in registry.specs() if spec.target.startswith("components/")]


def test_a_projects_components_are_found_with_their_schemas(project: Make, component: Component) -> None:
    root = project(components__shout=component("shout"), components__deep__er__whisper=component("whisper"))
    before = {name for name in sys.modules if name.startswith("_fm_")}
    registry = find_components(root)
    assert own_faults(registry) == []
    assert own(registry) == ["shout@1.0.0", "whisper@1.0.0"]
    spec = registry["whisper"]
    assert spec.target == "components/deep/er/whisper.py:Shout"
    assert spec.input_schema["required"] == ["text"]
    assert spec.digest.startswith("sha256:")
    assert {name for name in sys.modules if name.startswith("_fm_")} == before


def test_a_file_may_declare_several_components_and_share_helpers(project: Make, component: Component) -> None:
    two = component("one", cls="One") + component("two", cls="Two")
    user = component("user", imports="from components.pair import One, helper", body="helper(input.text)")
    root = project(components__pair=two + "\ndef helper(text): return text * 2\n", components__user=user)
    registry = find_components(root)
    assert own_faults(registry) == []
    assert own(registry) == ["one@1.0.0", "two@1.0.0", "user@1.0.0"]


def test_one_broken_file_costs_only_itself(project: Make, component: Component) -> None:
    root = project(
        components__good=component("good"),
        components__syntax="def broken(:\n",
        components__missing="import no_such_module_here\n",
        components__wrong="from flowmason import node\n\n@node(name='x', description='d', category='c')\nclass X: ...",
        components__leaves="raise SystemExit(3)\n",
        components__crash="import os\nos._exit(7)\n",
    )
    registry = find_components(root)
    assert own(registry) == ["good@1.0.0"]
    faults = {fault.file: fault for fault in own_faults(registry)}
    assert set(faults) == {f"components/{name}.py" for name in ("syntax", "missing", "wrong", "leaves", "crash")}
    assert faults["components/syntax.py"].line == 1
    assert faults["components/missing.py"].line == 1
    assert "no_such_module_here" in faults["components/missing.py"].reason
    assert faults["components/wrong.py"].line == 3
    assert "class Input(NodeInput)" in faults["components/wrong.py"].reason
    assert "exit code 7" in faults["components/crash.py"].reason


def test_a_file_that_hangs_is_given_up_and_the_others_are_there(project: Make, component: Component) -> None:
    loop = "limit = 1\nwhile limit:\n    pass\n"
    waits = "import threading\nthreading.Event().wait()\n"
    root = project(components__a=loop, components__b=component("between"), components__c=waits)
    registry = find_components(root, timeout_s=4)
    assert own(registry) == ["between@1.0.0"]
    first, second = own_faults(registry)
    assert (first.file, first.line) in (("components/a.py", 2), ("components/a.py", 3))
    assert "does not end: it has been busy here for 2 seconds" in first.reason
    assert second.file == "components/c.py" and "took longer than 4 seconds" in second.reason


def test_what_user_code_prints_does_no_harm(project: Make, component: Component) -> None:
    noisy = "import os, sys\nprint('hello')\nos.write(1, b'{\"end\": 1}\\n')\n" + component("noisy")
    registry = find_components(project(components__noisy=noisy))
    assert own(registry) == ["noisy@1.0.0"]


def test_secrets_are_not_in_the_importing_process(
    project: Make, monkeypatch: pytest.MonkeyPatch, component: Component
) -> None:
    monkeypatch.setenv("FLOWMASON_SECRET_KEY", "hush")
    peek = "import os\nassert 'FLOWMASON_SECRET_KEY' not in os.environ\n" + component("peek")
    assert own_faults(find_components(project(components__peek=peek))) == []


def test_specs_are_remembered_until_a_source_changes(
    project: Make, monkeypatch: pytest.MonkeyPatch, component: Component
) -> None:
    root = project(
        components__shout=component("shout", imports="from lib.helper import loud", body="loud(input.text)"),
        lib__helper="def loud(text): return text.upper()\n",
    )
    first = find_components(root)["shout"]
    asked: list[str] = []
    finding = importlib.import_module("flowmason.registry.finding")
    real = finding.ask

    def counted(at: Path | None, files: list[str] = [], **more: object) -> object:  # noqa: B006
        asked.extend(files)
        return real(at, files=files, **more)

    monkeypatch.setattr(finding, "ask", counted)
    assert find_components(root)["shout"] == first
    assert asked == []
    (root / "lib/helper.py").write_text("def loud(text): return text.title()\n")
    changed = find_components(root)["shout"]
    assert asked == ["components/shout.py"]
    assert changed.digest != first.digest


def test_a_mended_file_is_read_again(project: Make, component: Component) -> None:
    root = project(components__shout="import no_such_module_here\n")
    assert own_faults(find_components(root))
    project(components__shout=component("shout"))
    registry = find_components(root)
    assert own_faults(registry) == []
    assert own(registry) == ["shout@1.0.0"]


def test_a_built_in_name_and_a_name_declared_twice_are_refused(project: Make, component: Component) -> None:
    root = project(
        components__a=component("same"), components__b=component("same"), components__c=component("http_request")
    )
    registry = find_components(root)
    assert own(registry) == ["same@1.0.0"]
    reasons = {fault.file: fault.reason for fault in registry.faults}
    assert "already declared by components/a.py" in reasons["components/b.py"]
    assert "belongs to a built-in" in reasons["components/c.py"]


def test_include_and_exclude_choose_the_files(project: Make, component: Component) -> None:
    root = project(components__a=component("a"), components__b=component("b"), other__c=component("c"))
    registry = find_components(root, include=["components/**/*.py", "other/*.py"], exclude=["components/b.py"])
    assert {spec.name for spec in registry.specs() if spec.target.split("/")[0] in ("components", "other")} == {
        "a",
        "c",
    }


def test_the_newest_version_answers_to_the_name_alone(project: Make, component: Component) -> None:
    root = project(
        components__old=component("shout", version="1.9.0"), components__new=component("shout", version="1.10.0")
    )
    registry = find_components(root)
    assert registry["shout"].version == "1.10.0"
    assert registry["shout@1.9.0"].version == "1.9.0"
    assert [spec.version for spec in registry.versions("shout")] == ["1.10.0", "1.9.0"]


def test_kebab_names_are_snake_names_and_unknown_ones_get_the_nearest() -> None:
    spec = ComponentSpec(name="http_request", kind="operator", target="m:C")
    registry = Registry([spec])
    assert registry["http-request"] is spec
    assert "http-request@1.0.0" in registry
    assert registry.nearest("htpp-request") == "http_request"
    with pytest.raises(UsageError, match="did you mean 'http_request'") as caught:
        registry.require("http_reqest")
    assert caught.value.failure.code == Code.COMPONENT_MISSING
    with pytest.raises(UsageError, match=r"there is 1\.0\.0"):
        registry.require("http_request@2.0.0")


def distribution(site: Path, component: Component) -> None:
    info = site / "loudness-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loudness\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flowmason.components]\nloudness = loudness:COMPONENTS\n")
    (site / "loudness").mkdir()
    (site / "loudness/__init__.py").write_text("from loudness.parts import Shout\nCOMPONENTS = [Shout]\n")
    (site / "loudness/parts.py").write_text(component("boom"))


def test_other_distributions_are_found_by_their_entry_points(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, component: Component
) -> None:
    site = tmp_path / "site"
    distribution(site, component)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    first = find_components()["boom"]
    assert first.target == "loudness.parts:Shout"
    assert "loudness" not in sys.modules
    assert find_components()["boom"] == first
    (site / "loudness/parts.py").write_text(component("boom", body="input.text.title()"))
    assert find_components()["boom"].digest != first.digest


def test_a_shipped_manifest_saves_the_import(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, component: Component
) -> None:
    site = tmp_path / "site"
    distribution(site, component)
    spec = ComponentSpec(name="boom", kind="operator", target="loudness.parts:Shout", description="From the manifest.")
    (site / "loudness/manifest.json").write_text(json.dumps({"components": [spec.manifest()]}))
    (site / "loudness/__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(site))
    found = find_components()["boom"]
    assert found.description == "From the manifest."
    assert found.digest


def test_finding_imports_neither_pydantic_nor_user_code(project: Make, component: Component) -> None:
    root = project(components__shout=component("shout"))
    find_components(root)
    code = (
        "import sys; from pathlib import Path; from flowmason.registry import find_components\n"
        f"assert 'shout' in find_components(Path({str(root)!r}))\n"
        "assert 'pydantic' not in sys.modules, 'pydantic'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
