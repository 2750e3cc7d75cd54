"""One Ray for all tests here: two CPUs, a token of its own, ended with the session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from flowmason_cluster import ray_start
from flowmason_cluster.executor import RayExecutor
from flowmason_cluster.vigil import Vigil
from ray_kit import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A FLOWMASON_HOME of the session's own, and no cluster of somebody else's in the environment."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWMASON_HOME", str(folder))
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def cluster(home: Path) -> Iterator[ray_start.Cluster]:
    """A local Ray, connected to this process."""
    connected = ray_start.connect("local", num_cpus=2)
    yield connected
    ray_start.disconnect()


@pytest.fixture
def vigil(cluster: ray_start.Cluster) -> Vigil:
    """Who looks whether the session's Ray is still there."""
    return Vigil(cluster, None)


@pytest.fixture(scope="session")
def lab(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The project whose components the tests run."""
    return Lab(tmp_path_factory.mktemp("lab") / "project")


@pytest.fixture
async def ray_executor(cluster: ray_start.Cluster, lab: Lab) -> AsyncIterator[RayExecutor]:
    """An executor on the session's Ray; its hosts end with the test."""
    executor = RayExecutor(lab.settings(), address="local")
    await executor.start()
    yield executor
    await executor.close()
