"""Templates that name a field which cannot be there are refused, with the nearest that can."""

from __future__ import annotations

from typing import Any

import pytest

from compiling_kit import build, echo, only, refused, stage

FETCH = stage("fetch", "http_request", {"url": "https://example.org"})
PEOPLE = stage("who", "people")
EACH = stage("each", "foreach", {"items": [1], "loop_stages": ["first", "last"]})


def using(path: str, *stages: Any, **keys: Any) -> Any:
    """The one fault of a stage that reads `path`."""
    return only(refused(*stages, echo("reader", "{{" + path + "}}"), **keys))


@pytest.mark.parametrize(
    "path",
    [
        "upstream.fetch",
        "upstream.fetch.body.anything[3].at.all",
        "upstream.fetch.headers['content-type']",
        "upstream.who.people[0].friends[-1].name",
        "upstream.who.best.friends",
        "upstream.loose.whatever.it.is",
        "upstream.who.people[input.n].age",
    ],
)
def test_what_a_schema_allows_may_be_read(path: str) -> None:
    build(FETCH, PEOPLE, stage("loose", "open_ended"), echo("reader", "{{" + path + "}}"))


@pytest.mark.parametrize("url", ["{{upstream.fetsh.url}}", "{{", "{{nobody}}", "https://{{upstream.fetsh.url}}"])
def test_an_expression_that_is_refused_is_not_judged_by_its_type_as_well(url: str) -> None:
    fault = only(refused(FETCH, stage("reader", "http_request", {"url": url})))
    assert fault.pointer == "$.stages[1].config.url" and "expected" not in fault.reason


def test_an_unknown_field_comes_with_the_nearest() -> None:
    fault = using("upstream.fetch.satus_code", FETCH)
    assert (fault.pointer, fault.nearest) == ("$.stages[1].config.value", "status_code")
    assert "upstream.fetch has no field 'satus_code'" in fault.reason


def test_deeper_levels_are_checked_through_references_and_lists() -> None:
    fault = using("upstream.who.people[0].friends[1].nme", PEOPLE)
    assert fault.nearest == "name" and "upstream.who.people[0].friends[1]" in fault.reason
    assert "is a string: it has no field 'x'" in using("upstream.who.best.name.x", PEOPLE).reason
    assert "is a list: it has no field 'name'" in using("upstream.who.people.name", PEOPLE).reason
    assert "is an object: it has no element [0]" in using("upstream.who.best[0]", PEOPLE).reason
    assert "is a string: it has no field" in using("upstream.fetch.headers.a.b", FETCH).reason


def test_default_does_not_excuse_a_field_that_can_never_be_there() -> None:
    assert using("default(upstream.fetch.bodi, 1)", FETCH).nearest == "body"


def test_fields_of_a_foreach() -> None:
    stages = [EACH, echo("first"), stage("last", "shout", {"text": "x"})]
    for path in ("total_items", "processed_items", "skipped_items", "failed_items", "is_complete", "results"):
        build(*stages, echo("reader", "{{upstream.each." + path + "}}"))
    build(*stages, echo("reader", "{{upstream.each.results[0].text}} {{upstream.each.results[1]['$error'].code}}"))
    assert using("upstream.each.result", *stages).nearest == "results"
    assert using("upstream.each.results[0].txt", *stages).nearest == "text"


def test_a_loop_stage_seen_from_outside_is_a_list() -> None:
    stages = [EACH, echo("first"), stage("last", "shout", {"text": "x"})]
    build(*stages, echo("reader", "{{upstream.last[0].text}} {{len(upstream.last)}}"))
    fault = using("upstream.last.text", *stages)
    assert "outside it, upstream.last is the list" in fault.reason and "upstream.last[0].text" in fault.reason
    assert using("upstream.last[0].txt", *stages).nearest == "text"


def test_nested_loops_give_lists_of_lists() -> None:
    outer = stage("outer", "foreach", {"items": [1], "loop_stages": ["each"]})
    stages = [outer, EACH, echo("first"), stage("last", "shout", {"text": "x"})]
    build(*stages, echo("reader", "{{upstream.last[0][1].text}} {{upstream.outer.results[0].results[0].text}}"))
    assert "upstream.last[0] is the list" in using("upstream.last[0].text", *stages).reason
    assert "upstream.each is the list" in using("upstream.each.results", *stages).reason


def test_fields_of_a_trycatch_and_what_its_bodies_gave() -> None:
    stages = [
        stage("guard", "trycatch", {"try_stages": ["a"], "catch_stages": ["b"]}),
        stage("a", "shout", {"text": "x"}),
        echo("b"),
    ]
    build(*stages, echo("reader", "{{upstream.guard.status}} {{upstream.guard.try_result.text}} {{upstream.a.text}}"))
    assert using("upstream.guard.try_results", *stages).nearest == "try_result"
    assert using("upstream.guard.try_result.txt", *stages).nearest == "text"
    assert using("upstream.a.txt", *stages).nearest == "text"


def test_the_input_is_checked_where_its_schema_lists_properties() -> None:
    closed = {"type": "object", "properties": {"text": {"type": "string"}, "opts": {"$ref": "#/$defs/o"}}}
    closed["$defs"] = {"o": {"type": "object", "properties": {"deep": {"type": "boolean"}}}}
    build(echo("a", "{{input.text}} {{input.opts.deep}} {{input}}"), input_schema=closed)
    assert using("input.txt", input_schema=closed).nearest == "text"
    assert using("input.opts.deeep", input_schema=closed).nearest == "deep"
    build(echo("a", "{{default(input.txt, 1)}}"), input_schema=closed)


def test_an_open_or_unsaid_input_takes_any_field() -> None:
    build(echo("a", "{{input.whatever.it.is}}"))
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": True}
    build(echo("a", "{{input.whatever}}"), input_schema=schema)
    shut = {"type": "object", "properties": {}, "additionalProperties": False}
    assert "no field 'x'" in using("input.x", input_schema=shut).reason
    assert "no field 'x'" in using("default(input.x, 1)", input_schema=shut).reason
