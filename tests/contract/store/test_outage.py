"""A database that goes away: calls say so in time, and go on by themselves when it is back.

It is stopped in good order; that one which is killed keeps what it acknowledged is looked at in test_provisioner.py.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra import provision
from infra.provision import Server
from libs.common.errors import Unavailable
from libs.common.store.base import CollectionSpec, Write
from libs.common.store.mongo import MongoStore


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server of this test's own, to be stopped."""
    directory = Path(tempfile.mkdtemp(prefix="gantry-"))
    try:
        async with provision.mongo(directory / "m", own=True) as started:
            yield started
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def test_calls_are_unavailable_while_the_server_is_away(server: Server) -> None:
    store = await MongoStore.open(f"{server.url}/outage")
    things = await store.collection(CollectionSpec("things"))
    done = 0
    for n in range(50):
        (result,) = await things.replace_many([Write(f"d{n}", 0, {"n": n})])
        done += result.ok
    await server.stop()
    async with asyncio.timeout(15):
        with pytest.raises(Unavailable):
            await things.get("d0")
        with pytest.raises(Unavailable):
            await things.replace_many([Write("late", 0, {})])
    await server.start()
    async with asyncio.timeout(30):
        while True:
            try:
                assert await things.count() == done == 50
                break
            except Unavailable:
                await asyncio.sleep(0.1)
    await store.close()
