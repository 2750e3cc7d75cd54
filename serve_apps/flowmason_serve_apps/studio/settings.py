"""What an operator may set of the Studio."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from flowmason.database import default_journal_url

FORWARDED_HEADER = "FLOWMASON_FORWARDED_HEADER"


class StudioSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one API process; plain data, so that they travel to replicas."""

    database_url: str
    """The owner's URL. The API itself works under the role `flowmason_api` on PostgreSQL."""
    values_url: str
    public_url: str = "http://127.0.0.1:8999"
    """Where people reach the Studio; links in mails begin with it."""
    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
    """Values of the Host header (without port) that are answered."""
    cors_origins: tuple[str, ...] = ()
    """Origins that browsers may call from, exactly as written."""
    replicas: int = 1
    """How many API processes share a limit that is kept in memory."""
    redis_url: str | None = None
    requests_per_minute: int = 6000
    """Of one credential; and of one address without any that somebody holds, a tenth of that."""
    org_requests_per_minute: int | None = None
    """Of all credentials of an org together; None: five times what one credential has."""
    sign_ins_per_minute: int = 20
    """Of one address, to each of the routes that check a password or a token of somebody who has not signed in."""
    max_body_bytes: int = 16 * 1024 * 1024
    max_blob_bytes: int = 256 * 1024 * 1024
    """Of a file that is uploaded to be part of an input."""
    max_org_weight: int = 1
    """The largest weight beside other orgs that an org may give itself: what one gets, others do not."""
    max_orgs_per_user: int = 20
    """Of how many orgs somebody may be an owner and still make another one: every org has a share of its own."""
    forwarded_header: str | None = None
    """The header whose last entry says who asks, in lower case: only a proxy of ours may be able to set it. None: the
    peer asks for itself."""
    metrics_token: str | None = None
    """Whoever presents it to GET /metrics sees the figures of all orgs."""
    smtp_url: str | None = None
    """`smtp://user:password@host:587` or `smtps://…`; None: no mail is sent."""
    mail_on_console: bool = False
    """Whether mail is printed where no server is named: in development (`--dev`) alone, for it opens accounts."""
    mail_from: str = "flowmason@localhost"


def settings_from(environ: Mapping[str, str] | None = None) -> StudioSettings:
    """The settings that the environment gives (`DATABASE_URL`, `FLOWMASON_VALUES_URL`, `REDIS_URL`, `FLOWMASON_*`)."""
    from flowmason.values_fs import default_values_url

    given = os.environ if environ is None else environ

    def listed(name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        text = given.get(name)
        return default if text is None else tuple(part.strip() for part in text.split(",") if part.strip())

    defaults = StudioSettings(database_url="", values_url="")
    return StudioSettings(
        database_url=default_journal_url(None, given),
        values_url=default_values_url(None, given),
        public_url=given.get("FLOWMASON_PUBLIC_URL", defaults.public_url).rstrip("/"),
        allowed_hosts=listed("FLOWMASON_ALLOWED_HOSTS", defaults.allowed_hosts),
        cors_origins=listed("FLOWMASON_CORS_ORIGINS", defaults.cors_origins),
        replicas=int(given.get("FLOWMASON_API_REPLICAS", "1")),
        redis_url=given.get("REDIS_URL") or None,
        forwarded_header=given.get(FORWARDED_HEADER, "").lower() or None,
        metrics_token=given.get("FLOWMASON_METRICS_TOKEN") or None,
        requests_per_minute=int(given.get("FLOWMASON_REQUESTS_PER_MINUTE", defaults.requests_per_minute)),
        org_requests_per_minute=int(given.get("FLOWMASON_ORG_REQUESTS_PER_MINUTE", 0)) or None,
        sign_ins_per_minute=int(given.get("FLOWMASON_SIGN_INS_PER_MINUTE", defaults.sign_ins_per_minute)),
        max_blob_bytes=int(given.get("FLOWMASON_MAX_BLOB_BYTES", defaults.max_blob_bytes)),
        max_org_weight=int(given.get("FLOWMASON_MAX_ORG_WEIGHT", defaults.max_org_weight)),
        max_orgs_per_user=int(given.get("FLOWMASON_MAX_ORGS_PER_USER", defaults.max_orgs_per_user)),
        smtp_url=given.get("FLOWMASON_SMTP_URL") or None,
        mail_from=given.get("FLOWMASON_MAIL_FROM", defaults.mail_from),
    )
