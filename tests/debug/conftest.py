"""One engine for the session: its threads and its plans stay warm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from running.kit import Engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = Engine(tmp_path_factory.mktemp("values"))
    yield made
    asyncio.run(made.executor.close())
