"""What model calls used and cost. Money is integer nano-dollars inside and a decimal string on the wire."""

from __future__ import annotations

import msgspec

NANODOLLARS = 1_000_000_000


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens and money of one model call, or of many added up."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the input tokens: those that the provider read from its prompt cache."""
    cost_nanodollars: int | None = 0
    """None: at least one call was made at an unknown price."""
    calls: int = 0
    provider: str = ""
    """`mixed` where calls of several were added."""
    model: str = ""
    estimated: bool = False
    """Whether any of it is our own count, because the provider gave none."""

    @property
    def total_tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    @property
    def cost(self) -> str | None:
        """Dollars as a decimal string, without trailing zeros; None: unknown."""
        return None if self.cost_nanodollars is None else dollars(self.cost_nanodollars)

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_nanodollars is not None and other.cost_nanodollars is not None
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cost_nanodollars=(self.cost_nanodollars or 0) + (other.cost_nanodollars or 0) if known else None,
            calls=self.calls + other.calls,
            provider=_same(self.provider, other.provider),
            model=_same(self.model, other.model),
            estimated=self.estimated or other.estimated,
        )


def _same(left: str, right: str) -> str:
    if not left or not right or left == right:
        return left or right
    return "mixed"


def dollars(nanodollars: int) -> str:
    """`1_500_000` → `"0.0015"`."""
    whole, rest = divmod(abs(nanodollars), NANODOLLARS)
    sign = "-" if nanodollars < 0 else ""
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".")
