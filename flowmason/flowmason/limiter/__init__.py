"""Limits on what is done: of a rate (who asks the API), and of calls to others (how many at once, how often, and
whether they want to be asked at all).

`rates`, `windows`, `lines` and `ahead` are pure and take the time as an argument; `memory` keeps lines in one process.
May live here: what decides whether something may be done now. Nothing here knows who is asked what.
"""

from flowmason.limiter.ahead import AHEAD_S, Ahead, names
from flowmason.limiter.lines import (
    Breaker,
    CallLimiter,
    Cause,
    Entry,
    Finish,
    Line,
    Terms,
    Ticket,
)
from flowmason.limiter.memory import MemoryCallLimiter
from flowmason.limiter.rates import Limiter, Rate, Verdict, decide

__all__ = [
    "AHEAD_S",
    "Ahead",
    "Breaker",
    "CallLimiter",
    "Cause",
    "Entry",
    "Finish",
    "Limiter",
    "Line",
    "MemoryCallLimiter",
    "Rate",
    "Terms",
    "Ticket",
    "Verdict",
    "decide",
    "names",
]
