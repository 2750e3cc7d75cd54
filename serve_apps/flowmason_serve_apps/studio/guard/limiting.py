"""How often somebody may ask: limiters in memory and in Redis, and what happens where Redis is away."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from flowmason.errors import EngineUnavailableError
from flowmason.limiter import Limiter, Rate, Verdict, decide

_MOST = 100_000
_REDIS_S = 0.25
AGAIN_S = 5.0
"""A Redis that did not answer is left alone for so long."""

_GCRA = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = tonumber(redis.call('GET', KEYS[1]) or now)
local after = math.max(kept, now) + interval
local over = after - (now + interval * burst)
if over > 1e-6 then return {0, 0, tostring(over)} end
redis.call('SET', KEYS[1], string.format('%.6f', after), 'PX', math.ceil((after - now) * 1000) + 1000)
return {1, math.floor((now + interval * burst - after) / interval + 1e-6), '0'}
"""


class MemoryLimiter:
    """Counts in this process alone; what has caught up is forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, float] = OrderedDict()

    async def take(self, subject: str, rate: Rate) -> Verdict:
        verdict, self._kept[subject] = decide(self._kept.get(subject), self._clock(), rate)
        self._kept.move_to_end(subject)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return verdict


class RedisLimiter:
    """Counts in Redis, by its clock: all processes together allow what one would."""

    def __init__(self, url: str) -> None:
        import redis.asyncio

        self._redis: Any = redis.asyncio.from_url(url, socket_timeout=_REDIS_S, socket_connect_timeout=_REDIS_S)
        self._script = self._redis.register_script(_GCRA)

    async def take(self, subject: str, rate: Rate) -> Verdict:
        """Raises `EngineUnavailableError` where Redis does not answer."""
        import redis

        try:
            allowed, remaining, wait = await self._script(
                keys=[f"flowmason:limit:{subject}"], args=[repr(rate.interval_s), rate.burst]
            )
        except (redis.RedisError, OSError, TimeoutError) as error:
            raise EngineUnavailableError(f"the limiter does not answer: {type(error).__name__}") from None
        return Verdict(bool(allowed), int(remaining), float(wait))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()


class SharedLimiter:
    """Asks a limiter that all replicas share; while it is away each replica allows its part by itself."""

    def __init__(self, shared: Limiter | None, replicas: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared = shared
        self._replicas = max(1, replicas)
        self._own = MemoryLimiter(clock)
        self._clock = clock
        self._away_until = float("-inf")

    async def take(self, subject: str, rate: Rate, *, strict: bool = False) -> Verdict:
        """Count one. With `strict` nothing is allowed while the shared limiter is away.

        Raises `EngineUnavailableError` then.
        """
        if self._shared is not None and self._clock() >= self._away_until:
            try:
                return await self._shared.take(subject, rate)
            except EngineUnavailableError:
                self._away_until = self._clock() + AGAIN_S
        if self._shared is not None and strict:
            raise EngineUnavailableError(
                "sign-ins cannot be counted at the moment, so there are none", help="Try again in a few seconds."
            )
        return await self._own.take(subject, rate.shared(self._replicas))

    async def close(self) -> None:
        """Let go of what it asks."""
        if isinstance(self._shared, RedisLimiter):
            await self._shared.close()


def limiter_of(redis_url: str | None, replicas: int) -> SharedLimiter:
    """The limiter that the settings ask for."""
    return SharedLimiter(RedisLimiter(redis_url) if redis_url else None, replicas)
