"""Questions that come at the same time share an answer that was asked for after they came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from flowmason_serve_apps.studio.together import MOST, Together


class Answering:
    """Answers each question with the number of the batch it was in; the first waits to be let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, asked: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(asked))
        if len(self.batches) == 1:
            self.begun.set()
            assert self.go_on.wait(60)
        return [ValueError(str(each)) if each < 0 else len(self.batches) for each in asked]


async def _started(together: Together, answering: Answering) -> asyncio.Task[int]:
    first = asyncio.create_task(together.ask("key", 0, answering))
    assert await asyncio.to_thread(answering.begun.wait, 10)
    return first


async def test_those_that_come_meanwhile_get_a_later_answer_together() -> None:
    together, answering = Together(), Answering()
    first = await _started(together, answering)
    others = [asyncio.create_task(together.ask("key", number, answering)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    answering.go_on.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [2, 2, 2]
    assert answering.batches == [[0], [1, 2, 3]]


async def test_an_error_is_its_own_and_no_batch_is_too_large() -> None:
    together, answering = Together(), Answering()
    answering.go_on.set()
    numbers = [-1, *range(1, MOST + 5)]
    found = await asyncio.gather(*(together.ask("key", n, answering) for n in numbers), return_exceptions=True)
    assert isinstance(found[0], ValueError)
    assert found[1:] == [1] * (MOST - 1) + [2] * 5


async def test_what_fails_for_all_fails_all_and_the_next_is_asked_again() -> None:
    together = Together()

    def fails(asked: Sequence[int]) -> list[int | Exception]:
        raise LookupError(len(asked))

    found = await asyncio.gather(*(together.ask("key", n, fails) for n in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [LookupError] * 3
    assert await together.ask("key", 1, lambda asked: list(asked)) == 1


async def test_other_keys_wait_for_nobody_and_one_who_left_holds_up_nobody() -> None:
    together, answering = Together(), Answering()
    first = await _started(together, answering)
    assert await together.ask("other", 5, lambda asked: list(asked)) == 5
    left = asyncio.create_task(together.ask("key", 1, answering))
    stays = asyncio.create_task(together.ask("key", 2, answering))
    await asyncio.sleep(0)
    left.cancel()
    answering.go_on.set()
    assert await first == 1
    assert await stays == 2
    with pytest.raises(asyncio.CancelledError):
        await left
