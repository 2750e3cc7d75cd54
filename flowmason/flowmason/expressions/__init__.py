"""The expression language: `{{upstream.fetch.body}}`, `len(input.items) > 3`.

Its own small grammar over plain values, with a budget; it cannot run code, reach a Python object's
attributes, or read anything but the roots it is handed. Nothing here does I/O. The rules are written
down in docs/expressions.md.
"""

from flowmason.expressions.evaluate import Prepared, evaluate, prepare, static_value
from flowmason.expressions.functions import ARITY as FUNCTION_ARITY
from flowmason.expressions.limits import ABSENT, Absent, Budget
from flowmason.expressions.names import Names
from flowmason.expressions.parser import parse_expression
from flowmason.expressions.references import Reference, is_static, references
from flowmason.expressions.templates import field_of, parse_condition, parse_template
from flowmason.expressions.tree import (
    Access,
    Arithmetic,
    Call,
    Choose,
    Compare,
    Expr,
    Fields,
    Items,
    Literal,
    Logic,
    MakeList,
    MakeObject,
    Negate,
    Not,
    Path,
    Static,
    Template,
    Text,
)
from flowmason.expressions.unparse import unparse, unparse_template

__all__ = [
    "ABSENT",
    "Absent",
    "Access",
    "Arithmetic",
    "Budget",
    "Call",
    "Choose",
    "Compare",
    "Expr",
    "FUNCTION_ARITY",
    "Fields",
    "Items",
    "Literal",
    "Logic",
    "MakeList",
    "MakeObject",
    "Names",
    "Negate",
    "Not",
    "Path",
    "Prepared",
    "Reference",
    "Static",
    "Template",
    "Text",
    "evaluate",
    "field_of",
    "is_static",
    "parse_condition",
    "parse_expression",
    "parse_template",
    "prepare",
    "references",
    "static_value",
    "unparse",
    "unparse_template",
]
