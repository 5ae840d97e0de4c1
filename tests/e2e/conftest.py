"""A whole local cluster for the end-to-end tests: real Docker, Open vSwitch, HAProxy and registry."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest_asyncio
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from infra.demo.crashes import Crashes
from infra.local.layout import DEFAULT_VLANS, Layout, Vlan
from infra.local.stack import Stack
from infra.provision import OvsServer
from infra.provision.process import free_ports
from libs.client.api import GantryClient

TINY = Vlan("tiny", 130, IPv4Network("10.130.0.0/29"))  # five addresses beside the gateway's


@dataclass
class MailSink:
    """A real SMTP server that keeps what it is sent."""

    port: int
    messages: list[str] = field(default_factory=list)
    _server: Controller | None = None

    def start(self) -> None:
        """Listen, unless it does."""
        if self._server is None:
            self._server = Controller(self, hostname="127.0.0.1", port=self.port)
            self._server.start()

    def stop(self) -> None:
        """Listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        """aiosmtpd's hook."""
        content = envelope.content
        assert isinstance(content, bytes)
        self.messages.append(content.decode())
        return "250 OK"

    def subjects(self) -> list[str]:
        """Subject lines, unfolded."""
        return [
            line.removeprefix("Subject: ")
            for message in self.messages
            for line in message.replace("\r\n ", " ").splitlines()
            if line.startswith("Subject: ")
        ]


@contextmanager
def mail_sink() -> Iterator[tuple[MailSink, dict[str, Any]]]:
    """An SMTP server that runs, and the monitor's configuration for it."""
    (port,) = free_ports(1)
    mail = MailSink(port)
    mail.start()
    try:
        yield mail, {"host": "127.0.0.1", "port": port, "recipients": ["ops@example.test"]}
    finally:
        mail.stop()


@dataclass
class Cloud:
    """The cluster under test."""

    stack: Stack
    story: Crashes
    mail: MailSink

    @property
    def client(self) -> GantryClient:
        """A client with the first admin key."""
        return self.story.client


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def cloud(ovs: OvsServer) -> AsyncIterator[Cloud]:
    """One cluster for all tests here; each uses apps of its own."""
    root = Path(tempfile.mkdtemp(prefix="ge-", dir="/tmp"))
    cluster = f"e2e-{root.name[-4:].lower().replace('_', 'x')}"
    # Traced, so that what must be nowhere is looked for in spans, too.
    layout = Layout(cluster, root, vlans=(*DEFAULT_VLANS, TINY), ovs_dir=ovs.data_dir, traced=True)
    stack = Stack(layout)
    with mail_sink() as (mail, smtp):
        try:
            await stack.start({"smtp": smtp, "crash_quiet_s": 5.0, "sweep_s": 1.0})
            images = await stack.push_samples()
            async with GantryClient.open(stack.layout.url, stack.admin_key()) as client:
                yield Cloud(stack, Crashes(stack, client, images, 4, print), mail)
        finally:
            shutil.copytree(layout.logs, "build/e2e-logs", dirs_exist_ok=True)
            await stack.destroy()
    assert (stack.leftovers(), stack.overruns) == ([], [])
