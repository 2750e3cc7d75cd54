"""Sessions: an access token for an hour, and refresh tokens that are good for one use each.

A refresh token that comes a second time is in two hands: its whole session ends. A session ends 90 days after sign-in
at the latest.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import sqlalchemy as sa

from flowmason.errors import Code, UsageError
from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.identity import audit, callers, credentials, lockout, orgs, passwords
from flowmason.studio.identity.callers import Caller, refused
from flowmason.studio.identity.permissions import permissions_of
from flowmason.studio.identity.refusals import Refusals
from flowmason.studio.identity.signing import Signer
from flowmason.studio.scope import Scope, StudioStore, System

REFRESH_MS = 30 * 24 * 3600 * 1000
SESSION_MS = 90 * 24 * 3600 * 1000
_sessions, _tokens, _revoked = schema.sessions.c, schema.refresh_tokens.c, schema.revoked_tokens.c


class TokenPair(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody who signed in holds."""

    access_token: str
    expires_at: int
    """When the access token ends, in milliseconds since the epoch."""
    refresh_token: str
    refresh_expires_at: int
    org_id: OrgId
    user_id: str


class Sessions:
    """Begins, continues and ends sessions. Thread-safe."""

    def __init__(self, store: StudioStore, signer: Signer, now: Callable[[], int], refusals: Refusals) -> None:
        """`refusals` is told of what does not count."""
        self._store = store
        self._signer = signer
        self._now = now
        self._refusals = refusals

    def begin(self, user_id: str, org_id: OrgId, *, action: str = "user.login") -> TokenPair:
        """A new session of a member. Raises `UsageError` (UNAUTHENTICATED) for somebody who is none."""
        now = self._now()
        session_id = credentials.new_id("sess")
        with self._store.scope(org_id) as scope:
            callers.member(scope, user_id)
            scope.add(
                schema.sessions, session_id=session_id, user_id=user_id, created_at=now, expires_at=now + SESSION_MS
            )
            refresh, ends = _add_refresh(scope, session_id, user_id, now, now + SESSION_MS)
            _record(scope, now, user_id, action, session_id)
        return self._pair(user_id, org_id, session_id, refresh, ends)

    def sign_in(self, email: str, password: str, address: str, org: str | None = None) -> TokenPair:
        """A session for an e-mail address and its password, in the org with an id or slug, else in the first joined.

        `address` is where the attempt comes from. Takes the time of a password hash, whoever asks. Raises
        `UsageError`: UNAUTHENTICATED (the same for an unknown address and a wrong password), RATE_LIMITED (too many
        failures), NOT_FOUND (no member of that org).
        """
        now, email = self._now(), email.strip().lower()
        with self._store.system(writing=False) as system:
            chosen = sa.select(schema.users).where(schema.users.c.email == email)
            found = system.execute(chosen).mappings().first()
        user_id = found["user_id"] if found else ""
        try:
            lockout.begin(self._store, email, address, user_id, now)
        except UsageError:
            self._refusals.user(user_id, "too many failed attempts", address)
            raise
        enabled = found is not None and found["disabled_at"] is None
        right = passwords.check(password, found["password_hash"] if found is not None and enabled else None)
        if not right:
            self._refusals.user(user_id, "wrong password" if enabled else "the user is disabled", address)
            raise refused("The e-mail address or the password is wrong.")
        joined = [each for each, _ in orgs.of_user(self._store, user_id) if org in (None, each.org_id, each.slug)]
        lockout.succeeded(self._store, email, address, user_id, now)
        if not joined:
            raise UsageError("you are a member of no such org", code=Code.NOT_FOUND)
        if found is not None and passwords.weaker(found["password_hash"]):
            stored = passwords.hash_password(password)
            with self._store.system() as system:
                users = sa.update(schema.users).where(schema.users.c.user_id == user_id)
                system.execute(users.values(password_hash=stored))
        return self.begin(user_id, joined[0].org_id)

    def refresh(self, refresh_token: str, address: str) -> TokenPair:
        """A new pair for a refresh token, which is used up by it; `address` is where it comes from.

        Raises `UsageError` (UNAUTHENTICATED) for one that is unknown or over, and for one that was used before: that
        ends its session.
        """
        now, digest = self._now(), credentials.hashed(refresh_token)
        with self._store.system(token_hash=digest) as system:
            chosen = sa.select(schema.refresh_tokens).where(_tokens.token_hash == digest).with_for_update()
            found = system.execute(chosen).mappings().first()
            if found is None:
                raise refused()
            scope, session_id, user_id = system.scope(OrgId(found["org_id"])), found["session_id"], found["user_id"]
            session = scope.one(schema.sessions, _sessions.session_id == session_id, lock=True)
            reused = found["used_at"] is not None
            if session is None or session["ended_at"] is not None or session["expires_at"] <= now:
                self._refusals.session(scope.org_id, session_id, "its session has ended", address)
                raise refused()
            if reused:
                _end(scope, session_id, now, "a refresh token was used twice")
                _record(scope, now, "system", "session.reuse", session_id)
            else:
                if found["expires_at"] <= now:
                    raise refused()
                callers.member(scope, user_id)
                scope.change(schema.refresh_tokens, _tokens.token_hash == digest, used_at=now)
                refresh, ends = _add_refresh(scope, session_id, user_id, now, session["expires_at"])
        if reused:
            # Outside of the transaction: the end of the session stays.
            raise refused()
        return self._pair(user_id, scope.org_id, session_id, refresh, ends)

    def end(self, caller: Caller) -> None:
        """Sign out: the caller's session ends. Raises `UsageError` for one who called with an API key."""
        session_id, now = _session_of(caller), self._now()
        with self._store.scope(caller.org_id) as scope:
            _end(scope, session_id, now, "signed out")
            _record(scope, now, caller.user_id, "user.logout", session_id)

    def switch(self, caller: Caller, org_id: OrgId) -> TokenPair:
        """A session of the same user in another of their orgs; `UsageError` (NOT_FOUND) where they are no member."""
        _session_of(caller)
        try:
            return self.begin(caller.user_id, org_id, action="user.switch_org")
        except UsageError as error:
            if error.failure.code != Code.UNAUTHENTICATED:
                raise
            raise UsageError(f"there is no org {org_id!r}", code=Code.NOT_FOUND) from None

    def revoke(self, caller: Caller, token: str) -> None:
        """End what a token of the caller's own stands for: an access token itself, with a refresh token its session.

        What is unknown, over or somebody else's is left alone, without a word (RFC 7009).
        """
        now = self._now()
        if token.startswith(credentials.REFRESH):
            with self._store.scope(caller.org_id) as scope:
                digest = credentials.hashed(token)
                mine = (_tokens.token_hash == digest, _tokens.user_id == caller.user_id)
                found = scope.one(schema.refresh_tokens, *mine)
                if found is not None and _end(scope, found["session_id"], now, "revoked"):
                    _record(scope, now, caller.actor, "session.revoke", found["session_id"])
            return
        try:
            claims = self._signer.read(token)
        except UsageError:
            return
        if (claims.sub, claims.org) != (caller.user_id, caller.org_id):
            return
        with self._store.scope(caller.org_id) as scope:
            known = sa.select(_revoked.token_id).where(_revoked.token_id == claims.jti)
            if scope.system.execute(known).first() is None:
                scope.system.execute(
                    sa.insert(schema.revoked_tokens).values(token_id=claims.jti, expires_at=claims.exp * 1000)
                )
                _record(scope, now, caller.actor, "token.revoke", claims.jti)

    def caller(self, access_token: str, address: str) -> Caller:
        """Who holds an access token, which comes from `address`, now.

        Raises `UsageError` (UNAUTHENTICATED) where it does not count any more.
        """
        claims = self._signer.read(access_token)
        try:
            with self._store.scope(claims.org, writing=False) as scope:
                return by_session(scope, claims.sid, claims.sub, claims.jti, claims.exp * 1000, self._now())
        except UsageError:
            # Signed by us and not yet over: somebody held it once.
            self._refusals.session(claims.org, claims.sid, "its session has ended, or it was revoked", address)
            raise

    def _pair(self, user_id: str, org_id: OrgId, session_id: str, refresh: str, ends: int) -> TokenPair:
        access, claims = self._signer.sign(user_id, org_id, session_id)
        return TokenPair(
            access_token=access,
            expires_at=claims.exp * 1000,
            refresh_token=refresh,
            refresh_expires_at=ends,
            org_id=org_id,
            user_id=user_id,
        )


def by_session(scope: Scope, session_id: str, user_id: str, token_id: str, expires_at: int | None, now: int) -> Caller:
    """Who holds a session. Raises `UsageError` (UNAUTHENTICATED) where it has ended, or the token was revoked."""
    known = sa.select(_revoked.token_id).where(_revoked.token_id == token_id)
    mine = (_sessions.session_id == session_id, _sessions.user_id == user_id)
    session = scope.one(schema.sessions, *mine)
    if session is None or session["ended_at"] is not None or session["expires_at"] <= now:
        raise refused()
    if scope.system.execute(known).first() is not None:
        raise refused()
    role, email = callers.member(scope, user_id)
    return Caller(
        org_id=scope.org_id,
        user_id=user_id,
        name=email,
        role=role,
        permissions=permissions_of(role),
        session_id=session_id,
        token_id=token_id,
        expires_at=expires_at,
    )


def end_all(system: System, user_id: str, now: int, reason: str) -> None:
    """End every session of a user, in all orgs. The transaction must have been begun with `user=` as its proof."""
    system.execute(
        sa.update(schema.sessions)
        .where(_sessions.user_id == user_id, _sessions.ended_at.is_(None))
        .values(ended_at=now, end_reason=reason)
    )


def _add_refresh(scope: Scope, session_id: str, user_id: str, now: int, latest: int) -> tuple[str, int]:
    token, ends = credentials.new(credentials.REFRESH), min(now + REFRESH_MS, latest)
    scope.add(
        schema.refresh_tokens,
        token_hash=credentials.hashed(token),
        session_id=session_id,
        user_id=user_id,
        created_at=now,
        expires_at=ends,
    )
    return token, ends


def _end(scope: Scope, session_id: str, now: int, reason: str) -> bool:
    live = (_sessions.session_id == session_id, _sessions.ended_at.is_(None))
    return scope.change(schema.sessions, *live, ended_at=now, end_reason=reason) > 0


def _session_of(caller: Caller) -> str:
    if caller.session_id is None:
        raise UsageError(
            "this needs somebody who signed in; an API key has no session",
            code=Code.FORBIDDEN,
            help="Sign in by POST /api/v1/auth/login and send the access token.",
        )
    return caller.session_id


def _record(scope: Scope, now: int, actor: str, action: str, session_id: str) -> None:
    audit.record(scope, now, actor=actor, action=action, resource_type=action.partition(".")[0], resource_id=session_id)
