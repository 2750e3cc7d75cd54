"""The built-in components: five AI nodes, nine operators, six control-flow components.

Here may live components only, each found through `COMPONENTS` just as a stranger's would be. They use
what every component may use: `flowmason.component`, the pure functions of the heart, and libraries.
Nothing is imported before `COMPONENTS` is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    COMPONENTS: list[type[Any]]

__all__ = ["COMPONENTS"]


def __getattr__(name: str) -> Any:
    if name != "COMPONENTS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flowmason.lab import control_flow, nodes, operators

    found = [*nodes.COMPONENTS, *operators.COMPONENTS, *control_flow.COMPONENTS]
    globals()["COMPONENTS"] = found
    return found
