"""Elections of each kind, and candidates in processes of their own."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from infra.provision import Server
from tests.contract.store.worlds import mongo_database
from tests.servers import MARK

TTL_S = 6.0
SOON_S = 5.0  # what a busy machine may take for what should take no time
_places = itertools.count(1)


@dataclass
class Member:
    """One candidate."""

    name: str
    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Collect what it says."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(orjson.loads(line))

    def said(self, what: str) -> list[dict[str, Any]]:
        """Its lines of that kind."""
        return [each for each in self.lines if each["what"] == what]

    def leads(self) -> bool:
        """Does it lead, by what it said last about that."""
        about = [each["what"] for each in self.lines if each["what"] in ("leads", "lost")]
        return about[-1:] == ["leads"]

    def signal(self, number: signal.Signals) -> None:
        """To the process."""
        self.process.send_signal(number)


@dataclass
class World:
    """One election; `server` is what elects."""

    kind: str
    store_url: str
    election_url: str
    server: Server
    members: list[Member] = field(default_factory=list)

    async def stand(self, name: str) -> Member:
        """A new candidate; returns when it stands."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.election.member"),
            *(self.store_url, self.election_url, str(TTL_S), name),
            stdout=asyncio.subprocess.PIPE,
        )
        member = Member(name, process)
        member.reader = asyncio.create_task(member.read())
        self.members.append(member)
        await until(lambda: bool(member.lines), 60.0)
        return member

    async def two(self) -> tuple[Member, Member]:
        """A leader and its standby."""
        one, other = await asyncio.gather(self.stand("one"), self.stand("other"))
        await until(lambda: one.leads() or other.leads(), 30.0)
        return (one, other) if one.leads() else (other, one)

    def check(self) -> None:
        """Nobody acted, nor wrote, once another had taken over."""
        taken = [each for member in self.members for each in member.said("leads")]
        for member in self.members:
            for what in ("acts", "wrote"):
                for each in member.said(what):
                    newer = [t["at"] for t in taken if t["epoch"] > each["epoch"]]
                    assert each["at"] <= min(newer, default=each["at"]) + 0.05, (member.name, each)


async def until(holds: Callable[[], bool], within_s: float) -> float:
    """Wait for it; how long it took."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)
    return time.monotonic() - began


@asynccontextmanager
async def _world(kind: str, server: Server, store_url: str) -> AsyncIterator[World]:
    url = "store" if kind == "store" else f"{server.url}/{MARK}/{next(_places)}"
    world = World(kind, store_url, url, server)
    try:
        yield world
    finally:
        for each in world.members:
            if each.process.returncode is None:
                each.process.kill()
            await each.process.wait()
            if each.reader is not None:
                await each.reader


@pytest.fixture(params=["store", "zookeeper"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """By a lease in MongoDB, and by ZooKeeper beside a store that is never away.

    Not SQLite: a leader that is paused while it writes keeps everybody else from writing.
    """
    if request.param == "store":
        server: Server = request.getfixturevalue("own_mongo")
        store_url = mongo_database(server.url)
    else:
        server = request.getfixturevalue("zookeeper_server")
        store_url = mongo_database(request.getfixturevalue("mongo_url"))
    async with _world(request.param, server, store_url) as made:
        yield made
