"""A whole local cluster for the end-to-end tests: real Docker, Open vSwitch, HAProxy and registry."""

from __future__ import annotations

import asyncio
import io
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import aiohttp
import pytest_asyncio

from infra.demo.crashes import Crashes
from infra.local.layout import DEFAULT_VLANS, Layout, Vlan
from infra.local.stack import Stack
from infra.provision import OvsServer
from libs.cli.main import Streams, run
from libs.client.api import GantryClient
from tests.mail import MailSink, mail_sink

TINY = Vlan("tiny", 130, IPv4Network("10.130.0.0/29"))  # five addresses beside the gateway's


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

    async def gantry(self, *argv: str) -> str:
        """The output of a command that ends well."""
        out, err = io.StringIO(), io.StringIO()
        environ = {"GANTRY_URL": self.stack.layout.url, "GANTRY_KEY": self.stack.admin_key()}
        code = await asyncio.to_thread(run, argv, Streams(out, err, environ))
        assert code == 0, err.getvalue()
        return out.getvalue()

    async def page(self, path: str) -> str:
        """What the console has there for an administrator."""
        url = self.stack.layout.url
        jar = aiohttp.CookieJar(unsafe=True)  # the address is a number
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(url, timeout=timeout, cookie_jar=jar) as browser:
            form = {"key": self.stack.admin_key()}
            async with browser.post("/login", data=form, headers={"Origin": url}) as answer:
                assert answer.status == 200, await answer.text()
            async with browser.get(path) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.text()


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
            # Longer than a container takes to crash again, or its crashes never add up.
            await stack.start({"smtp": smtp, "crash_quiet_s": 10.0, "sweep_s": 1.0})
            images = await stack.push_samples()
            async with GantryClient.open(stack.layout.url, stack.admin_key()) as client:
                yield Cloud(stack, Crashes(stack, client, images, 4, print), mail)
        finally:
            shutil.copytree(layout.logs, "build/e2e-logs", dirs_exist_ok=True)
            await stack.destroy()
    assert not stack.leftovers(), stack.leftovers()
    assert not stack.overruns, stack.overruns
