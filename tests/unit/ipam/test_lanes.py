"""A slow pool is waited for by who wants an address of it, and by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from libs.common.errors import TooMany, Unavailable
from services.ipam.batch import Lanes
from services.ipam.jobs import Allocation
from services.ipam.model import Address, Claim, IpamConfig
from services.ipam.pools import Pool
from services.ipam.service import Ipam
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.ipam.test_service import replica

SLOW_S = 30.0
CONFIG = IpamConfig.model_validate(
    {
        "networks": [
            {"name": "slow", "vlan": 1, "cidr": "10.0.0.0/30"},
            {"name": "web", "vlan": 2, "cidr": "10.1.0.0/24"},
        ]
    }
)


def of(network: str, n: int) -> Claim:
    """Any address of it."""
    name = f"acme-{network}-{n}"
    return Claim(f"{network}-{n}.eth0", network, name, f"{name}.1", "h1")


async def slow_to_count(world: World, ipam: Ipam) -> None:
    """Its network `slow` is full, and counting that takes as long as it would with millions of addresses."""
    count = ipam.store.counts

    async def counts(pool: Pool, now: float) -> dict[str, int]:
        if pool.network == "slow":
            await world.clock.sleep(SLOW_S)
        return await count(pool, now)

    for n in range(2):
        await ipam.allocate(of("slow", n))
    ipam.store.counts = counts  # type: ignore[method-assign]


async def took_s(world: World, ipam: Ipam, n: int) -> float:
    """How long it takes to get an address of `web`."""
    began = world.clock.monotonic()
    await ipam.allocate(of("web", n))
    return world.clock.monotonic() - began


@virtual
async def test_while_a_full_pool_is_counted_others_get_theirs(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), CONFIG)
    await slow_to_count(world, ipam)
    began = world.clock.monotonic()
    full = [asyncio.create_task(ipam.allocate(of("slow", n))) for n in (7, 8)]
    await asyncio.sleep(0.1)
    assert await took_s(world, ipam, 1) < 0.1
    for each in await asyncio.gather(*full, return_exceptions=True):
        assert isinstance(each, TooMany) and str(each) == "network slow is full"
    assert world.clock.monotonic() - began < 2.0
    # Nor is it tried again by everybody who comes: that would be ever more counting.
    began = world.clock.monotonic()
    with pytest.raises(TooMany):
        await ipam.allocate(of("slow", 9))
    assert world.clock.monotonic() - began < 0.1
    # Once it has been counted, in the background, the answer says so, and how old that is.
    (pool,) = next(each.pools for each in ipam.catalogue if each.name == "slow")
    await ipam.tally.of(pool)
    await world.clock.sleep(20.0)
    with pytest.raises(TooMany, match=r"of 2 addresses 2 are allocated, .* as counted 20 s ago"):
        await ipam.allocate(of("slow", 10))


@virtual
async def test_while_a_pool_is_slow_to_give_others_get_theirs(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), CONFIG)
    for n in range(2):
        await ipam.allocate(of("slow", n))
    rested = ipam.store.rested

    async def slowly(pool: Pool, now: float, limit: int) -> list[Address]:
        if pool.network == "slow":
            await world.clock.sleep(SLOW_S)
        return await rested(pool, now, limit)

    ipam.store.rested = slowly  # type: ignore[method-assign]
    waiting = asyncio.create_task(ipam.allocate(of("slow", 3)))
    await asyncio.sleep(0.1)
    assert await took_s(world, ipam, 1) < 0.1
    assert not waiting.done()
    with pytest.raises(TooMany):
        await waiting


@virtual
async def test_a_burst_has_an_answer_for_each_network(world: World) -> None:
    small = SmallWorld(world.loop)
    ipam = await replica(small, CONFIG)
    wanted = [of("slow", 0), of("web", 0), of("nowhere", 0), of("slow", 1), of("slow", 2)]
    results = await ipam.allocate_many(wanted)
    networks = [each.network.name if isinstance(each, Allocation) else "" for each in results]
    assert sorted(networks) == ["", "", "slow", "slow", "web"]
    assert [type(each).__name__ for each in results if not isinstance(each, Allocation)] == [
        "NotFound",
        "UsedUp",
    ]
    small.faults.away["store"] += 1
    results = await ipam.allocate_many([of("slow", 8), of("web", 8)])
    assert all(isinstance(each, Unavailable) for each in results)


@virtual
async def test_lanes_are_bounded_and_go_when_nobody_is_in_them(world: World) -> None:
    at_work: dict[str, int] = {}
    most = 0

    async def handle(items: Sequence[str]) -> list[str]:
        nonlocal most
        for each in items:
            at_work[each] = at_work.get(each, 0) + 1
        most = max(most, len(at_work))
        await asyncio.sleep(1.0)
        for each in items:
            del at_work[each]
        return list(items)

    lanes: Lanes[str, str] = Lanes(handle, limit=1, most=3, queue_limit=8)
    asked = [asyncio.create_task(lanes.submit(f"n{n}", f"n{n}")) for n in range(8)]
    await asyncio.sleep(0.5)
    with pytest.raises(Unavailable, match="8 wait already"):
        await lanes.submit("n9", "n9")
    assert await asyncio.gather(*asked) == [f"n{n}" for n in range(8)]
    assert most == 4, "three, and the one that the others share"
    assert not lanes._lanes
    await asyncio.gather(*(lanes.submit("a", f"a{n}") for n in range(3)))
    assert not lanes._lanes
