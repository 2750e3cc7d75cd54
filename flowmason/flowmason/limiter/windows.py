"""How much was used in the last minute, exactly: for limits on amounts of which one call may need much. Pure."""

from __future__ import annotations

WINDOW_S = 60.0


class Window:
    """Amounts by the moment at which they were taken. Each is taken at what it may be, and settled at what it was."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[float, int]] = {}
        self._sum = 0

    def idle(self, now: float) -> bool:
        """Whether nothing counts any more."""
        self._forget(now)
        return not self._taken

    def take(self, name: str, amount: int, now: float) -> None:
        """Something begins that may use `amount`."""
        self._sum += amount - self._taken.pop(name, (now, 0))[1]
        self._taken[name] = (now, amount)

    def settle(self, name: str, amount: int) -> None:
        """It has used `amount`. What nobody remembers changes nothing."""
        if name in self._taken:
            at, before = self._taken[name]
            self._sum += amount - before
            self._taken[name] = (at, amount)

    def room_at(self, amount: int, most: int, now: float) -> float:
        """When `amount` more stays within `most`, if nothing else happens: `now` where it does already. What is more
        than all that there is counts as all."""
        self._forget(now)
        excess = self._sum + min(amount, most) - most
        if excess <= 0:
            return now
        for at, taken in self._taken.values():
            excess -= taken
            if excess <= 0:
                return at + WINDOW_S
        return now

    def _forget(self, now: float) -> None:
        while self._taken:
            name, (at, amount) = next(iter(self._taken.items()))
            if at + WINDOW_S > now:
                return
            del self._taken[name]
            self._sum -= amount
