"""Four ipam processes on one real store, 64 clients at once, and processes killed or stopped: no address twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from libs.common.errors import TooMany, Unavailable
from libs.common.runtime import open_store
from libs.common.store.base import Query
from services.ipam.model import Address, State, from_body
from services.ipam.store import ADDRESSES
from tests.contract.store.worlds import mongo_database
from tests.integration.ipam_processes import IpamHost, IpamProcesses, ipam_processes

REPLICAS, CLIENTS, RUN_S = 4, 64, 3.0
POOLS: dict[str, dict[str, Any]] = {
    "near": {"cidr": "10.9.0.0/27", "priority": 5, "zone": "a"},
    "far": {"cidr": "10.9.1.0/26"},
    "six": {"cidr": "fd00:9::/64"},
}
NETWORK: dict[str, Any] = {
    "name": "web",
    "vlan": 100,
    "pools": [{"name": name, **pool} for name, pool in POOLS.items()],
}
SETTINGS = {"networks": [NETWORK], "cooldown_s": 0.3, "leak_grace_s": 1}


@dataclass
class Ownership:
    """Who has which address by the answers: from the answer to a PUT until the DELETE is sent."""

    owners: dict[str, str] = field(default_factory=dict)
    given: int = 0
    full: int = 0

    def take(self, attachment: str, addresses: Sequence[str]) -> None:
        """Nobody else may have them."""
        for each in addresses:
            other = self.owners.setdefault(each, attachment)
            assert other == attachment, f"{each} is {other}'s and was given to {attachment}"
            self.given += 1

    def leave(self, addresses: Sequence[str]) -> None:
        """They are about to be given back."""
        for each in addresses:
            del self.owners[each]


async def _client(
    number: int, host: IpamHost, seen: Ownership, rng: random.Random, until: float
) -> None:
    loop, turn = asyncio.get_running_loop(), 0

    def going() -> bool:
        """A slow machine does as much in a longer time."""
        return loop.time() < until or seen.given <= 2 * CLIENTS

    while going():
        turn += 1
        attachment, zone = f"c{number}-{turn}.eth0", rng.choice(("", "a", "b"))
        try:
            got = await _insist(partial(host.put, attachment, zone=zone))
        except TooMany:
            seen.full += 1
            await asyncio.sleep(0.1)
            continue
        addresses = [each["address"] for each in got["addresses"]]
        assert [each["family"] for each in got["addresses"]] == [4, 6]
        for each in got["addresses"]:
            pool = POOLS[each["pool"]]
            assert ip_address(each["address"]) in ip_network(pool["cidr"])
            assert not (zone == "b" and each["pool"] == "near")
        seen.take(attachment, addresses)
        await asyncio.sleep(rng.uniform(0, 0.1))
        seen.leave(addresses)
        await _insist(partial(host.delete, attachment, got["generation"]))


async def _insist(ask: Callable[[], Awaitable[Any]]) -> Any:
    """A host repeats what it got no answer to."""
    while True:
        try:
            return await ask()
        except Unavailable:
            await asyncio.sleep(0.05)


async def _killer(processes: IpamProcesses, rng: random.Random, until: float) -> None:
    """Kills one, stops another in good order, and so on; both at least once."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.5)
    while True:
        for end in (processes.kill, processes.stop):
            victim = rng.choice(sorted(processes.running))
            await end(victim)
            await processes.start(victim)
        if loop.time() >= until - 0.5:
            return


@pytest.mark.parametrize("store", ["sqlite", "mongo"])
async def test_no_address_twice(store: str, tmp_path: Path, mongo_url: str) -> None:
    url = f"sqlite://{tmp_path / 'store.db'}" if store == "sqlite" else mongo_database(mongo_url)
    rng, seen = random.Random(7), Ownership()
    async with ipam_processes(tmp_path, url, SETTINGS, REPLICAS) as processes:
        await processes.start(*range(REPLICAS))
        hosts = [processes.host(f"h{n}", n % REPLICAS) for n in range(CLIENTS)]
        until = asyncio.get_running_loop().time() + RUN_S
        async with asyncio.TaskGroup() as group:
            group.create_task(_killer(processes, rng, until))
            for n, host in enumerate(hosts):
                group.create_task(_client(n, host, seen, random.Random(n), until))
        assert seen.given > 2 * CLIENTS and not seen.owners
        async with asyncio.timeout(90):
            while any(each.state is not State.RELEASED for each in await _stored(url)):
                # What a killed process had half done is nobody's: a leak, which two reports find.
                await asyncio.gather(*(_insist(partial(host.report, ())) for host in hosts))
                await asyncio.sleep(0.6)
        for host in hosts:
            await host.peers.close()
    assert sum(each.generation for each in await _stored(url)) >= seen.given


async def _stored(url: str) -> list[Address]:
    opened = await open_store(url)
    try:
        page = await (await opened.collection(ADDRESSES)).find(Query(limit=5000))
    finally:
        await opened.close()
    return [from_body(doc.version, doc.body) for doc in page.docs]
