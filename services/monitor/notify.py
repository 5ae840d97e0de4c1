"""How people are told: by e-mail. The text says what, since when, and where to look."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Protocol

import aiosmtplib

from libs.common.errors import Unavailable
from services.monitor.model import Alert, SmtpConfig


class Notifier(Protocol):
    """Tells somebody about an alert's state."""

    async def tell(self, alert: Alert) -> None:
        """Returns when it is handed over. Raises Unavailable; may then have been handed over all the same."""
        ...


class SmtpNotifier:
    """Mails to the configured recipients; does nothing when there is no host."""

    def __init__(self, config: SmtpConfig, cluster: str) -> None:
        self._config = config
        self._cluster = cluster

    async def tell(self, alert: Alert) -> None:
        """See Notifier."""
        config = self._config
        if not config.host or not config.recipients:
            return
        password = config.password_file.read_text().strip() if config.password_file else None
        try:
            await aiosmtplib.send(
                compose(alert, config, self._cluster),
                hostname=config.host,
                port=config.port,
                username=config.user or None,
                password=password,
                start_tls=config.start_tls,
                tls_context=ssl.create_default_context() if config.start_tls else None,
                timeout=config.timeout_s,
            )
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise Unavailable(f"SMTP {config.host}: {type(error).__name__}: {error}") from error


def compose(alert: Alert, config: SmtpConfig, cluster: str) -> EmailMessage:
    """The message of an alert. All mails of one alert make one thread."""
    state = "RAISED" if alert.firing else "RESOLVED"
    message = EmailMessage()
    message["Subject"] = f"[gantry {cluster}] {state} {alert.severity}: {alert.id}"
    message["From"] = config.sender
    message["To"] = ", ".join(config.recipients)
    thread = f"<{alert.id.replace('/', '.').replace(':', '.')}@{cluster}.gantry>"
    message["References"] = thread
    message["X-Gantry-Alert"] = alert.id
    since = datetime.fromtimestamp(alert.since, UTC).isoformat(timespec="seconds")
    labels = "\n".join(f"  {name}: {value}" for name, value in sorted(alert.labels.items()))
    message.set_content(
        f"{alert.summary}\n\nstate: {state.lower()} since {since}\nrule: {alert.rule}\n{labels}\n"
    )
    return message
