"""Components: what a decorator makes of a class, what `execute` is given, and the bases of Input and Output.

Here may live descriptions only; finding and importing components is the registry's work. `models` is the
one module that imports pydantic, so nothing here imports `models` before a component class is declared.
"""

from flowmason.component.context import (
    LLM,
    Answer,
    Cache,
    CancelToken,
    ComponentContextError,
    Context,
    Logger,
    Mcp,
    McpServer,
    Secrets,
    parse_json,
)
from flowmason.component.decorators import control_flow, is_component, node, operator, spec_of
from flowmason.component.spec import ComponentSpec, EffectBy, component_digest, snake, version_key

__all__ = [
    "LLM",
    "Answer",
    "Cache",
    "CancelToken",
    "ComponentContextError",
    "ComponentSpec",
    "Context",
    "EffectBy",
    "Logger",
    "Mcp",
    "McpServer",
    "Secrets",
    "component_digest",
    "control_flow",
    "is_component",
    "node",
    "operator",
    "parse_json",
    "snake",
    "spec_of",
    "version_key",
]
