"""docs/testing.md: its project passes, its Python runs, and nothing is left out of its tables."""

from __future__ import annotations

import re
from pathlib import Path

from flowmason.testing import __all__ as kit
from flowmason.testing.assertions import OPERATORS, TYPES
from flowmason.testing.files import Setup
from flowmason.testing.mocking import _ERROR_KEYS, _MOCK_KEYS, _SCRIPT_KEYS
from flowmason.testing.reading import _CASE_KEYS, _FILE_KEYS
from fm_project import Fm, Project

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")


def test_the_project_of_the_page_passes(fm: Fm, project: Project) -> None:
    files = re.findall(r"^`(\S+\.json)`:\n\n```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(files) == 2
    for path, text in files:
        project.write(path, text)
    answer = fm("test")
    assert answer.code == 0, answer
    assert "4 passed" in answer.out
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        exec(compile(code, "docs/testing.md", "exec"), {})


def test_every_key_and_every_operator_is_described() -> None:
    words = set(re.findall(r"[A-Za-z_]+", " ".join(re.findall(r"`([^`]*)`", PAGE))))
    keys = {*_FILE_KEYS, *_CASE_KEYS, *_MOCK_KEYS, *_ERROR_KEYS, *_SCRIPT_KEYS, *Setup.__struct_fields__} - {"$schema"}
    assert {*keys, *OPERATORS, *TYPES} <= words
    assert {*kit} - {"MockCall", "Mocks"} <= set(re.findall(r"[A-Za-z_]+", PAGE))
