"""A released address rests: it is nobody else's for a while, also not by name."""

from __future__ import annotations

import pytest

from libs.common.errors import Conflict, TooMany
from services.ipam.model import IpamConfig
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.ipam.test_service import COOLDOWN_S, claim, config, give, replica, take
from tests.unit.ipam.world import served

CONFIG = IpamConfig.model_validate(
    {"networks": [{"name": "web", "vlan": 1, "cidr": "10.0.0.0/28"}], "cooldown_s": COOLDOWN_S}
)


@virtual
async def test_who_asks_for_it_by_name_waits_as_well(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), config())
    first = await give(ipam, claim("db-1", app="acme/db", requested="10.0.0.5"))
    assert await take(ipam, "db-1", first.generation)
    await world.clock.sleep(20)
    for other in (
        claim("x", requested="10.0.0.5"),
        claim("y", requested="10.0.0.5", app="acme/y"),
        claim("z", requested="10.0.0.5", sticky_key="acme/db/0"),
    ):
        with pytest.raises(TooMany, match=r"10.0.0.5 is cooling down, and free in 40 s") as caught:
            await ipam.allocate(other)
        assert caught.value.retry_after_s == 40
    await world.clock.sleep(40)
    assert (await give(ipam, claim("x", requested="10.0.0.5"))).generation == 2


@virtual
async def test_its_own_app_need_not_wait(world: World) -> None:
    """A replacement asks for it as soon as its predecessor has gone."""
    ipam = await replica(SmallWorld(world.loop), config())
    first = await give(ipam, claim("db-1", app="acme/db", requested="10.0.0.5"))
    assert await take(ipam, "db-1", first.generation)
    again = await give(ipam, claim("db-2", app="acme/db", requested="10.0.0.5"))
    assert (again.address, again.generation) == (first.address, 2)


@virtual
async def test_nor_who_keeps_it(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), config())
    first = await give(ipam, claim("s-1", sticky_key="acme/s/0"))
    assert await take(ipam, "s-1", first.generation)
    with pytest.raises(Conflict, match="is held for somebody else"):
        await ipam.allocate(claim("x", requested=first.address))
    mine = claim("s-2", sticky_key="acme/s/0", requested=first.address)
    assert (await give(ipam, mine)).generation == 2


@virtual
async def test_nobody_reserves_what_was_somebody_elses_a_moment_ago(world: World) -> None:
    async with served(world, CONFIG) as ipam:
        path = "/v1/networks/web/reservations"
        got = await ipam.claim("db-1", app="acme/db", instance="acme-db-1")
        await ipam.host("DELETE", "/v1/attachments/db-1.eth0?generation=1")
        address = got["address"]
        for body in ({"bu": "globex"}, {"bu": "acme", "app": "web"}, {}):
            with pytest.raises(TooMany, match=f"{address} is cooling down, and free in"):
                await ipam.ask("PUT", f"{path}/other", {**body, "address": address})
        body = {"bu": "acme", "app": "db", "address": address}
        assert (await ipam.ask("PUT", f"{path}/db", body))["state"] == "reserved"
        other = await ipam.claim("x")
        await ipam.host("DELETE", "/v1/attachments/x.eth0?generation=1")
        await world.clock.sleep(COOLDOWN_S)
        assert await ipam.ask("PUT", f"{path}/other", {"address": other["address"]})
