"""Sends one e-mail by the mail server of the settings, and says what came of it."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any
from urllib.parse import urlsplit

from settings import Settings
from store.base.deadline import Deadline
from worker.base.outbound import connect, look_up

#: A mail takes several questions and answers; a webhook one.
EXCHANGES = 3


@dataclass(frozen=True)
class Outcome:
    """What a try came to.

    Attributes
    ----------
    error
        Empty when it was delivered.
    final
        Trying again would not help.
    """

    status: int | None = None
    error: str = ""
    final: bool = False


class _Bounded:
    """Mixed into a connection of `smtplib`: the deadline is for all of it, not for each line."""

    def __init__(self, settings: Settings, deadline: Deadline, **more: Any) -> None:
        self._deadline = deadline
        # the name to greet with; smtplib would ask the name server for one
        name = urlsplit(settings.public_url).hostname or socket.gethostname()
        super().__init__(settings.smtp_host, settings.smtp_port, name, timeout=deadline.left, **more)

    def _connected(self, host: str, port: int) -> socket.socket:
        return connect(look_up(host, port, self._deadline), port, self._deadline)


class _Plain(_Bounded, smtplib.SMTP):
    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self._connected(host, port)

    def starttls(self, **more: Any) -> tuple[int, bytes]:
        """Go on in TLS; the deadline then watches the socket that was wrapped."""
        answer = super().starttls(**more)
        if self.sock is not None:
            self._deadline.watch(self.sock)
        return answer


class _Secure(_Bounded, smtplib.SMTP_SSL):
    def _get_socket(self, host: str, port: int, timeout: float) -> ssl.SSLSocket:
        wrapped = self.context.wrap_socket(
            self._connected(host, port), server_hostname=self._host, do_handshake_on_connect=False
        )
        try:
            self._deadline.watch(wrapped)
            wrapped.do_handshake()
        except OSError:
            wrapped.close()
            raise
        return wrapped


def send_mail(address: str, subject: str, lines: Sequence[str], *, mark: str, settings: Settings) -> Outcome:
    """Try once to send a plain text.

    Parameters
    ----------
    mark
        Part of the message's id: the same mail tried again can be told.
    """
    message = EmailMessage()
    message["From"] = settings.smtp_from
    message["To"] = address
    message["Subject"] = f"FractureAI: {subject}"
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(idstring=mark, domain=settings.smtp_from.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("\n".join(lines))
    try:
        context = ssl.create_default_context()
        with Deadline(EXCHANGES * settings.notice_timeout_seconds) as deadline:
            server: smtplib.SMTP = (
                _Secure(settings, deadline, context=context)
                if settings.smtp_security == "tls"
                else _Plain(settings, deadline)
            )
            with server:
                if settings.smtp_security == "starttls":
                    server.starttls(context=context)
                if settings.smtp_user:
                    server.login(settings.smtp_user, settings.smtp_password)
                server.send_message(message)
    except smtplib.SMTPResponseException as error:
        code = int(error.smtp_code)
        return Outcome(code, f"the mail server answered {code}", final=500 <= code < 600)
    except smtplib.SMTPRecipientsRefused:
        return Outcome(error="the mail server refused the address", final=True)
    except (OSError, smtplib.SMTPException) as error:
        return Outcome(error=f"no answer: {type(error).__name__}")
    return Outcome(250)
