"""Sends one e-mail by the mail server of the settings, and says what came of it."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import urlsplit

from settings import Settings


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
        secure = settings.smtp_security == "tls"
        # the name to greet with; smtplib would ask the name server for one
        name = urlsplit(settings.public_url).hostname or socket.gethostname()
        server: smtplib.SMTP = (
            smtplib.SMTP_SSL(
                settings.smtp_host,
                settings.smtp_port,
                name,
                timeout=settings.notice_timeout_seconds,
                context=context,
            )
            if secure
            else smtplib.SMTP(
                settings.smtp_host, settings.smtp_port, name, timeout=settings.notice_timeout_seconds
            )
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
