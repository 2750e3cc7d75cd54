"""Who is counted at the door: made-up credentials count against their address, those of one org together."""

from __future__ import annotations

import itertools
import secrets
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.testclient import WebSocketDenialResponse

from flowmason.studio.identity.permissions import Role
from flowmason_serve_apps.studio.guard.counts import Counts
from flowmason_serve_apps.studio.guard.limiting import SharedLimiter
from flowmason_serve_apps.studio.settings import StudioSettings
from studio.kit import Studio, key_of, settings_in, studio_in

RUNS = "/api/v1/runs"


def _made_up(n: int) -> dict[str, str]:
    """The headers of a credential that nobody holds, in one of the shapes that are looked at."""
    token = secrets.token_hex(24)
    return [
        {"Authorization": f"Bearer fm_live_{token}"},
        {"X-API-Key": f"fm_live_{token}"},
        {"Authorization": f"Bearer eyJhbGciOiJFZERTQSJ9.{token}.{token}"},
        {"Authorization": f"Basic {token}"},
    ][n % 4]


def test_whoever_makes_up_credentials_is_counted_as_one_without_any(tmp_path: Path) -> None:
    tight = msgspec.structs.replace(settings_in(tmp_path), requests_per_minute=100)
    with studio_in(tmp_path, tight) as studio:
        asked = 0

        async def counted(credential: str, address: str) -> Any:
            nonlocal asked
            asked += 1
            return await original(credential, address)

        # Known before: it goes on, whoever else comes from its address.
        assert studio.client.get(RUNS, headers=studio.headers()).status_code == 200
        original = studio.services.authenticator.caller
        studio.services.authenticator.caller = counted  # type: ignore[method-assign]
        codes = [studio.client.get(RUNS, headers=_made_up(n)).status_code for n in range(40)]
        assert codes.count(401) <= 6 and set(codes[6:]) == {429}
        assert asked <= 6, "nobody looked up what was made up"
        assert studio.client.get(RUNS).status_code == 429
        assert studio.client.get(RUNS, headers=studio.headers()).status_code == 200
        for n in range(4):
            with pytest.raises(WebSocketDenialResponse) as refused:
                studio.client.websocket_connect("/api/v1/ws/runs", headers=_made_up(n)).__enter__()
            assert refused.value.status_code == 429
        away = {**_made_up(0), "X-Forwarded-For": "203.0.113.9"}
        assert studio.client.get(RUNS, headers=away).status_code == 429, "nobody says for whom they ask"


def test_the_header_of_our_proxy_says_who_asks_by_its_last_entry(tmp_path: Path) -> None:
    tight = msgspec.structs.replace(settings_in(tmp_path), requests_per_minute=100, forwarded_header="x-from")
    with studio_in(tmp_path, tight) as studio:

        def asked(said: str) -> int:
            return studio.client.get(RUNS, headers={"X-From": said}).status_code

        assert [asked("203.0.113.9") for _ in range(8)][-1] == 429
        assert asked("198.51.100.7, 203.0.113.9") == 429, "what somebody sent before our proxy's word"
        assert asked("203.0.113.9, 198.51.100.7") == 401
        assert studio.client.get(RUNS).status_code == 401


def test_a_credential_that_ended_is_made_up_from_then_on(tmp_path: Path) -> None:
    tight = msgspec.structs.replace(settings_in(tmp_path), requests_per_minute=100)
    with studio_in(tmp_path, tight) as studio:
        headers = studio.headers(Role.DEVELOPER)
        key = studio.client.get("/api/v1/auth/whoami", headers=headers).json()["key_id"]
        done = studio.client.delete(f"/api/v1/auth/api-keys/{key}?reason=over", headers=headers)
        assert done.status_code == 204, done.text
        codes = [studio.client.get(RUNS, headers=headers).status_code for _ in range(12)]
        assert codes[0] == 401 and codes[-1] == 429 and codes.count(401) <= 6


def test_all_credentials_of_an_org_are_counted_together(tmp_path: Path) -> None:
    tight = msgspec.structs.replace(settings_in(tmp_path), requests_per_minute=6000, org_requests_per_minute=100)
    with studio_in(tmp_path, tight) as studio:
        keys = [key_of(studio.services.store, studio.org, role) for role in (Role.OWNER, Role.ADMIN, Role.DEVELOPER)]
        codes = []
        for key in itertools.islice(itertools.cycle(keys), 24):
            answer = studio.client.get(RUNS, headers={"X-API-Key": key})
            codes.append(answer.status_code)
        assert codes[:10] == [200] * 10 and codes[-3:] == [429] * 3
        assert int(answer.headers["Retry-After"]) >= 1
        assert studio.client.get(RUNS, headers=studio.other_headers()).status_code == 200


def test_a_socket_is_answered_under_names_of_ours_alone(studio: Studio) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused:
        headers = {**studio.headers(), "Host": "evil.example"}
        studio.client.websocket_connect("/api/v1/ws/runs", headers=headers).__enter__()
    assert refused.value.status_code == 421


_TOKENS = st.text("abcdef0123456789", min_size=1, max_size=8)


@given(tokens=st.lists(_TOKENS, min_size=1, max_size=120), peers=st.integers(1, 3))
@hypothesis_settings(max_examples=60, deadline=None)
async def test_no_choice_of_tokens_gives_an_address_more_than_it_has(tokens: list[str], peers: int) -> None:
    settings = StudioSettings(database_url="", values_url="", requests_per_minute=200)
    counts = Counts(settings, SharedLimiter(None, 1, clock=lambda: 0.0))
    allowed = dict.fromkeys(range(peers), 0)
    for n, token in enumerate(tokens):
        # Each from another address of the same network.
        scope = {"path": RUNS, "client": (f"2001:db8:0:{n % peers}::{n + 1:x}", 1)}
        headers = Headers({"Authorization": f"Bearer {token}"})
        verdict = await counts.take(scope, headers)
        assert verdict is not None
        if verdict.allowed:
            allowed[n % peers] += 1
            counts.learn(scope, headers, 401)
    assert all(count <= 10 for count in allowed.values())
