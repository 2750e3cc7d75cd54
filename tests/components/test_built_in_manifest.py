"""The committed manifest of the built-in components says what their code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import flowmason
from flowmason.registry import find_components, load_component
from flowmason.registry.write_manifest import module_manifest_text

pytestmark = pytest.mark.wheel

MANIFEST = Path(flowmason.__file__).parent / "lab" / "manifest.json"
NAMES = {
    *("generator", "critic", "improver", "selector", "synthesizer"),
    *("mcp_list_tools", "mcp_tool_call"),
    *("http_request", "json_transform", "filter", "loop", "schema_validate", "variable_set", "logger"),
    *("conditional", "router", "foreach", "trycatch", "subpipeline", "return"),
}


def test_the_committed_manifest_is_what_the_code_says() -> None:
    command = f"python -m flowmason.registry.write_manifest flowmason.lab:COMPONENTS {MANIFEST}"
    assert MANIFEST.read_text(encoding="utf-8") == module_manifest_text("flowmason.lab:COMPONENTS"), f"run: {command}"


def test_every_built_in_is_found_and_loads(tmp_path: Path) -> None:
    registry = find_components(packages_dirs=[tmp_path])
    assert set(registry) >= NAMES
    for name in NAMES:
        loaded = load_component(registry[name])
        assert loaded.spec.digest == registry[name].digest
        assert loaded.make() is not None


def test_finding_the_built_ins_imports_none_of_them() -> None:
    code = (
        "import sys; from flowmason.registry import find_components; find_components()\n"
        "assert not {'pydantic', 'flowmason.lab'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
