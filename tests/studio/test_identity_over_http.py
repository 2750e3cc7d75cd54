"""Who somebody is, over HTTP: the first owner, sign-in, tokens, passwords, keys, members, the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from flowmason.studio import schema
from flowmason.studio.identity import bootstrap, credentials
from flowmason.studio.identity.permissions import Role
from flowmason.studio.scope import StudioStore
from studio.conducting import hello, made, started
from studio.kit import Studio, settings_in, studio_in

PASSWORD = "correct horse battery"
EMAIL = "ada@example.org"


class Post:
    """A mailer that keeps what it was given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def send(self, to: str, subject: str, text: str) -> None:
        self.sent.append((to, text))

    def token(self) -> str:
        """The reset token in the last mail."""
        return next(word for word in self.sent[-1][1].split() if word.startswith(credentials.RESET))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def signed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[Studio, dict[str, Any]]]:
    """A Studio whose owner was made by the bootstrap token, with a password; on PostgreSQL behind the second wall."""
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path))
    settings = settings_in(tmp_path)
    if request.param == "postgres":
        settings = msgspec.structs.replace(settings, database_url=request.getfixturevalue("postgres_url"))
    with studio_in(tmp_path, settings) as studio:
        studio.services.mailer = Post()
        store = StudioStore.open(studio.services.settings.database_url)
        token = bootstrap.issue_bootstrap_token(store, studio.services.now())
        store.close()
        body = {
            "token": token,
            "org_name": "Engines",
            "org_slug": "engines",
            "email": EMAIL,
            "name": "Ada",
            "password": PASSWORD,
        }
        answer = studio.client.post("/api/v1/auth/bootstrap", json=body)
        assert answer.status_code == 201, answer.text
        again = studio.client.post("/api/v1/auth/bootstrap", json={**body, "org_slug": "other"})
        assert again.status_code == 409
        yield studio, answer.json()


def _login(studio: Studio, password: str = PASSWORD, **more: str) -> Any:
    return studio.client.post("/api/v1/auth/login", json={"email": EMAIL, "password": password, **more})


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _me(studio: Studio, token: str) -> Any:
    return studio.client.get("/api/v1/auth/whoami", headers=_bearer(token))


def test_a_bootstrap_token_that_was_not_printed_makes_nobody_an_owner(tmp_path: Path) -> None:
    with studio_in(tmp_path) as studio:
        body = {"token": "fm_bootstrap_guess", "org_name": "X", "org_slug": "x", "email": EMAIL, "name": "X"}
        assert studio.client.post("/api/v1/auth/bootstrap", json=body).status_code == 403


def test_the_first_owner_calls_with_a_key_and_with_an_access_token(
    signed_up: tuple[Studio, dict[str, Any]],
) -> None:
    studio, first = signed_up
    by_key = _me(studio, first["api_key"]).json()
    assert (by_key["org_slug"], by_key["email"], by_key["role"]) == ("engines", EMAIL, "owner")
    pair = _login(studio).json()
    by_token = _me(studio, pair["access_token"]).json()
    assert by_token["session_id"] and by_token["org_id"] == by_key["org_id"]
    assert studio.client.get("/api/v1/pipelines", headers=_bearer(pair["access_token"])).status_code == 200


def test_wrong_passwords_and_unknown_people_get_the_same_answer(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, _ = signed_up
    wrong = _login(studio, "not the password")
    unknown = studio.client.post("/api/v1/auth/login", json={"email": "no@example.org", "password": PASSWORD})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json()["detail"] == unknown.json()["detail"]


def test_whoever_guesses_is_slowed_down(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, _ = signed_up
    # The clock stands: a lock of a second is not over by the next attempt, however slow the machine is.
    studio.services.now = partial(int, studio.services.now())
    answers = [_login(studio, f"wrong {n} again") for n in range(7)]
    locked = answers[-1]
    assert locked.status_code == 429 and int(locked.headers["Retry-After"]) >= 1
    assert _login(studio).status_code == 429


def test_a_refresh_token_works_once_and_its_second_use_ends_the_session(
    signed_up: tuple[Studio, dict[str, Any]],
) -> None:
    studio, _ = signed_up
    pair = _login(studio).json()

    def refresh(token: str) -> Any:
        return studio.client.post("/api/v1/auth/refresh", json={"refresh_token": token})

    second = refresh(pair["refresh_token"])
    assert second.status_code == 200
    assert refresh(pair["refresh_token"]).status_code == 401
    studio.services.authenticator.forget()
    assert _me(studio, second.json()["access_token"]).status_code == 401
    assert refresh(second.json()["refresh_token"]).status_code == 401


def test_signing_out_ends_the_access_token(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, first = signed_up
    pair = _login(studio).json()
    assert studio.client.post("/api/v1/auth/logout", headers=_bearer(pair["access_token"])).status_code == 204
    assert _me(studio, pair["access_token"]).status_code == 401
    assert studio.client.post("/api/v1/auth/logout", headers=_bearer(first["api_key"])).status_code == 403


def test_a_token_with_a_changed_letter_is_refused(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, _ = signed_up
    access = _login(studio).json()["access_token"]
    head, body, sign = access.split(".")
    for forged in (f"{head}.{body[:-2]}AA.{sign}", f"{head}.{body}.", f"eyJhbGciOiJub25lIn0.{body}.", "a.b.c"):
        assert _me(studio, forged).status_code == 401


def test_a_forgotten_password_is_set_by_mail_once(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, _ = signed_up
    post: Any = studio.services.mailer
    pair = _login(studio).json()
    for email in (EMAIL, "no@example.org"):
        assert studio.client.post("/api/v1/auth/password/forgot", json={"email": email}).status_code == 202
    assert [to for to, _ in post.sent] == [EMAIL]
    token, new = post.token(), "another long password"
    assert (
        studio.client.post("/api/v1/auth/password/reset", json={"token": token, "password": "short"}).status_code == 422
    )
    reset = {"token": token, "password": new}
    assert studio.client.post("/api/v1/auth/password/reset", json=reset).status_code == 204
    assert studio.client.post("/api/v1/auth/password/reset", json=reset).status_code == 422
    assert _login(studio).status_code == 401
    assert _login(studio, new).status_code == 200
    assert _me(studio, pair["access_token"]).status_code == 401, "all sessions end"


def test_who_asks_for_mails_in_anothers_name_fills_no_mailbox_and_ends_no_token_in_it(
    signed_up: tuple[Studio, dict[str, Any]],
) -> None:
    studio, _ = signed_up
    post: Any = studio.services.mailer
    begun = studio.services.now()
    tokens = []
    for minute in range(5):
        studio.services.now = partial(int, begun + minute * 60_000)
        assert studio.client.post("/api/v1/auth/password/forgot", json={"email": EMAIL}).status_code == 202
        tokens.append(post.token())
    assert len(post.sent) == 3 and len(set(tokens)) == 3
    body = {"token": tokens[0], "password": "another long password"}
    assert studio.client.post("/api/v1/auth/password/reset", json=body).status_code == 204
    for token in tokens[1:3]:
        assert studio.client.post("/api/v1/auth/password/reset", json={**body, "token": token}).status_code == 422
    studio.services.now = partial(int, begun + 62 * 60_000)
    assert studio.client.post("/api/v1/auth/password/forgot", json={"email": EMAIL}).status_code == 202
    assert len(post.sent) == 4
    assert studio.client.post("/api/v1/auth/password/reset", json={**body, "token": post.token()}).status_code == 204


def test_without_a_mail_server_a_forgotten_password_is_refused_and_no_token_is_made_or_told(
    signed_up: tuple[Studio, dict[str, Any]], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    studio, first = signed_up
    del studio.services.mailer
    for email in (EMAIL, "no@example.org"):
        answer = studio.client.post("/api/v1/auth/password/forgot", json={"email": email})
        assert answer.status_code == 422 and answer.json()["code"] == "NOT_SUPPORTED"
        assert "FLOWMASON_SMTP_URL" in answer.json()["help"]
    headers, user = _bearer(first["api_key"]), {"email": "bob@example.org", "name": "Bob"}
    assert studio.client.post("/api/v1/auth/users", json=user, headers=headers).status_code == 201
    told = capfd.readouterr()
    assert credentials.RESET not in told.out + told.err + caplog.text
    assert "a mail was not sent: no mail server is named" in caplog.text


def test_a_password_is_changed_by_the_old_one(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, first = signed_up
    headers = _bearer(_login(studio).json()["access_token"])
    change = {"old": PASSWORD, "new": "x" * 90 + "tail one"}
    path = "/api/v1/auth/password/change"
    assert studio.client.post(path, json=change, headers=_bearer(first["api_key"])).status_code == 403
    assert studio.client.post(path, json={**change, "old": "wrong old one"}, headers=headers).status_code == 403
    assert studio.client.post(path, json=change, headers=headers).status_code == 204
    assert _login(studio, "x" * 90 + "tail two").status_code == 401, "long passwords count whole"
    assert _login(studio, "x" * 90 + "tail one").status_code == 200


def test_keys_are_made_shown_once_rotated_and_revoked(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, first = signed_up
    headers = _bearer(first["api_key"])
    path = "/api/v1/auth/api-keys"
    made = studio.client.post(path, json={"name": "ci", "scopes": ["read"]}, headers=headers)
    assert made.status_code == 201
    key = made.json()["api_key"]
    assert made.json()["prefix"] == key[:12]
    assert key not in studio.client.get(path, headers=headers).text
    assert studio.client.get("/api/v1/pipelines", headers=_bearer(key)).status_code == 200
    denied = studio.client.post(path, json={"name": "more"}, headers=_bearer(key))
    assert denied.status_code == 403, "a reading key makes no key"
    rotated = studio.client.post(f"{path}/{made.json()['key_id']}/rotate", headers=headers)
    assert rotated.status_code == 201 and rotated.json()["replaces"] == made.json()["key_id"]
    assert _me(studio, key).status_code == 401
    new = rotated.json()
    gone = studio.client.delete(f"{path}/{new['key_id']}", params={"reason": "left"}, headers=headers)
    assert gone.status_code == 204
    assert _me(studio, new["api_key"]).status_code == 401
    listed = {each["key_id"]: each for each in studio.client.get(path, headers=headers).json()["items"]}
    assert listed[new["key_id"]]["revoke_reason"] == "left"


def test_a_developers_key_never_outranks_them(studio: Studio) -> None:
    headers = studio.headers(Role.DEVELOPER)
    path = "/api/v1/auth/api-keys"
    assert studio.client.post(path, json={"name": "x", "role": "admin"}, headers=headers).status_code == 403
    made = studio.client.post(path, json={"name": "x", "expires_in_days": 1}, headers=headers)
    assert made.status_code == 201 and made.json()["role"] == "developer" and made.json()["expires_at"]
    others = studio.client.get(path, headers=studio.headers(Role.OWNER)).json()["items"]
    mine = studio.client.get(path, headers=headers).json()["items"]
    assert len(mine) < len(others)


def test_members_come_and_go_and_the_last_owner_stays(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, first = signed_up
    headers = _bearer(first["api_key"])
    members = "/api/v1/auth/orgs/current/members"
    user = studio.client.post("/api/v1/auth/users", json={"email": "bob@example.org", "name": "Bob"}, headers=headers)
    assert user.status_code == 201
    post: Any = studio.services.mailer
    token = post.token()
    reset = {"token": token, "password": "bobs own password"}
    assert studio.client.post("/api/v1/auth/password/reset", json=reset).status_code == 204
    added = studio.client.post(members, json={"user_id": user.json()["user_id"], "role": "viewer"}, headers=headers)
    assert added.status_code == 201
    login = {"email": "bob@example.org", "password": "bobs own password"}
    bob = studio.client.post("/api/v1/auth/login", json=login).json()["access_token"]
    assert _me(studio, bob).json()["role"] == "viewer"
    member = f"{members}/{added.json()['member_id']}"
    assert studio.client.patch(member, json={"role": "admin"}, headers=headers).json()["role"] == "admin"
    assert _me(studio, bob).json()["role"] == "admin"
    raised = studio.client.patch(member, json={"role": "owner"}, headers=_bearer(bob))
    assert raised.status_code == 403, "only an owner makes an owner"
    listed = studio.client.get(members, headers=headers).json()["items"]
    owner = next(each for each in listed if each["role"] == "owner")
    assert studio.client.delete(f"{members}/{owner['member_id']}", headers=headers).status_code == 409
    assert studio.client.delete(member, headers=headers).status_code == 204
    assert _me(studio, bob).status_code == 401


def test_limits_of_an_org_are_set_by_admins(studio: Studio) -> None:
    path = "/api/v1/auth/orgs/current"
    wanted = {"limits": {"max_concurrent_runs": 3, "max_queued_runs": 10, "weight": 1}}
    assert studio.client.patch(path, json=wanted, headers=studio.headers(Role.DEVELOPER)).status_code == 403
    changed = studio.client.patch(path, json=wanted, headers=studio.headers(Role.ADMIN))
    assert changed.status_code == 200 and changed.json()["limits"] == wanted["limits"]
    heavy = {"limits": {"weight": 2}}
    refused = studio.client.patch(path, json=heavy, headers=studio.headers())
    assert refused.status_code == 403 and "FLOWMASON_MAX_ORG_WEIGHT" in refused.json()["help"]
    studio.services.settings = msgspec.structs.replace(studio.services.settings, max_org_weight=2)
    assert studio.client.patch(path, json=heavy, headers=studio.headers()).json()["limits"]["weight"] == 2
    other = studio.client.get(path, headers=studio.other_headers())
    assert other.json()["limits"]["max_queued_runs"] is None


def test_who_owns_as_many_orgs_as_the_operator_allows_makes_no_more(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, first = signed_up
    headers = _bearer(first["api_key"])
    studio.services.settings = msgspec.structs.replace(studio.services.settings, max_orgs_per_user=3)

    def make(slug: str) -> Any:
        return studio.client.post("/api/v1/auth/orgs", json={"name": slug, "slug": slug}, headers=headers)

    with ThreadPoolExecutor(5) as threads:
        answers = list(threads.map(make, [f"org-{n}" for n in range(5)]))
    assert sorted(each.status_code for each in answers) == [201, 201, 403, 403, 403]
    refused = make("another")
    assert refused.json()["code"] == "FORBIDDEN" and "FLOWMASON_MAX_ORGS_PER_USER" in refused.json()["help"]
    studio.services.settings = msgspec.structs.replace(studio.services.settings, max_orgs_per_user=4)
    assert make("another").status_code == 201
    acme = {"name": "Acme 2", "slug": "acme-2"}
    assert studio.client.post("/api/v1/auth/orgs", json=acme, headers=studio.headers()).status_code == 201


def test_the_audit_log_shows_what_was_done_and_that_nothing_was_changed(
    signed_up: tuple[Studio, dict[str, Any]],
) -> None:
    studio, first = signed_up
    headers = _bearer(first["api_key"])
    studio.client.post("/api/v1/auth/api-keys", json={"name": "ci"}, headers=headers)
    log = studio.client.get("/api/v1/auth/audit-log", headers=headers).json()["items"]
    assert [each["action"] for each in log] == ["api_key.create", "system.bootstrap", "org.create"]
    assert PASSWORD not in str(log) and first["api_key"] not in str(log)
    assert studio.client.get("/api/v1/auth/audit-log/verify", headers=headers).json()["whole"] is True
    store = StudioStore.open(studio.services.settings.database_url)
    with store.system() as system:
        entry = (schema.audit_log.c.action == "org.create") & (schema.audit_log.c.org_id == first["org_id"])
        system.execute(sa.update(schema.audit_log).where(entry).values(actor="nobody"))
    store.close()
    verdict = studio.client.get("/api/v1/auth/audit-log/verify", headers=headers).json()
    assert verdict["whole"] is False and verdict["broken_at"] == 1


def test_a_ticket_opens_one_socket_once(signed_up: tuple[Studio, dict[str, Any]]) -> None:
    studio, first = signed_up
    made = studio.client.post("/api/v1/ws/tickets", headers=_bearer(first["api_key"]))
    assert made.status_code == 201
    ticket = made.json()["ticket"]
    assert _me(studio, ticket).status_code == 401, "it is no credential of requests"
    assert studio.client.portal is not None
    caller = studio.client.portal.call(studio.services.authenticator.by_ticket, ticket)
    assert caller.org_id == first["org_id"]
    with pytest.raises(Exception, match="not valid"):
        studio.client.portal.call(studio.services.authenticator.by_ticket, ticket)


def test_what_people_do_with_pipelines_and_runs_is_in_the_audit_log(studio: Studio) -> None:
    pipeline = made(studio, hello())
    path = f"/api/v1/pipelines/{pipeline['id']}"
    run = started(studio, pipeline["id"])
    assert studio.client.post(f"/api/v1/runs/{run['id']}/cancel", headers=studio.headers()).status_code == 202
    revision = studio.client.get(path, headers=studio.headers()).headers["ETag"]
    gone = studio.client.delete(path, headers={**studio.headers(), "If-Match": revision})
    assert gone.status_code == 204
    log = studio.client.get("/api/v1/auth/audit-log", headers=studio.headers()).json()["items"]
    assert [each["action"] for each in log] == ["pipeline.delete", "run.cancel", "run.start", "pipeline.create"]
    assert log[0]["resource_id"] == pipeline["id"]
    theirs = studio.client.get("/api/v1/auth/audit-log", headers=studio.other_headers()).json()
    assert theirs["items"] == []
