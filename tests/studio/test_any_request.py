"""Requests made up from the OpenAPI document, by its own rules and against them: never an error of ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from flowmason.studio.identity.permissions import Role
from flowmason_actors.processes import free_port
from studio.kit import settings_in, studio_in

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
"""Of answers that are no errors: those have the shape of all errors, whatever the document says of one route."""
LEFT_OUT = ["runs_stream", "auth_logout", "api_keys_revoke", "api_keys_rotate", "members_delete", "members_update"]
"""A stream that is followed to the end of a run, and what would take the caller's own rights away."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of a Studio that listens on loopback, and the headers of its owner."""
    folder = tmp_path_factory.mktemp("any")
    patch = pytest.MonkeyPatch()
    patch.setenv("FLOWMASON_HOME", str(folder))
    endless = {"requests_per_minute": 10**9, "sign_ins_per_minute": 10**9}
    with studio_in(folder, msgspec.structs.replace(settings_in(folder), **endless)) as studio:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(studio.app, port=port, lifespan="off", log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.01)
        headers = studio.headers(Role.OWNER)
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/api/v1/openapi.json"), headers
        server.should_exit = True
        thread.join(10)
    patch.undo()


def test_no_request_is_answered_by_an_error_of_ours(api: Any) -> None:
    schema, headers = api
    tried = agreed = 0
    for found in schema.exclude(operation_id=LEFT_OUT).get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=6,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(case=operation.as_strategy())
        def one(case: Any) -> None:
            nonlocal tried, agreed
            answer = case.call(headers=headers)
            tried += 1
            told = f"{case.method} {case.formatted_path}: {answer.status_code} {answer.text}"
            assert answer.status_code < 500, told
            if answer.status_code < 300:
                agreed += 1
                case.validate_response(answer, checks=CHECKS)

        one()
    assert tried > 200 and agreed > 20
