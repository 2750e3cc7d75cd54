"""Mail goes through an SMTP server as its URL says, and a server that does not take it is told of without the text."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from flowmason.errors import EngineUnavailableError, UsageError
from flowmason.studio.mail import ConsoleMailer, SmtpMailer


class Inbox:
    """Keeps what the server was handed."""

    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        self.mails.append(envelope)
        return "250 taken"


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, int]]:
    """A mail server on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    box = Inbox()
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    try:
        yield box, port
    finally:
        server.stop()


def test_a_mail_is_handed_to_the_server(inbox: tuple[Inbox, int]) -> None:
    box, port = inbox
    mailer = SmtpMailer(f"smtp://127.0.0.1:{port}?tls=none", "studio@example.org")
    mailer.send("ada@example.org", "A new password", "the token: fm_reset_1 – äöü\n")
    [mail] = box.mails
    assert mail.rcpt_tos == ["ada@example.org"] and mail.mail_from == "studio@example.org"
    assert b"Subject: A new password" in mail.content and b"fm_reset_1" in mail.content


def test_a_line_break_in_an_address_adds_no_header(inbox: tuple[Inbox, int]) -> None:
    box, port = inbox
    mailer = SmtpMailer(f"smtp://127.0.0.1:{port}?tls=none", "studio@example.org")
    with pytest.raises(ValueError, match=r"linefeed|newline"):
        mailer.send("ada@example.org\nBcc: all@example.org", "x", "y")
    assert not box.mails


def test_a_server_that_is_away_is_named_without_the_text() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(EngineUnavailableError) as caught:
        SmtpMailer(f"smtp://127.0.0.1:{port}?tls=none", "a@b.c").send("d@e.f", "s", "fm_reset_secret")
    assert "fm_reset_secret" not in str(caught.value)


def test_a_server_without_tls_is_not_given_what_is_to_be_encrypted(inbox: tuple[Inbox, int]) -> None:
    box, port = inbox
    with pytest.raises(EngineUnavailableError):
        SmtpMailer(f"smtp://127.0.0.1:{port}", "a@b.c").send("d@e.f", "s", "t")
    assert not box.mails


@pytest.mark.parametrize("url", ["http://127.0.0.1", "smtp://", "smtp://me:pass@127.0.0.1:25?tls=none"])
def test_a_wrong_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        SmtpMailer(url, "a@b.c")


def test_without_a_server_mail_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleMailer().send("ada@example.org", "hello", "text")
    assert "ada@example.org" in capsys.readouterr().err
