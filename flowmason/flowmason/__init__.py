"""FlowMason: AI pipelines as typed, durable, testable files, run on Ray.

The door for those who write components and run pipelines. Names are imported when first used, so that
`import flowmason` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowmason.assembly.doors import LoadedPipeline, load, run
    from flowmason.assembly.outcome import RunResult, StageResult
    from flowmason.component import ComponentContextError, ComponentSpec, Context, control_flow, node, operator
    from flowmason.component.models import (
        ControlFlowInput,
        ControlFlowOutput,
        Field,
        NodeInput,
        NodeOutput,
        OperatorInput,
        OperatorOutput,
    )
    from flowmason.errors import FlowMasonError, RefusedError, RetryableError, StageError
    from flowmason.policy import Effect, Resources, RetryPolicy

_HOMES = {
    "flowmason.assembly.doors": ("LoadedPipeline", "load", "run"),
    "flowmason.assembly.outcome": ("RunResult", "StageResult"),
    "flowmason.component": ("ComponentContextError", "ComponentSpec", "Context", "control_flow", "node", "operator"),
    "flowmason.component.models": (
        "ControlFlowInput",
        "ControlFlowOutput",
        "Field",
        "NodeInput",
        "NodeOutput",
        "OperatorInput",
        "OperatorOutput",
    ),
    "flowmason.errors": ("FlowMasonError", "RefusedError", "RetryableError", "StageError"),
    "flowmason.policy": ("Effect", "Resources", "RetryPolicy"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ComponentContextError",
    "ComponentSpec",
    "Context",
    "ControlFlowInput",
    "ControlFlowOutput",
    "Effect",
    "Field",
    "FlowMasonError",
    "LoadedPipeline",
    "NodeInput",
    "NodeOutput",
    "OperatorInput",
    "OperatorOutput",
    "RefusedError",
    "Resources",
    "RetryPolicy",
    "RetryableError",
    "RunResult",
    "StageError",
    "StageResult",
    "control_flow",
    "load",
    "node",
    "operator",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'flowmason' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
