"""The mail server as a part that can fail: aiosmtpd in a thread, so stopping is all that can be done to it."""

from __future__ import annotations

from infra.local.distributed import Part
from tests.e2e.conftest import MailSink


def smtp_part(mail: MailSink) -> Part:
    """Stop, kill and freeze are the same for it: nobody listens."""

    async def start() -> None:
        mail.start()

    async def stop() -> None:
        mail.stop()

    return Part("smtp", start, stop, stop, stop, start)
