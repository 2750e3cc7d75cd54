"""Mail: through an SMTP server, or onto the console of somebody who develops."""

from __future__ import annotations

import smtplib
import ssl
import sys
from email.message import EmailMessage
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from flowmason.errors import EngineUnavailableError, UsageError

_TIMEOUT_S = 15.0


class Mailer(Protocol):
    """Sends mail. Blocks."""

    def send(self, to: str, subject: str, text: str) -> None:
        """Send a plain text. Raises `EngineUnavailableError` where it could not be handed over."""
        ...


class SmtpMailer:
    """Hands mail to the server of a URL: `smtp://user:password@host:587` (STARTTLS) or `smtps://…` (TLS at once).

    `smtp://host:25?tls=none` sends without encryption; a password is refused there.
    """

    def __init__(self, url: str, sender: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise UsageError("a mail server is given as smtp://host:587 or smtps://host:465")
        self._host, self._direct = parts.hostname, parts.scheme == "smtps"
        self._port = parts.port or (465 if self._direct else 587)
        self._plain = parse_qs(parts.query).get("tls") == ["none"]
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        if self._plain and self._password:
            raise UsageError("a password is not sent to a mail server without TLS")
        self._sender = sender

    def send(self, to: str, subject: str, text: str) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, to, subject
        message.set_content(text)
        context = ssl.create_default_context()
        try:
            server = (
                smtplib.SMTP_SSL(self._host, self._port, timeout=_TIMEOUT_S, context=context)
                if self._direct
                else smtplib.SMTP(self._host, self._port, timeout=_TIMEOUT_S)
            )
            with server:
                if not self._direct and not self._plain:
                    server.starttls(context=context)
                if self._user:
                    server.login(self._user, self._password)
                server.send_message(message)
        except (smtplib.SMTPException, OSError) as error:
            # The kind alone: a server may repeat the text, and with it the link.
            raise EngineUnavailableError(f"the mail server did not take the mail ({type(error).__name__})") from None


class NoMailer:
    """Where no server is named. What opens an account is not written into a log instead."""

    def send(self, to: str, subject: str, text: str) -> None:
        raise EngineUnavailableError("no mail server is named", help="Set FLOWMASON_SMTP_URL.")


class ConsoleMailer:
    """Prints mail to the standard error stream; for development alone: somebody looks at it."""

    def send(self, to: str, subject: str, text: str) -> None:
        print(f"-- mail to {to}: {subject}\n{text}\n--", file=sys.stderr, flush=True)
