"""Projects to find components in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

COMPONENT = """
from flowmason import OperatorInput, OperatorOutput, operator
{imports}

@operator(name="{name}", description="Says it louder.", category="text", version="{version}")
class {cls}:
    class Input(OperatorInput):
        text: str
        times: int = 1

    class Output(OperatorOutput):
        text: str

    async def execute(self, input, context):
        return self.Output(text={body})
"""


@pytest.fixture
def component() -> Callable[..., str]:
    """Source of a small operator."""

    def make(
        name: str, *, cls: str = "Shout", version: str = "1.0.0", imports: str = "", body: str = "input.text.upper()"
    ) -> str:
        return COMPONENT.format(name=name, cls=cls, version=version, imports=imports, body=body)

    return make


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of its own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FLOWMASON_HOME", str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Callable[..., Path]:
    """Write files (`components__shout="…"` stands for components/shout.py) and return the project's root."""

    def make(**files: str) -> Path:
        root = tmp_path / "project"
        for name, text in files.items():
            path = root / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    return make
