"""Operators: one file each, no model, no state. Heavy libraries are imported where they are used."""

from flowmason.lab.operators.filter import Filter
from flowmason.lab.operators.http_request import HttpRequest
from flowmason.lab.operators.json_transform import JsonTransform
from flowmason.lab.operators.logger import Logger
from flowmason.lab.operators.loop import Loop
from flowmason.lab.operators.mcp import McpListTools, McpToolCall
from flowmason.lab.operators.schema_validate import SchemaValidate
from flowmason.lab.operators.variable_set import VariableSet

COMPONENTS = [
    HttpRequest,
    JsonTransform,
    Filter,
    Loop,
    SchemaValidate,
    VariableSet,
    Logger,
    McpToolCall,
    McpListTools,
]

__all__ = ["COMPONENTS"]
