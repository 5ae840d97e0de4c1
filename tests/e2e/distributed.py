"""A cluster of many processes for end-to-end tests, with a sink for its mails."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra import provision
from infra.demo.story import Story
from infra.local.distributed import DistributedStack
from infra.local.layout import Layout
from infra.provision import Server
from infra.provision.sources import provided
from libs.client.api import GantryClient
from libs.common.errors import Unavailable
from services.main import STOP_S
from tests.fakes.mongo_guard import mongo_guard
from tests.mail import MailSink, mail_sink
from tests.matrix.parts import MONITOR

LOGS = Path("build/distributed-logs")
DUMP = f"Timeout ({timedelta(seconds=STOP_S)}".encode()  # what faulthandler's begins with
LENT = ("kafka", "mongo", "zookeeper", "registry")
"""Containers of the upstream images where those can be had, processes of this host elsewhere."""


class SpreadStory(Story):
    """The story of an app that must be on both hosts."""

    def spec(self, image: str, instances: int) -> dict[str, Any]:
        """See Story."""
        rule = {"attribute": "hostname", "operator": "GROUP_BY", "value": "2"}
        return {**super().spec(image, instances), "constraints": [rule]}


@dataclass
class Distributed:
    """The cluster under test."""

    stack: DistributedStack
    story: SpreadStory
    mail: MailSink

    async def ready(self) -> None:
        """Wait until the API answers for all services, whoever leads."""
        async with asyncio.timeout(180):
            while True:
                try:
                    answers = await self.story.client.instances(), await self.story.client.nodes()
                    if not any(each.incomplete for each in answers):
                        return
                except Unavailable:
                    pass
                await asyncio.sleep(0.2)

    def prefix(self, app: str) -> str:
        """How the names of an app's containers begin."""
        return f"gantry-{self.stack.layout.cluster}-{app.replace('/', '-')}-"

    async def loud_lines(self) -> list[str]:
        """The apps of lines in the audit trail that tell of a broken glass."""
        entries = (await self.story.client.audit()).entries
        return [each.target for each in entries if "BREAK GLASS" in each.detail]


@asynccontextmanager
async def distributed(
    ovs_dir: Path, replicas: int, size: int, guarded: bool = False
) -> AsyncIterator[Distributed]:
    """Start one; everything is gone afterwards, its logs are kept in LOGS.

    `guarded`: Kafka speaks SASL and TLS, and the store asks for a password.
    """
    root = Path(tempfile.mkdtemp(prefix="gd-", dir="/tmp"))
    cluster = f"many-{root.name[-4:].lower().replace('_', 'x')}"
    async with AsyncExitStack() as servers:
        aside = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp")))
        lent = {
            kind: await servers.enter_async_context(provided(kind, aside / kind, own=True))
            for kind in LENT
        }
        if guarded:
            kafka = provision.kafka(aside / "guarded-kafka", secure=True)
            lent["kafka"] = await servers.enter_async_context(kafka)
            lent["mongo"] = await servers.enter_async_context(_guarded(lent["mongo"], aside))
        layout = Layout(cluster, root, ovs_dir=ovs_dir)
        stack = DistributedStack(layout, replicas=replicas, lent=lent)
        async with _running(stack, size) as running:
            yield running


@asynccontextmanager
async def _guarded(mongo: Server, directory: Path) -> AsyncIterator[Server]:
    """The store behind a door that has users prove their password."""
    file, password = directory / "mongo.password", secrets.token_urlsafe(24)
    file.touch(mode=0o600)
    file.write_text(f"{password}\n")
    behind = urlsplit(mongo.url).port or 0
    async with mongo_guard({("gantry", "admin"): password}, behind) as guard:
        options = f"authSource=admin&passwordFile={file}"
        yield replace(mongo, url=f"mongodb://gantry@127.0.0.1:{guard.port}/?{options}")


@asynccontextmanager
async def _running(stack: DistributedStack, size: int) -> AsyncIterator[Distributed]:
    with mail_sink() as (mail, smtp):
        try:
            await stack.start({"smtp": smtp, "crash_quiet_s": 5.0, "sweep_s": 1.0, **MONITOR})
            images = await stack.push_samples()
            async with GantryClient.open(stack.layout.url, stack.admin_key()) as client:
                yield Distributed(stack, SpreadStory(stack, client, images, size, print), mail)
        finally:
            shutil.rmtree(LOGS, ignore_errors=True)
            shutil.copytree(stack.layout.logs, LOGS)
            await stack.destroy()
    assert not stack.leftovers(), stack.leftovers()
    assert not stack.overruns, stack.overruns
    assert not hung(LOGS), hung(LOGS)


def hung(logs: Path) -> list[str]:
    """Logs of services that would not end after SIGTERM: such a process says where, and ends by itself in time."""
    return sorted(each.name for each in logs.glob("*.log") if DUMP in each.read_bytes())
