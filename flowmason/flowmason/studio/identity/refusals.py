"""Sign-ins that were refused: into the audit log of an org where it is known whose they were, else into the log.

They are written after the answer, by a thread of its own: an answer that took longer where there is such a user would
tell so. Whoever guesses floods nothing: of one user, key or session, and of one address that names nobody, there is a
first handful and then one a minute in each process, and of those that name nobody no more than one a second from all
addresses together; the next one says how many were left out before it. Neither a password nor a token is ever in it,
nor the e-mail address that somebody typed and nobody has: it may be a password.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import sqlalchemy as sa

from flowmason.ids import OrgId
from flowmason.limiter import Rate, decide
from flowmason.studio import schema
from flowmason.studio.identity import audit, lockout
from flowmason.studio.scope import StudioStore

log = logging.getLogger("flowmason.studio.signins")

EACH = Rate(1, 60.0, 5)
"""Of one user, key, session or address."""
OF_NOBODY = Rate(60, 60.0, 60)
"""Of all that name nobody, from all addresses together."""
MOST_ORGS = 20
"""A user who is in more orgs: the ones that they joined first."""
_MOST_SUBJECTS = 10_000


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    action: str
    kind: str
    """What was refused: `user`, `api_key`, `session`."""
    id: str
    org_id: OrgId | None
    """None for a user: the orgs are looked up."""
    reason: str
    address: str
    left_out: int


class Refusals:
    """Notes what was refused. Thread-safe; its methods return at once and never raise."""

    def __init__(self, store: StudioStore, now: Callable[[], int], *, clock: Callable[[], float] = time.monotonic):
        self._store = store
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._of_nobody: float | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="flowmason-refusals")

    def user(self, user_id: str, reason: str, address: str, *, action: str = "user.login_failed") -> None:
        """A password of a user did not count; `user_id` is empty where nobody has the e-mail address."""
        if user_id:
            self._note(action, "user", user_id, None, reason, address)
        else:
            self._note(action, "user", "", None, "nobody has this e-mail address", address)

    def key(self, org_id: OrgId, key_id: str, reason: str, address: str) -> None:
        """An API key of an org did not count any more."""
        self._note("api_key.refused", "api_key", key_id, org_id, reason, address)

    def session(self, org_id: OrgId, session_id: str, reason: str, address: str) -> None:
        """A token of a session of an org did not count any more."""
        self._note("session.refused", "session", session_id, org_id, reason, address)

    def close(self) -> None:
        """Write what is left. Blocks."""
        self._writer.shutdown()

    def _note(self, action: str, kind: str, id_: str, org_id: OrgId | None, reason: str, address: str) -> None:
        subject = f"{action}:{id_ or lockout.place(address)}"
        left_out = self._due(subject, known=bool(id_))
        if left_out is None:
            return
        refusal = _Refusal(
            action=action, kind=kind, id=id_, org_id=org_id, reason=reason, address=_plain(address), left_out=left_out
        )
        try:
            self._writer.submit(self._write, refusal)
        except RuntimeError:  # closed: the process ends
            log.warning("%s after the end", action)

    def _due(self, subject: str, *, known: bool) -> int | None:
        """How many of a subject were left out since the last that was written; None: this one is left out too."""
        now = self._clock()
        with self._lock:
            kept, left_out = self._kept.get(subject, (None, 0))
            of_each, kept = decide(kept, now, EACH)
            due = of_each.allowed
            if due and not known:
                of_all, self._of_nobody = decide(self._of_nobody, now, OF_NOBODY)
                due = of_all.allowed
            self._kept[subject] = (kept, 0 if due else left_out + 1)
            self._kept.move_to_end(subject)
            if len(self._kept) > _MOST_SUBJECTS:
                self._kept.popitem(last=False)
        return left_out if due else None

    def _write(self, refusal: _Refusal) -> None:
        details: dict[str, object] = {"reason": refusal.reason, "address": refusal.address}
        if refusal.left_out:
            details["left_out"] = refusal.left_out
        log.warning("%s of %s: %s", refusal.action, refusal.id or "nobody", details)
        try:
            for org_id in [refusal.org_id] if refusal.org_id is not None else self._orgs_of(refusal.id):
                with self._store.scope(org_id) as scope:
                    audit.record(
                        scope, self._now(), actor="system", action=refusal.action, resource_type=refusal.kind,
                        resource_id=refusal.id, details=details,
                    )  # fmt: skip
        except Exception:
            # A thread that nobody waits for: whatever it was, the log has the line above.
            log.exception("%s was not written into the audit log", refusal.action)

    def _orgs_of(self, user_id: str) -> list[OrgId]:
        if not user_id:
            return []
        members = schema.members.c
        chosen = sa.select(members.org_id).where(members.user_id == user_id)
        chosen = chosen.order_by(members.created_at, members.member_id).limit(MOST_ORGS)
        with self._store.system(writing=False, user=user_id) as system:
            return [OrgId(each) for each in system.execute(chosen).scalars()]


def _plain(address: str) -> str:
    # Behind a proxy it is a header's text.
    return address[:64] if address.isprintable() else "unreadable"
