"""Every route, as nobody, as each role, and as another org. A route that is not in `ROUTES` fails the first test."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from flowmason.studio import schema
from flowmason.studio.identity.permissions import ROLES, Permission, Role
from flowmason_serve_apps.studio.guard.callers import OPEN, OPEN_PATHS, permission_of, unguarded
from studio.conducting import conducting, ended, hello, made, started
from studio.kit import Studio, settings_in, studio_in

P = Permission


class Wall(NamedTuple):
    """What stands around a route."""

    permission: Permission
    body: Any = None
    """A body with which the handler gets as far as looking for the thing that the path names."""
    others: tuple[int, ...] = (404,)
    """What another org gets for this org's thing; where the path names none, what it gets for itself."""
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}


OWN = (200, 201, 202, 204)
_MATCH = {"If-Match": '"1"'}
_DOCUMENT = hello("walled", version="2.0.0")
ROUTES: dict[str, Wall] = {
    "auth_logout": Wall(P.SELF, others=(403,)),
    "auth_revoke": Wall(P.SELF, {"token": "nothing"}, OWN),
    "auth_switch": Wall(P.SELF, {"org_id": "nothing"}, (403,)),
    "password_change": Wall(P.SELF, {"old": "x", "new": "y"}, (403,)),
    "mcp": Wall(P.SELF, {}, (400,)),
    "whoami": Wall(P.SELF, None, OWN),
    "tickets_create": Wall(P.SELF, None, OWN),
    "api_keys_list": Wall(P.KEYS_READ, None, OWN),
    "api_keys_create": Wall(P.KEYS_WRITE, {}, (422,)),
    "api_keys_rotate": Wall(P.KEYS_WRITE),
    "api_keys_revoke": Wall(P.KEYS_WRITE),
    "orgs_list": Wall(P.SELF, None, OWN),
    "orgs_create": Wall(P.ORG_CREATE, {}, (422,)),
    "orgs_get": Wall(P.ORG_READ, None, OWN),
    "orgs_update": Wall(P.ORG_WRITE, {}, OWN),
    "users_create": Wall(P.MEMBERS_WRITE, {}, (422,)),
    "members_list": Wall(P.MEMBERS_READ, None, OWN),
    "members_create": Wall(P.MEMBERS_WRITE, {}, (422,)),
    "members_update": Wall(P.MEMBERS_WRITE, {"role": "viewer"}),
    "members_delete": Wall(P.MEMBERS_WRITE),
    "audit_list": Wall(P.AUDIT_READ, None, OWN),
    "audit_verify": Wall(P.AUDIT_READ, None, OWN),
    "pipelines_create": Wall(P.PIPELINES_WRITE, {}, (422,)),
    "pipelines_list": Wall(P.PIPELINES_READ, None, OWN),
    "pipelines_by_name": Wall(P.PIPELINES_READ),
    "pipelines_validate_inline": Wall(P.PIPELINES_READ, {}, (422,)),
    "pipelines_fix_inline": Wall(P.PIPELINES_READ, {}, (422,)),
    "pipelines_get": Wall(P.PIPELINES_READ),
    "pipelines_update": Wall(P.PIPELINES_WRITE, _DOCUMENT, headers=_MATCH),
    "pipelines_delete": Wall(P.PIPELINES_WRITE, headers=_MATCH),
    "pipelines_validate": Wall(P.PIPELINES_READ),
    "pipelines_clone": Wall(P.PIPELINES_WRITE, query={"new_name": "other"}),
    "pipelines_publish": Wall(P.PIPELINES_PUBLISH, {"test_run_id": "nothing"}, (400,), headers=_MATCH),
    "pipelines_unpublish": Wall(P.PIPELINES_PUBLISH, headers=_MATCH),
    "pipelines_versions": Wall(P.PIPELINES_READ),
    "pipelines_version": Wall(P.PIPELINES_READ),
    "pipelines_run": Wall(P.RUNS_START, {"input": {}}),
    "pipelines_test": Wall(P.RUNS_START, {}),
    "run_forecast": Wall(P.RUNS_START, {"pipeline": "walled", "input": {}}),
    "run_by_name": Wall(P.RUNS_START, {"pipeline": "walled", "input": {}}),
    "blobs_create": Wall(P.RUNS_START, {}, OWN),
    "registry_components": Wall(P.REGISTRY_READ, None, OWN),
    "registry_component": Wall(P.REGISTRY_READ),
    "registry_component_delete": Wall(P.REGISTRY_WRITE),
    "registry_deploy": Wall(P.REGISTRY_WRITE, {}, (400, 415, 422)),
    "registry_packages": Wall(P.REGISTRY_READ, None, OWN),
    "registry_package_delete": Wall(P.REGISTRY_WRITE),
    "registry_refresh": Wall(P.REGISTRY_WRITE, None, OWN),
    "registry_stats": Wall(P.REGISTRY_READ, None, OWN),
    "runs_list": Wall(P.RUNS_READ, None, OWN),
    "runs_get": Wall(P.RUNS_READ),
    "runs_trace": Wall(P.RUNS_READ),
    "runs_cancel": Wall(P.RUNS_CONTROL),
    "runs_pause": Wall(P.RUNS_CONTROL),
    "runs_resume": Wall(P.RUNS_CONTROL),
    "runs_delete": Wall(P.RUNS_DELETE),
    "runs_logs": Wall(P.RUNS_READ),
    "runs_value": Wall(P.RUNS_READ),
    "runs_plan": Wall(P.RUNS_READ),
    "runs_events": Wall(P.RUNS_READ),
    "runs_stream": Wall(P.RUNS_READ),
    "runs_why": Wall(P.RUNS_READ),
    "metrics": Wall(P.STATS_READ, None, OWN),
    "stats": Wall(P.STATS_READ, None, OWN),
    "usage": Wall(P.STATS_READ, None, OWN),
    "usage_budget": Wall(P.STATS_READ, None, OWN),
    "usage_budget_set": Wall(P.ORG_WRITE, {}, OWN),
    "debug_run": Wall(P.DEBUG_CONTROL, {}, (422,)),
    "debug_breakpoints": Wall(P.DEBUG_CONTROL, {"breakpoints": []}),
    "debug_exceptions": Wall(P.DEBUG_CONTROL, {"filters": []}),
    "debug_pause": Wall(P.DEBUG_CONTROL),
    "debug_continue": Wall(P.DEBUG_CONTROL),
    "debug_resume": Wall(P.DEBUG_CONTROL),
    "debug_step": Wall(P.DEBUG_CONTROL, {}),
    "debug_stop": Wall(P.DEBUG_CONTROL),
    "debug_state": Wall(P.RUNS_READ),
    "debug_exception_info": Wall(P.RUNS_READ),
    "debug_prompt": Wall(P.RUNS_READ),
    "debug_rerun": Wall(P.DEBUG_CONTROL, {"user_prompt": "x"}),
    "debug_evaluate": Wall(P.DEBUG_CONTROL, {"expressions": ["1"]}),
    "secrets_list": Wall(P.SECRETS_READ, None, OWN),
    "secrets_set": Wall(P.SECRETS_WRITE, {"value": "theirs, in their own org"}, OWN),
    "secrets_delete": Wall(P.SECRETS_WRITE, others=OWN),  # the one that they have just set themselves
    "secrets_rotate_keys": Wall(P.SECRETS_WRITE, None, OWN),
    "storage": Wall(P.STATS_READ, None, OWN),
    "storage_retention": Wall(P.STATS_READ, None, OWN),
    "storage_answers": Wall(P.STATS_READ, None, OWN),
    "storage_answers_set": Wall(P.ORG_WRITE, {}, OWN),
    "storage_answers_clear": Wall(P.ORG_WRITE, None, OWN),
    "storage_retention_set": Wall(P.ORG_WRITE, {}, (200, 422)),
}
"""Operation id → wall. Who adds a route adds a line."""
SOCKETS = {"runs_socket": P.RUNS_READ}


class Found(NamedTuple):
    """A route of the application."""

    name: str
    method: str
    path: str


class Walled(NamedTuple):
    """A Studio with something of every kind in `org`, and nothing in the other one."""

    studio: Studio
    things: dict[str, str]
    routes: list[Found]

    def ask(self, route: Found, headers: Mapping[str, str], things: Mapping[str, str]) -> Any:
        """Send a request to a route about these things."""
        path = re.sub(r"\{(\w+)(?::\w+)?\}", lambda part: things.get(part[1], "nothing"), route.path)
        wall = ROUTES.get(route.name)
        body = {} if wall is None or wall.body is None or things is NOTHING else wall.body
        more, query = ({}, {}) if wall is None else (wall.headers, wall.query)
        with_body = route.method in ("POST", "PUT", "PATCH") and not (wall is not None and wall.body is None)
        return self.studio.client.request(
            route.method, path, params=query, json=body if with_body else None, headers={**more, **headers}
        )


NOTHING: dict[str, str] = {"digest": "sha256:" + "0" * 64}


@pytest.fixture(scope="module")
def walled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walled]:
    """The Studio that all these tests ask."""
    folder = tmp_path_factory.mktemp("walled")
    patch = pytest.MonkeyPatch()
    patch.setenv("FLOWMASON_HOME", str(folder))
    with patch.context(), studio_in(folder) as studio, conducting(settings_in(folder)):
        pipeline = made(studio, hello("walled"))
        run = started(studio, pipeline["id"], {"who": "walled"})
        assert ended(studio, run["id"])["status"] == "completed"
        secret = studio.client.put("/api/v1/secrets/walled", json={"value": "behind it"}, headers=studio.headers())
        assert secret.status_code == 200, secret.text
        with studio.services.store.scope(studio.org, writing=False) as scope:
            key = scope.find(schema.api_keys, limit=1)[0]["key_id"]
            member = scope.find(schema.members, schema.members.c.role == "developer", limit=1)[0]["member_id"]
        things = {
            "pipeline_id": pipeline["id"],
            "run_id": run["id"],
            "plan_id": run["plan"],
            "key_id": key,
            "member_id": member,
            "name": "walled",
            "version": "1.0.0",
            "path": "greet",
            **NOTHING,
        }
        yield Walled(studio, things, list(_routes(studio)))
    patch.undo()


def _routes(studio: Studio) -> Iterator[Found]:
    for each in iter_route_contexts(studio.app.routes):
        route = each.original_route
        if isinstance(route, APIRoute) and route.operation_id not in OPEN:
            for method in sorted(route.methods or ()):
                yield Found(str(route.operation_id), method, str(each.path))


def test_every_route_is_written_down_with_its_permission(walled: Walled) -> None:
    app = walled.studio.app
    assert unguarded(app) == []
    demanded = {}
    for each in iter_route_contexts(app.routes):
        route = each.original_route
        name = getattr(route, "operation_id", None) or getattr(route, "name", "")
        if str(each.path) not in OPEN_PATHS and name not in OPEN:
            demanded[name] = permission_of(route)
    assert demanded == {**{name: wall.permission for name, wall in ROUTES.items()}, **SOCKETS}


def test_nobody_gets_nothing(walled: Walled) -> None:
    for route in walled.routes:
        answer = walled.ask(route, {}, walled.things)
        assert answer.status_code == 401, f"{route}: {answer.status_code} {answer.text}"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_what_the_table_says_and_nothing_else(walled: Walled, role: Role) -> None:
    for route in walled.routes:
        answer = walled.ask(route, walled.studio.headers(role), NOTHING)
        lacks = answer.status_code == 403 and "needs the permission" in answer.json()["detail"]
        allowed = ROUTES[route.name].permission in ROLES[role]
        assert lacks is not allowed, f"{role} at {route}: {answer.status_code} {answer.text}"
        assert answer.status_code != 401 and answer.status_code < 500, f"{route}: {answer.text}"


def test_another_org_sees_none_of_it(walled: Walled) -> None:
    studio = walled.studio
    hidden = [studio.org, *(walled.things[name] for name in ("pipeline_id", "run_id", "key_id", "member_id"))]
    for route in walled.routes:
        answer = walled.ask(route, studio.other_headers(), walled.things)
        assert answer.status_code in ROUTES[route.name].others, f"{route}: {answer.status_code} {answer.text}"
        shown = [each for each in hidden if each in answer.text.replace(str(answer.request.url.path), "")]
        named = {each for each in shown if each not in str(answer.request.url)}
        assert not named, f"{route} shows {named}: {answer.text}"
    for path in (f"pipelines/{walled.things['pipeline_id']}", f"runs/{walled.things['run_id']}", "secrets"):
        assert studio.client.get(f"/api/v1/{path}", headers=studio.headers()).status_code == 200
    assert studio.client.get("/api/v1/secrets", headers=studio.headers()).json()["items"][0]["version"] == 1


def test_a_viewer_changes_nothing(walled: Walled) -> None:
    writing = [
        route for route in walled.routes if not str(ROUTES[route.name].permission).endswith(".read")
    ]  # fmt: skip
    assert len(writing) > 30
    for route in writing:
        if ROUTES[route.name].permission is P.SELF:
            continue
        answer = walled.ask(route, walled.studio.headers(Role.VIEWER), walled.things)
        assert answer.status_code == 403, f"{route}: {answer.status_code}"
