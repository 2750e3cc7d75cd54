"""What a stage is allowed and asked to do, as data: effects, retries, resources, placement."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Effect(StrEnum):
    """What running a stage does to the world outside the run."""

    PURE = "pure"
    """Nothing: it may be repeated, speculated, fused or duplicated silently."""
    IDEMPOTENT = "idempotent"
    """Something, but repeating it under the same key does no more."""
    UNSAFE = "unsafe"
    """Something that must not happen twice; a lost call ends as `OUTCOME_UNKNOWN`."""


class Placement(StrEnum):
    """Where a stage runs on Ray."""

    TASK = "task"
    """A Ray task: the default for pure components and for anything that asks for resources."""
    HOST = "host"
    """A long-lived asynchronous node host: the default for effects."""


class OnLost(StrEnum):
    """What becomes of an attempt whose worker died."""

    RERUN = "rerun"
    UNKNOWN = "unknown"


class RetryPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exponential back-off with jitter. `max_retries = 3` means four attempts."""

    max_retries: int = 0
    """0 to 10."""
    initial_delay_ms: int = 1000
    max_delay_ms: int = 30_000
    backoff_multiplier: float = 2.0
    """1 to 5."""

    def delay_ms(self, attempt: int, jitter: float) -> int:
        """Milliseconds to wait after failed attempt `attempt` (from 1).

        `jitter` is uniform in 0..1 and spreads the delay over ±25 %.
        """
        raw = min(float(self.max_delay_ms), self.initial_delay_ms * self.backoff_multiplier ** (attempt - 1))
        return int(raw * (0.75 + 0.5 * jitter))


class Resources(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a stage needs of a worker, in Ray's terms. None: the executor's default."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    """Bytes."""
    accelerator_type: str | None = None
    custom: dict[str, float] = {}

    def __bool__(self) -> bool:
        return self != Resources()


NODE_TIMEOUT_MS = 60_000
OPERATOR_TIMEOUT_MS = 30_000
STAGE_TIMEOUT_MS_MIN = 100
STAGE_TIMEOUT_MS_MAX = 7 * 24 * 3600 * 1000
LOST_BUDGET = 3
"""How many lost attempts of one stage are repeated before it fails with `LOST`."""
CANCEL_GRACE_S = 5.0
FINALLY_BOUND_S = 30.0
INLINE_LIMIT = 64 * 1024
"""Up to this many encoded bytes a value rides in its event; above, it is stored by digest."""
LARGE = 1024 * 1024
"""From this many bytes on, copying or reading a value again costs more than handling a stage."""
