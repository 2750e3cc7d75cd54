"""The Studio that tests of its API talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.kit import Studio, studio_in


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    """A started Studio on SQLite with two orgs and a key for every role in each."""
    with studio_in(tmp_path) as started:
        yield started
