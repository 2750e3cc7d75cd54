"""Durations, money and such, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowmason.usage import CallEnd, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowmason.assembly.outcome import ModelCalls


def duration(milliseconds: float) -> str:
    """`12 ms`, `1.2 s`, `3 min 04 s`, `2 h 05 min`."""
    if milliseconds < 1:
        return f"{milliseconds:.1f} ms" if milliseconds else "0 ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def cost(usage: Usage) -> str:
    """`$0.0012`, or that the price is not known."""
    return "price unknown" if usage.cost is None else f"${usage.cost}"


def usage_words(usage: Usage) -> str:
    """`3 model calls, 812 tokens (700 in, 112 out), $0.0012`; empty where no model was called."""
    if not usage.calls:
        return ""
    calls = f"{usage.calls} model call{'' if usage.calls == 1 else 's'}"
    tokens = f"{usage.total_tokens} tokens ({usage.input_tokens} in, {usage.output_tokens} out)"
    return f"{calls}, {tokens}, {cost(usage)}{', estimated' if usage.estimated else ''}"


def models_words(models: Iterable[ModelCalls]) -> str:
    """`groq/m answered; anthropic/m failed twice (RATE_LIMITED)`; empty where every call was simply answered."""
    known = list(models)
    if all(each.end == CallEnd.ANSWERED for each in known):
        return ""
    ordered = sorted(known, key=lambda each: each.end not in (CallEnd.ANSWERED, CallEnd.CACHED))
    return "; ".join(_model_words(each) for each in ordered)


def _model_words(each: ModelCalls) -> str:
    who = f"{each.provider}/{each.model}" if each.provider else "a model"
    how = "answered from the cache" if each.end == CallEnd.CACHED else each.end
    how = f"went on and {how}" if each.resumed else how
    why = f" ({each.failure})" if each.failure else ""
    return f"{who} {how}{f' {each.calls} times' if each.calls > 1 else ''}{why}"
