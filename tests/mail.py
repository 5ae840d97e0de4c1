"""A mail server of its own process, that keeps what it is sent: it can be stopped, killed and frozen like any other."""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local.distributed import Part
from infra.local.processes import Daemon
from infra.provision.process import free_ports

START_S = 20.0


@dataclass(frozen=True)
class MailSink:
    """The server, and where it puts the mails."""

    port: int
    directory: Path

    @property
    def _daemon(self) -> Daemon:
        return Daemon("smtp", self.directory / "pid", self.directory / "log")

    def start(self) -> None:
        """Returns when it listens."""
        box = str(self.directory / "box")
        handler = ("-c", "aiosmtpd.handlers.Mailbox", box)
        listen = ("-l", f"127.0.0.1:{self.port}")
        command = (sys.executable, "-m", "aiosmtpd", "-n", *listen, *handler)
        self._daemon.start(command, self.directory)
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise AssertionError(f"no mail server: {self._daemon.tail()}") from None
                time.sleep(0.05)

    async def stop(self) -> None:
        """End it; its mails stay."""
        await self._daemon.stop()

    def end(self) -> None:
        """End it at once."""
        self._daemon.kill9()

    def subjects(self) -> list[str]:
        """Subject lines of all mails, unfolded, oldest first."""
        mails = sorted((self.directory / "box" / "new").glob("*"), key=lambda m: m.stat().st_mtime)
        return [
            line.removeprefix("Subject: ")
            for mail in mails
            for line in mail.read_text().replace("\r\n", "\n").replace("\n ", " ").splitlines()
            if line.startswith("Subject: ")
        ]

    def part(self) -> Part:
        """It as something that fails."""

        async def start() -> None:
            self.start()

        return Part.of(self._daemon, start, self.stop)


@contextmanager
def mail_sink() -> Iterator[tuple[MailSink, dict[str, Any]]]:
    """A mail server that runs, and the monitor's configuration for it."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="gm-", dir="/tmp") as directory:
        mail = MailSink(port, Path(directory))
        mail.start()
        try:
            yield mail, {"host": "127.0.0.1", "port": port, "recipients": ["ops@example.test"]}
        finally:
            mail.end()
