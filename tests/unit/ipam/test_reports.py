"""What a host's report takes away, and what it does not: an attachment that its host has asked for again."""

from __future__ import annotations

from services.ipam.model import IpamConfig
from services.ipam.releases import Ending
from services.ipam.reports import Reports
from services.ipam.service import Ipam
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.ipam.test_service import claim, replica

CONFIG = IpamConfig.model_validate(
    {"networks": [{"name": "web", "vlan": 1, "cidr": "10.0.0.0/29", "cidr6": "fd00::/64"}]}
)
NOTHING: frozenset[str] = frozenset()


async def missed(world: World, ipam: Ipam) -> None:
    """`a` has been missing for long enough: with the next report its addresses go."""
    grace_s = ipam.config.leak_grace_s
    await ipam.allocate(claim("a"))
    await world.clock.sleep(grace_s)
    assert await ipam.report("h1", NOTHING) == 0
    await world.clock.sleep(grace_s)


@virtual
async def test_a_report_from_before_an_attachment_asked_again_frees_nothing(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), CONFIG)
    await missed(world, ipam)
    again = await ipam.allocate(claim("a"))
    stored = await ipam.store.of_attachment("a.eth0")
    assert tuple(stored) == again.addresses
    assert [each.missing_since for each in stored] == [None, None]
    assert await ipam.report("h1", NOTHING) == 0  # made before, come after
    assert len(await ipam.store.of_attachment("a.eth0")) == 2


@virtual
async def test_nor_does_one_that_is_being_looked_into_meanwhile(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), CONFIG)
    await missed(world, ipam)

    async def late(ending: Ending) -> bool:
        await ipam.allocate(claim("a"))
        return await ipam.release(ending)

    reports = Reports(
        ipam.store, ipam.config, ipam.catalogue, ipam.recovery, ipam.telling, world.clock, late
    )
    assert await reports.report("h1", NOTHING) == 0
    held = await ipam.store.of_attachment("a.eth0")
    assert [(each.family, each.missing_since) for each in held] == [(4, None), (6, None)]
    # It is not over, either: should it lose one of them, it may have another.
    (four, _) = held
    found = await ipam.conflict("a.eth0", four.address, four.generation, "02:00:00:00:00:09")
    assert found.primary.address != four.address


@virtual
async def test_an_attachment_that_is_lost_loses_both_addresses(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), CONFIG)
    await missed(world, ipam)
    assert await ipam.report("h1", NOTHING) == 2
    assert await ipam.store.of_attachment("a.eth0") == []
    assert await ipam.report("h1", NOTHING) == 0


@virtual
async def test_asking_again_costs_no_write(world: World) -> None:
    writes: list[str] = []
    small = SmallWorld(world.loop, on_write=lambda collection, write: writes.append(collection))
    ipam = await replica(small, CONFIG)
    await ipam.allocate(claim("a"))
    writes.clear()
    await ipam.allocate(claim("a"))
    assert writes == []
