"""What control flow decides, as pure functions over evaluated inputs: no I/O, no clock, no await.

The six control-flow components call these functions from their `execute`; the machine calls the same
functions where it evaluates a control stage itself. Either way a `Decision` comes out. What a body
(foreach, trycatch, sub-pipeline) led to is put into words by `outcomes`.
"""

from flowmason.control.decisions import (
    Decision,
    conditional,
    decide,
    foreach,
    return_,
    router,
    subpipeline,
    trycatch,
)
from flowmason.control.inputs import IDLE_IN_OWN_RUN, KINDS
from flowmason.control.outcomes import (
    catches,
    error_view,
    foreach_output,
    inherits,
    own_run,
    picked,
    subpipeline_output,
    takes_over,
    trycatch_output,
)
from flowmason.control.paths import MISSING, parse_dotted, pick, written

__all__ = [
    "IDLE_IN_OWN_RUN",
    "KINDS",
    "MISSING",
    "Decision",
    "catches",
    "conditional",
    "decide",
    "error_view",
    "foreach",
    "foreach_output",
    "inherits",
    "own_run",
    "parse_dotted",
    "pick",
    "picked",
    "return_",
    "router",
    "subpipeline",
    "subpipeline_output",
    "takes_over",
    "trycatch",
    "trycatch_output",
    "written",
]
