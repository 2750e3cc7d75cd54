"""Tests of pipelines: what `fm test` runs, and a kit for tests in Python.

Here may live what reads `.test.json` files, runs pipelines in process with mocks and no network, and tells how that
went. The engine underneath is the real one. The kit (`run_pipeline`, `FakeModel`, `Mocks`) is the public door.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowmason.region.mocks import MockCall, Mocks
    from flowmason.testing.kit import FakeModel, mocks, run_pipeline, run_pipeline_async

_HOME_OF = {
    "FakeModel": "flowmason.testing.kit",
    "MockCall": "flowmason.region.mocks",
    "Mocks": "flowmason.region.mocks",
    "mocks": "flowmason.testing.kit",
    "run_pipeline": "flowmason.testing.kit",
    "run_pipeline_async": "flowmason.testing.kit",
}

__all__ = ["FakeModel", "MockCall", "Mocks", "mocks", "run_pipeline", "run_pipeline_async"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'flowmason.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
