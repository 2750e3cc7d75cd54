"""Who somebody is: the first owner, sign-in and sign-out, passwords, tickets."""

from __future__ import annotations

import logging

import msgspec
from fastapi import APIRouter, BackgroundTasks, Request, Response

from flowmason.assembly.outcome import moment
from flowmason.errors import Code, FlowMasonError, UsageError
from flowmason.ids import OrgId
from flowmason.studio.identity import bootstrap, orgs, people, resets, tickets
from flowmason.studio.identity.sessions import TokenPair
from flowmason.studio.mail import NoMailer
from flowmason_serve_apps.studio.models import auth as models
from flowmason_serve_apps.studio.routes.parts import Given, Themselves
from flowmason_serve_apps.studio.services import Services

router = APIRouter(tags=["auth"])
log = logging.getLogger("flowmason.studio")
_NO_STORE = {"Cache-Control": "no-store"}


@router.post("/auth/bootstrap", status_code=201, operation_id="auth_bootstrap")
def first(services: Given, body: models.Bootstrap, response: Response) -> models.FirstOut:
    """Make the first org and its owner, once, with the token that `fm studio start` printed."""
    response.headers.update(_NO_STORE)
    made = bootstrap.bootstrap(
        services.store,
        body.token.get_secret_value(),
        services.now(),
        org_name=body.org_name,
        org_slug=body.org_slug,
        email=body.email,
        name=body.name,
        password=None if body.password is None else body.password.get_secret_value(),
    )
    return models.FirstOut(**msgspec.structs.asdict(made))


@router.post("/auth/login", operation_id="auth_login")
def login(services: Given, request: Request, body: models.Login, response: Response) -> models.TokensOut:
    """Sign in. The answer to an unknown address and to a wrong password is the same, and takes as long."""
    response.headers.update(_NO_STORE)
    address = services.address_of(request)
    return _tokens(services.sessions.sign_in(body.email, body.password.get_secret_value(), address, body.org))


@router.post("/auth/refresh", operation_id="auth_refresh")
def refresh(services: Given, request: Request, body: models.Refresh, response: Response) -> models.TokensOut:
    """A new pair of tokens. A refresh token that comes a second time ends its session."""
    response.headers.update(_NO_STORE)
    return _tokens(services.sessions.refresh(body.refresh_token.get_secret_value(), services.address_of(request)))


@router.post("/auth/logout", status_code=204, operation_id="auth_logout")
def logout(services: Given, caller: Themselves) -> None:
    """End the session of the access token."""
    services.sessions.end(caller)
    services.authenticator.forget()


@router.post("/auth/revoke", status_code=204, operation_id="auth_revoke")
def revoke(services: Given, caller: Themselves, body: models.Revoke) -> None:
    """End a token of one's own; one that is unknown is passed over (RFC 7009)."""
    services.sessions.revoke(caller, body.token.get_secret_value())
    services.authenticator.forget()


@router.post("/auth/switch", operation_id="auth_switch")
def switch(services: Given, caller: Themselves, body: models.Switch, response: Response) -> models.TokensOut:
    """A session in another org of the same user."""
    response.headers.update(_NO_STORE)
    return _tokens(services.sessions.switch(caller, OrgId(body.org_id)))


@router.post("/auth/password/forgot", status_code=202, operation_id="password_forgot")
def forgot(services: Given, body: models.Forgot, later: BackgroundTasks) -> None:
    """Send a token to set a new password. The answer tells nothing of whether there is such a user."""
    if isinstance(services.mailer, NoMailer):
        help_ = "Its operator names a mail server in FLOWMASON_SMTP_URL."
        raise UsageError("this Studio sends no mail", code=Code.NOT_SUPPORTED, help=help_)
    email = people.address(body.email)
    later.add_task(send_reset, services, email, "A new password for FlowMason")


@router.post("/auth/password/reset", status_code=204, operation_id="password_reset")
def reset(services: Given, body: models.Reset) -> None:
    """Set a password by a token that came by mail. All sessions of the user end."""
    resets.redeem(services.store, body.token.get_secret_value(), body.password.get_secret_value(), services.now())
    services.authenticator.forget()


@router.post("/auth/password/change", status_code=204, operation_id="password_change")
def change(services: Given, caller: Themselves, request: Request, body: models.Change) -> None:
    """Set a password by the old one. All sessions of the user end. Guesses are slowed down as at sign-in."""
    if caller.session_id is None:
        raise UsageError("a password is changed by who signed in with it, not by an API key", code=Code.FORBIDDEN)
    old, new = body.old.get_secret_value(), body.new.get_secret_value()
    resets.change(
        services.store, caller.user_id, old, new, services.now(),
        refusals=services.refusals, address=services.address_of(request),
    )  # fmt: skip
    services.authenticator.forget()


@router.get("/auth/whoami", operation_id="whoami")
def whoami(services: Given, caller: Themselves) -> models.WhoAmI:
    """The caller, their org, and what they may there."""
    org = orgs.current(services.store, caller.org_id)
    return models.WhoAmI(
        org_id=caller.org_id,
        org_name=org.name,
        org_slug=org.slug,
        user_id=caller.user_id,
        email=caller.name,
        role=caller.role,
        permissions=sorted(caller.permissions),
        key_id=caller.key_id,
        session_id=caller.session_id,
        expires_at=moment(caller.expires_at or 0),
    )


@router.post("/ws/tickets", status_code=201, operation_id="tickets_create")
def ticket(services: Given, caller: Themselves, response: Response) -> models.TicketOut:
    """A ticket for one WebSocket, for browsers: good once, for 30 seconds."""
    response.headers.update(_NO_STORE)
    text, ends = tickets.issue(services.store, caller, services.now())
    return models.TicketOut(ticket=text, expires_at=str(moment(ends)))


def send_reset(services: Services, email: str, subject: str) -> None:
    """Mail a token to set a password, if there is such a user. A mail that cannot be sent is only logged."""
    token = resets.issue(services.store, email, services.now())
    if token is None:
        return
    text = (
        f"Somebody asked to set the password of {email} at {services.settings.public_url}.\n\n"
        f"The token, good once and for 24 hours:\n\n    {token}\n\n"
        f"Set it by POST {services.settings.public_url}/api/v1/auth/password/reset with this token and the password.\n"
        "If it was not you, do nothing: your password stays as it is.\n"
    )
    try:
        services.mailer.send(email, subject, text)
    except FlowMasonError as error:
        log.warning("a mail was not sent: %s", error)


def _tokens(pair: TokenPair) -> models.TokensOut:
    values = msgspec.structs.asdict(pair)
    for name in ("expires_at", "refresh_expires_at"):
        values[name] = moment(values[name])
    return models.TokensOut(**values)
