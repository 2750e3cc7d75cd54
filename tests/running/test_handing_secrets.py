"""Calls are handed what they declare as they leave; the rest passes by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

from flowmason.conductor.handing import Handing
from flowmason.errors import Code, EngineUnavailableError
from flowmason.executor import Capacity
from flowmason.ids import LOCAL_ORG, OrgId, PlanId, RunId
from flowmason.policy import Placement, Resources
from flowmason.report import Ended, Handed, Region, Report, region_decoder, region_encoder


class Source:
    """Secrets of orgs, told slowly where somebody wants that."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: EngineUnavailableError | None = None

    async def values(self, org_id: OrgId, names: Collection[str]) -> dict[str, str]:
        self.asked.append(set(names))
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        known = {"api_key": "the value", "openai_api_key": "the key", "other": "of nobody's"}
        return {name: text for name, text in known.items() if name in names and org_id == LOCAL_ORG}


class Inner:
    """An executor that notes what it is given."""

    name = "inner"

    def __init__(self) -> None:
        self.given: list[Region] = []
        self.cancelled: list[str] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def capacity(self) -> Capacity:
        return Capacity(1, 1)

    def infeasible(self, placement: Placement, resources: Resources) -> str | None:
        return None

    async def submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        self.given += regions
        for region in regions:
            yield Report(region=region.id, ended=Ended.DONE)

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        self.cancelled.append(region_id)


def region(id: str = "r", **more: object) -> Region:
    return Region(id, RunId("run_1"), LOCAL_ORG, 1, PlanId("sha256:0"), (), "p/a", **more)  # type: ignore[arg-type]


async def sent(handing: Handing, *regions: Region) -> list[Report]:
    return [report async for report in handing.submit(regions)]


async def test_a_call_gets_what_it_declares_and_the_keys_of_models_only_where_it_asks_them() -> None:
    inner, source = Inner(), Source()
    handing = Handing(inner, source, ["OPENAI_API_KEY", "GROQ_API_KEY"])
    await sent(handing, region("plain"))
    assert not source.asked and inner.given[0].handed is None
    first = region("declares", secrets=("API-key", "absent"))
    await sent(handing, first)
    assert first.handed is None
    assert inner.given[1].handed == Handed({"api_key": "the value"})
    await sent(handing, region("asks", secrets=("api.key",), models=True))
    assert inner.given[2].handed == Handed({"api_key": "the value"}, {"OPENAI_API_KEY": "the key"})
    await sent(handing, region("attaches", secrets=("api_key",), attach=True))
    assert inner.given[3].handed is None
    assert source.asked == [{"api_key", "absent"}, {"api_key", "openai_api_key", "groq_api_key"}]


async def test_one_that_is_not_set_is_handed_as_nothing_so_that_the_environment_is_not_read() -> None:
    inner = Inner()
    await sent(Handing(inner, Source()), region(secrets=("absent",)))
    assert inner.given[0].handed == Handed()
    again = region_decoder.decode(region_encoder.encode(inner.given[0]))
    assert again.handed == Handed()


async def test_what_cannot_be_looked_up_travels_as_its_reason() -> None:
    inner, source = Inner(), Source()
    source.error = EngineUnavailableError("the database is away")
    await sent(Handing(inner, source), region(secrets=("api_key",)))
    handed = inner.given[0].handed
    assert handed is not None and handed.failure is not None
    assert handed.failure.code == Code.ENGINE_UNAVAILABLE and not handed.secrets


async def test_one_that_is_cancelled_before_it_left_does_not_leave() -> None:
    inner, source = Inner(), Source()
    handing = Handing(inner, source)
    source.may_answer.clear()
    sending = asyncio.create_task(sent(handing, region(secrets=("api_key",))))
    while not source.asked:
        await asyncio.sleep(0)
    await handing.cancel("r", grace_s=1.0)
    source.may_answer.set()
    assert [(each.region, each.ended) for each in await sending] == [("r", Ended.CANCELLED)]
    assert inner.given == [] == inner.cancelled
    await handing.cancel("r", grace_s=1.0)
    assert inner.cancelled == ["r"]
    await sent(handing, region(secrets=("api_key",)))
    assert len(inner.given) == 1


def test_a_region_that_is_shown_shows_names_only() -> None:
    shown = repr(region(handed=Handed({"api_key": "the value"}, {"OPENAI_API_KEY": "the key"})))
    assert "api_key" in shown and "the value" not in shown and "the key" not in shown
