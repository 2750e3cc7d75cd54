"""Calls of served models over HTTP: in the ledger of the caller's org, and within its budget of a day."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from flowmason.errors import UsageError
from flowmason.ids import OrgId
from flowmason.journal_memory import MemoryJournal
from flowmason.price import Price
from flowmason.slices import Day
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.permissions import Role
from flowmason.studio.roles import ensure_api_role
from flowmason.studio.scope import StudioStore
from flowmason.usage import Limit
from flowmason_serve_apps.llm.app import make_gateway
from flowmason_serve_apps.llm.engines import Body, Card, Chunk, failed
from flowmason_serve_apps.llm.till import Till
from flowmason_serve_apps.studio.app import make_app
from flowmason_serve_apps.studio.settings import StudioSettings
from studio.kit import ACME, HOST, OTHER, people_in, settings_in

USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
ASKED: Body = {"model": "small", "messages": [{"role": "user", "content": "How are you today?"}], "max_tokens": 100}


def piece(text: str, finish: str | None = None) -> Chunk:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "model": "small", "choices": [choice]}


@dataclass
class Scripted:
    """Models that answer as a test says, and note what they were asked."""

    script: list[Chunk | Callable[[], Any]] = field(
        default_factory=lambda: [
            piece("Well, "),
            piece("thanks", "stop"),
            {"object": "chat.completion.chunk", "choices": [], "usage": USAGE},
        ]
    )
    asked: list[Body] = field(default_factory=list)
    about: Card = field(default_factory=lambda: Card("small", "llamacpp"))

    async def answer(self, body: Body) -> AsyncGenerator[Chunk, None]:
        self.asked.append(body)
        for step in self.script:
            if callable(step):
                await step()
            else:
                yield step

    async def cards(self) -> dict[str, Card]:
        return {"small": self.about}

    async def card(self, model: str) -> Card:
        assert model == "small"
        return self.about


@dataclass
class Site:
    models: Scripted
    gateway: TestClient
    studio: TestClient
    keys: dict[Role, str]
    other: dict[Role, str]

    def ask(self, key: str | None = None, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {key or self.keys[Role.DEVELOPER]}"}
        return self.gateway.post("/v1/chat/completions", json={**ASKED, **more}, headers=headers)

    def told(self, path: str, keys: dict[Role, str] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {(keys or self.keys)[Role.ADMIN]}"}
        return self.studio.get(f"/api/v1{path}", headers=headers).json()

    def budget(self, tokens: int | None = None, cost: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {self.keys[Role.ADMIN]}"}
        body = {"max_tokens_per_day": tokens, "max_cost_per_day": cost}
        said = self.studio.put("/api/v1/usage/budget", json=body, headers=headers)
        assert said.is_success, said.text


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings, models = settings_in(tmp_path), Scripted()
    store = StudioStore.open(settings.database_url)
    keys, other = people_in(store, ACME, "acme"), people_in(store, OTHER, "other")
    store.close()
    with _served(models, settings, keys, other) as served:
        yield served


@contextmanager
def _served(
    models: Scripted, settings: StudioSettings, keys: dict[Role, str], other: dict[Role, str]
) -> Iterator[Site]:
    base = f"http://{HOST}"
    with (
        TestClient(make_gateway(models, settings), base_url=base) as gateway,
        TestClient(make_app(settings), base_url=base) as studio,
    ):
        yield Site(models, gateway, studio, keys, other)


def test_a_call_is_in_the_ledger_of_the_callers_org_with_what_the_engine_counted(site: Site) -> None:
    assert site.ask().json()["choices"][0]["message"]["content"] == "Well, thanks"
    with site.gateway.stream(
        "POST", "/v1/chat/completions", json={**ASKED, "stream": True},
        headers={"Authorization": f"Bearer {site.keys[Role.DEVELOPER]}"},
    ) as answer:  # fmt: skip
        assert b"[DONE]" in answer.read()
    (item,) = site.told("/usage")["items"]
    assert (item["pipeline"], item["provider"], item["model"], item["cost"]) == ("", "models", "small", "0")
    assert item["caller"].startswith("key_")
    assert (item["calls"], item["input_tokens"], item["output_tokens"], item["cached_tokens"]) == (2, 22, 6, 4)
    assert item["estimated"] == 0
    assert site.told("/usage", site.other)["items"] == []


def test_what_may_not_fit_in_the_orgs_day_is_refused_before_it_is_asked(site: Site) -> None:
    site.budget(1000)
    assert site.ask().status_code == 200
    stands = site.told("/usage/budget")
    assert (stands["spent_tokens"], stands["reserved_tokens"], stands["held_tokens"]) == (14, 0, 0)
    answer = site.ask(max_tokens=1000)
    assert (answer.status_code, answer.json()["code"]) == (402, "BUDGET_EXCEEDED"), answer.text
    assert "986 tokens are left" in answer.json()["detail"] and answer.json()["error"]["code"] == "budget_exceeded"
    assert len(site.models.asked) == 1
    # Another org has no budget.
    assert site.ask(site.other[Role.DEVELOPER], max_tokens=1000).status_code == 200
    assert site.told("/usage/budget") == stands


def test_under_a_budget_an_answer_has_a_bound_that_the_engine_is_told(site: Site) -> None:
    unbounded = {"model": "small", "messages": ASKED["messages"]}
    site.budget(10_000)
    for keys in (site.other, site.keys):
        headers = {"Authorization": f"Bearer {keys[Role.DEVELOPER]}"}
        assert site.gateway.post("/v1/chat/completions", json=unbounded, headers=headers).status_code == 200
    assert [body.get("max_tokens") for body in site.models.asked] == [None, 4096]


PRICE = Price(Decimal("100"), Decimal("1000"), Decimal("10"), version="served 100/1000/10")


def test_a_declared_price_is_in_the_ledger_and_binds_a_budget_in_dollars(site: Site) -> None:
    site.models.about = Card("small", "llamacpp", price=PRICE)
    site.budget(cost="0.30")
    assert site.ask().status_code == 200
    (item,) = site.told("/usage")["items"]
    assert item["cost"] == "0.00392", "9 tokens read, 2 from the cache, 3 written"
    assert site.told("/usage/budget")["spent_cost"] == "0.00392"
    refused = site.ask(max_tokens=300)
    assert (refused.status_code, refused.json()["code"]) == (402, "BUDGET_EXCEEDED"), refused.text
    assert "$" in refused.json()["detail"] and len(site.models.asked) == 1
    site.models.about = Card("small", "llamacpp")
    assert site.ask(max_tokens=300).status_code == 200, "what costs nothing is not bound by dollars"


def test_under_a_budget_the_context_bounds_an_answer_that_might_not_fit_in_it(site: Site) -> None:
    unbounded = {"model": "small", "messages": ASKED["messages"]}
    headers = {"Authorization": f"Bearer {site.keys[Role.DEVELOPER]}"}
    site.budget(900)
    for context, code in ((400, 200), (2048, 402), (400, 200)):
        site.models.about = Card("small", "vllm", context=context)
        assert site.gateway.post("/v1/chat/completions", json=unbounded, headers=headers).status_code == code
    site.budget(100_000)
    site.models.about = Card("small", "vllm", context=8192)
    assert site.gateway.post("/v1/chat/completions", json=unbounded, headers=headers).status_code == 200
    assert [body.get("max_tokens") for body in site.models.asked] == [None, None, 4096]


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 2048 tokens. However, you requested 4196 tokens.",
        "max_tokens=4096 cannot be greater than max_model_len=2048. Please request fewer output tokens.",
    ],
)
def test_a_call_that_is_longer_than_the_model_takes_is_refused_by_name_and_told_what_to_set(
    site: Site, said: str
) -> None:
    site.models.script = [failed(400, said, "BadRequestError")]
    answer = site.ask()
    assert (answer.status_code, answer.json()["code"]) == (400, "CONTEXT_EXCEEDED")
    assert "max_tokens" in answer.json()["help"] and answer.json()["error"]["code"] == "context_exceeded"


def test_a_call_that_is_refused_by_the_engine_costs_nothing_and_one_that_breaks_off_is_estimated(site: Site) -> None:
    site.budget(1000)
    site.models.script = [failed(400, "no such thing", "invalid_request_error")]
    assert site.ask().status_code == 400
    site.models.script = [piece("twenty characters..."), failed(500, "it died", "api_error")]
    assert site.ask().status_code == 500
    (item,) = site.told("/usage")["items"]
    assert (item["calls"], item["failed"], item["estimated"]) == (1, 1, 1)
    assert (item["input_tokens"], item["output_tokens"]) == (5, 5)
    stands = site.told("/usage/budget")
    assert (stands["spent_tokens"], stands["reserved_tokens"], stands["held_tokens"]) == (10, 0, 0)


@pytest.mark.postgres
def test_on_postgresql_the_ledger_is_written_as_the_owner_and_the_rest_done_as_the_api(
    postgres_url: str, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(settings_in(tmp_path), database_url=postgres_url)
    store = StudioStore.open(postgres_url)
    keys, other = people_in(store, ACME, "acme"), people_in(store, OTHER, "other")
    store.close()
    ensure_api_role(postgres_url)
    models = Scripted()
    with _served(models, settings, keys, other) as site:
        site.budget(1000)
        assert site.ask().status_code == 200 and site.ask(max_tokens=1000).status_code == 402
        (item,) = site.told("/usage")["items"]
        assert (item["calls"], item["input_tokens"]) == (1, 11)
        assert site.told("/usage", site.other)["items"] == []
        assert site.told("/usage/budget")["spent_tokens"] == 14


CALLER = Caller(
    org_id=OrgId("acme"), user_id="user_1", name="", role=Role.DEVELOPER, permissions=frozenset(), key_id="key_1"
)


async def day(journal: MemoryJournal) -> Day:
    found = await journal.budget_day(OrgId("acme"), "1970-01-01")
    assert found is not None
    return found


async def test_who_leaves_pays_by_our_own_count_and_what_was_held_meanwhile_waits() -> None:
    journal, models, forever = MemoryJournal(), Scripted(), asyncio.Event()
    journal.daily[OrgId("acme")] = Limit(None, 1000)
    models.script = [piece("twelve chars"), forever.wait]
    till = Till(journal, lambda: 5, waits_s=0.0)
    first = till.answered(models, ASKED, CALLER)
    assert (await anext(first))["choices"]
    held = (await day(journal)).reserved.tokens
    assert 400 < held < 600
    with pytest.raises(UsageError, match="left until others settle") as refused:
        await anext(till.answered(models, {**ASKED, "max_tokens": 500}, CALLER))
    assert refused.value.failure.code == "RATE_LIMITED"
    assert refused.value.failure.retry_after_ms == 1000
    await first.aclose()
    await till.close()
    (found,) = await journal.usage(OrgId("acme"), "1970-01-01", "1970-01-01")
    assert (found.caller, found.calls, found.estimated) == ("key_1", 1, 1)
    assert (found.input_tokens, found.output_tokens) == (5, 3)
    assert ((await day(journal)).taken.tokens, await journal.beats()) == (8, {})


async def test_a_call_waits_for_what_others_leave_of_what_they_hold() -> None:
    journal, models, goes_on = MemoryJournal(), Scripted(), asyncio.Event()
    journal.daily[OrgId("acme")] = Limit(None, 1000)
    models.script = [piece("one"), goes_on.wait, piece(" two", "stop"), {"choices": [], "usage": USAGE}]
    till = Till(journal, lambda: 5, waits_s=60.0)
    first = till.answered(models, ASKED, CALLER)
    await anext(first)
    other = till.answered(models, {**ASKED, "max_tokens": 500}, CALLER)
    second = asyncio.ensure_future(anext(other))
    assert not (await asyncio.wait([second], timeout=0.1))[0]
    goes_on.set()
    assert len([chunk async for chunk in first]) == 2
    async with asyncio.timeout(30):
        assert (await second)["choices"]
    await other.aclose()
    await till.close()


async def test_calls_at_once_at_an_endpoint_that_was_taken_for_dead_find_it_under_one_new_name() -> None:
    held = itertools.count()

    async def takes_time(name: str, _: Any) -> None:
        if name == "hold_call":  # no two of them find out at once
            await asyncio.sleep(0.005 * next(held))

    journal, models = MemoryJournal(before_commit=takes_time), Scripted()
    journal.daily[OrgId("acme")] = Limit(None, 10_000)
    till = Till(journal, lambda: 5)

    async def ask() -> None:
        assert [chunk async for chunk in till.answered(models, ASKED, CALLER)]

    await ask()
    ((name, (beat, _, _)),) = (await journal.beats()).items()
    assert await journal.bury(name, beat)
    await asyncio.gather(*(ask() for _ in range(4)))
    assert len(await journal.beats()) == 1
    await till.close()
    assert await journal.beats() == {} and (await day(journal)).taken.tokens == 5 * 14


async def test_an_endpoint_that_was_taken_for_dead_goes_on_under_another_name() -> None:
    journal, models = MemoryJournal(), Scripted()
    journal.daily[OrgId("acme")] = Limit(None, 10_000)
    till = Till(journal, lambda: 5)

    async def ask() -> None:
        assert [chunk async for chunk in till.answered(models, ASKED, CALLER)]

    await ask()
    ((name, (beat, _, _)),) = (await journal.beats()).items()
    assert name.startswith("gate_") and await journal.bury(name, beat)
    await ask()
    ((again, _),) = (await journal.beats()).items()
    assert again.startswith("gate_") and again != name
    await till.close()
    assert (await day(journal)).taken.tokens == 28
