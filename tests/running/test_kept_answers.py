"""Answers that are given again: only where a stage wants it, only to the same request, only within an org."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.answers_fs import Answers
from flowmason.errors import Code, ProviderError, Retry
from flowmason.ids import Digest, OrgId, sha256
from flowmason.journal_memory import MemoryJournal
from flowmason.model import Message, ModelRequest, ModelResponse, OnDelta, ToolCall
from flowmason.region.answers import KeptAnswers, answer_key
from flowmason.report import FROM_CACHE
from flowmason.retention import sweep
from flowmason.secrets import Masker
from flowmason.usage import CallEnd
from running.kit import Engine, Result, pipe, stage
from running.spending import Biller, calls_of, spending_engine

Make = Callable[..., Engine]
DAY = {"cache_s": 24 * 3600}


class Counted(Biller):
    """Says which of its answers it is."""

    finish = "stop"

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        response = await super().generate(request, on_delta)
        return msgspec.structs.replace(response, content=f"answer {len(self.asked)}", finish_reason=self.finish)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Engine] = []

    def engine(*providers: Biller) -> Engine:
        made.append(spending_engine(tmp_path, *providers))
        return made[-1]

    yield engine
    for each in made:
        await each.executor.close()


def ask(prompt: str = "hello", settings: dict[str, Any] = DAY, **own: Any) -> dict[str, Any]:
    return pipe(stage("a", "ask", prompt=prompt, llm_settings=settings, **own))


def text(found: Result) -> Any:
    assert found.status == "completed", found.error
    return found.stages["a"].output["text"]


def ends(found: Result) -> list[str]:
    return [entry.call.end for entry in calls_of(found)]


async def test_the_same_request_is_answered_again_without_asking_and_the_run_says_so(make: Make) -> None:
    provider = Counted()
    engine = make(provider)
    first, second = await engine.run(ask()), await engine.run(ask())
    assert text(first) == text(second) == "answer 1" and len(provider.asked) == 1
    assert ends(first) == [CallEnd.ANSWERED] and ends(second) == [CallEnd.CACHED]
    assert second.usage.calls == 0 and second.usage.cost_nanodollars == 0
    assert [(each.provider, each.end) for each in second.stages["a"].models] == [("biller", "cached")]
    told = [line for report in second.reports for line in report.logs if line.message == FROM_CACHE]
    assert len(told) == 1 and told[0].fields["given_at"] > 0
    assert [delta.text for report in second.reports for delta in report.deltas] == ["answer 1"]


async def test_without_a_wish_every_call_is_made(make: Make) -> None:
    provider = Counted()
    engine = make(provider)
    await engine.run(ask())
    assert text(await engine.run(ask(settings={}))) == "answer 2"
    assert text(await engine.run(ask())) == "answer 1"


async def test_an_org_gives_kept_answers_to_stages_that_say_nothing_and_a_stage_can_say_never(make: Make) -> None:
    provider = Counted()
    engine, org = make(provider), {"kept_answers_s": 3600}
    await engine.run(ask(settings={}), options=org)
    assert text(await engine.run(ask(settings={}), options=org)) == "answer 1"
    assert text(await engine.run(ask(settings={"cache_s": 0}), options=org)) == "answer 2"
    assert text(await engine.run(ask(), options=org)) == "answer 1"


async def test_where_an_org_has_none_no_answer_is_given_again_nor_kept(make: Make) -> None:
    provider = Counted()
    engine = make(provider)
    for n in (1, 2):
        assert text(await engine.run(ask(), options={"kept_answers_s": 0})) == f"answer {n}"
    assert text(await engine.run(ask())) == "answer 3"


@pytest.mark.parametrize(
    "other",
    [ask("hallo"), *(ask(settings={**DAY, **more}) for more in ({"model": "n"}, {"temperature": 0.5}, {"top_p": 0.5}))],
)
async def test_another_request_is_asked(make: Make, other: dict[str, Any]) -> None:
    provider = Counted()
    engine = make(provider)
    await engine.run(ask())
    assert text(await engine.run(other)) == "answer 2"


async def test_a_kept_answer_costs_nothing_of_a_budget(make: Make) -> None:
    provider = Counted()
    engine = make(provider)
    await engine.run(ask())
    found = await engine.run(ask(), options={"budget": {"max_cost": "0.0000001"}})
    assert text(found) == "answer 1" and ends(found) == [CallEnd.CACHED]


async def test_an_answer_that_was_cut_off_is_not_kept(make: Make) -> None:
    provider = Counted()
    provider.finish = "length"
    engine = make(provider)
    await engine.run(ask())
    assert text(await engine.run(ask())) == "answer 2"


async def test_a_repeated_attempt_asks_anew(make: Make) -> None:
    provider = Counted(
        fails=lambda n: ProviderError("busy", code=Code.CONNECTIVITY, retry=Retry.NOW) if n == 2 else None
    )
    engine = make(provider)
    assert text(await engine.run(ask())) == "answer 1"
    retry = {"max_retries": 1, "initial_delay_ms": 100, "max_delay_ms": 1000}
    found = await engine.run(ask(then="more", retry_config=retry))
    assert text(found) == "answer 3"  # the first attempt was given the kept answer, and failed afterwards
    assert ends(found) == [CallEnd.CACHED, CallEnd.FAILED, CallEnd.ANSWERED, CallEnd.ANSWERED]
    assert text(await engine.run(ask())) == "answer 3"


_REQUESTS = st.builds(
    ModelRequest,
    prompt=st.text(max_size=5),
    messages=st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), st.text(max_size=3)), max_size=2).map(
        tuple
    ),
    system_prompt=st.none() | st.text(max_size=3),
    model=st.none() | st.sampled_from(["m", "n"]),
    temperature=st.none() | st.floats(0, 2),
    max_tokens=st.none() | st.integers(1, 9),
    top_p=st.none() | st.floats(0, 1),
    stop_sequences=st.lists(st.text(max_size=2), max_size=2).map(tuple),
    json_schema=st.none() | st.just({"type": "object"}) | st.just({"type": "array"}),
    timeout_s=st.none() | st.floats(1, 9),
    prompt_cache=st.none() | st.just("x"),
)


@given(_REQUESTS, st.none() | _REQUESTS, st.sampled_from(["a", "b"]), st.sampled_from(["a", "b"]))
def test_requests_are_the_same_exactly_where_nothing_differs_that_changes_the_answer(
    one: ModelRequest, another: ModelRequest | None, org: str, other: str
) -> None:
    two = one if another is None else another

    def whole(request: ModelRequest) -> ModelRequest:
        return msgspec.structs.replace(request, model=request.model or "m", timeout_s=None, prompt_cache=None)

    provider = Biller()
    keys = [answer_key(OrgId(name), provider, {}, request) for name, request in ((org, one), (other, two))]
    assert (keys[0] == keys[1]) == (org == other and whole(one) == whole(two))
    assert answer_key(OrgId(org), provider, {"temperature": 1}, one) != keys[0]
    assert answer_key(OrgId(org), Biller("else"), {}, one) != keys[0]


@pytest.fixture(params=["folder", "memory"])
def answers(request: pytest.FixtureRequest, tmp_path: Path) -> Answers:
    return Answers(str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}")


KEY = Digest(sha256(b"key"))


def test_an_org_never_gets_another_ones_answer(answers: Answers) -> None:
    answers.put(OrgId("a"), KEY, b"of a")
    assert answers.get(OrgId("b"), KEY, 60) is None
    answers.put(OrgId("b"), KEY, b"of b")
    assert (answers.get(OrgId("a"), KEY, 60), answers.get(OrgId("b"), KEY, 60)) == (b"of a", b"of b")
    assert answers.get(OrgId("../a"), KEY, 60) is None


def test_what_is_too_old_or_damaged_is_no_answer(answers: Answers) -> None:
    answers.put(OrgId("a"), KEY, b"of a")
    assert answers.get(OrgId("a"), KEY, -1) is None
    path = answers._path(OrgId("a"), KEY)
    answers._fs.pipe_file(path, answers._fs.cat_file(path)[:-1])
    assert answers.get(OrgId("a"), KEY, 60) is None
    assert answers.forget(OrgId("b"), 0) == 0 and answers.forget(OrgId("a"), 0) == 1


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [('{"a": "open"}', True), ('{"a": "se\\"cret"}', False), ('{"a": "se\\u0022cret"}', False), ('{"a"', False)],
)
async def test_calls_of_tools_are_kept_unless_they_hold_a_secret_or_cannot_be_read(
    answers: Answers, arguments: str, kept: bool
) -> None:
    response = ModelResponse("", "m", "tool_calls", tool_calls=(ToolCall("1", "t", arguments),))
    keeping = KeptAnswers(answers, OrgId("a"), Masker(['se"cret']))
    await keeping.keep(KEY, response, 0)
    found = await keeping.find(KEY, 60)
    assert (found is not None and found.tool_calls == response.tool_calls) is kept
    assert (answers.get(OrgId("a"), KEY, 60) is not None) is kept


async def test_a_sweep_of_values_leaves_answers_that_are_not_too_old(make: Make) -> None:
    provider = Counted()
    engine = make(provider)
    await engine.run(ask())
    await sweep(MemoryJournal(), engine.values, OrgId("local"), untouched_s=0)
    assert text(await engine.run(ask())) == "answer 1"


async def test_calls_of_one_stage_ask_the_provider_to_keep_their_beginning_under_one_name(make: Make) -> None:
    provider = Counted()
    engine = make(provider)
    for prompt in ("one", "two"):
        await engine.run(ask(prompt, {"prompt_cache": True}))
    await engine.run(ask("three", {}))
    names = [request.prompt_cache for request in provider.asked]
    assert names[0] and names[0] == names[1] and names[2] is None
