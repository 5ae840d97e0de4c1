"""Calls that a master refuses with 401 while the subscription stands: they are made again with what the file holds."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from libs.mesos import events
from libs.mesos.credentials import CredentialFile
from libs.mesos.errors import AccessDenied
from libs.mesos.framework import FrameworkClient
from libs.mesos.messages import TaskStatus
from tests.frameworks import KINDS, make_client
from tests.unit.mesos.server import Peer, peer, stream, subscribed
from tests.unit.mesos.test_clients import FRAMEWORK

STATUSES: list[TaskStatus] = [
    {
        "task_id": {"value": f"t{n}"},
        "state": "TASK_RUNNING",
        "agent_id": {"value": "a"},
        "uuid": f"u{n}",
    }
    for n in range(3)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The secret as our services are given it."""
    (tmp_path / "secret").write_text("se\n")
    return tmp_path / "secret"


@pytest_asyncio.fixture
async def master() -> AsyncIterator[Peer]:
    """One that takes any SUBSCRIBE, and calls with the secret `other` only."""
    taken = "Basic " + b64encode(b"pr:other").decode()

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await stream(request, [subscribed()], hold_s=30)
        known = request.headers.get("Authorization") == taken
        return web.Response(status=202 if known else 401, text="" if known else "who?")

    async with peer(handler) as found:
        yield found


@pytest_asyncio.fixture(params=KINDS)
async def client(
    request: pytest.FixtureRequest, master: Peer, file: Path
) -> AsyncIterator[FrameworkClient]:
    """Subscribed with the secret `se`, through one driver and then the other."""
    async with aiohttp.ClientSession() as session:
        credentials = CredentialFile("pr", file)
        made = make_client(request.param, session, [master.url], FRAMEWORK, credentials=credentials)
        async with asyncio.timeout(60), made.subscribe() as events_:
            assert isinstance(await anext(events_), events.Subscribed)
            yield made


async def test_calls_are_made_again_with_what_the_file_holds_now(
    client: FrameworkClient, master: Peer, file: Path
) -> None:
    with pytest.raises(AccessDenied):
        await client.revive()
    assert master.types() == ["SUBSCRIBE", "REVIVE"], "the same secret is not tried twice"
    file.write_text("other\n")
    await client.acknowledge_all(STATUSES)
    await client.revive()
    before = len(master.calls)
    await client.suppress()
    assert len(master.calls) == before + 1, "the other secret is kept"


async def test_a_secret_that_is_gone_or_empty_leaves_the_present_one(
    client: FrameworkClient, file: Path
) -> None:
    file.write_text("\n")
    with pytest.raises(AccessDenied):
        await client.revive()
    file.unlink()
    with pytest.raises(AccessDenied):
        await client.revive()
    file.write_text("other\n")
    await client.revive()
