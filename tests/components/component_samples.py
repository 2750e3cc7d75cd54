"""Source code of components for the tests."""

from __future__ import annotations

from flowmason.errors import Fault
from flowmason.registry import Registry

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


def component(
    name: str, *, cls: str = "Shout", version: str = "1.0.0", imports: str = "", body: str = "input.text.upper()"
) -> str:
    """Source of a small operator."""
    return COMPONENT.format(name=name, cls=cls, version=version, imports=imports, body=body)


def own_faults(registry: Registry) -> list[Fault]:
    """The faults in a project's own files."""
    return [fault for fault in registry.faults if (fault.file or "").startswith("components/")]
