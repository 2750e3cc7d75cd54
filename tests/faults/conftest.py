"""A project whose stages keep an effect ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.kit import Project

MakeProject = Callable[..., Project]


@pytest.fixture
def make_project(tmp_path: Path) -> Iterator[MakeProject]:
    """Makes a project; whatever was started for it is ended afterwards."""
    made: list[Project] = []

    def make(**options: Any) -> Project:
        folder = tmp_path / f"p{len(made)}"
        folder.mkdir()
        made.append(Project(folder, **options))
        return made[-1]

    yield make
    for project in made:
        project.close()


@pytest.fixture
def local(make_project: MakeProject) -> Project:
    """A project on the local executor and SQLite."""
    return make_project()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def on_each_journal(request: pytest.FixtureRequest, make_project: MakeProject) -> Project:
    """A project on the local executor, on SQLite and on PostgreSQL."""
    return make_project(database=request.getfixturevalue("postgres_url") if request.param == "postgres" else None)
