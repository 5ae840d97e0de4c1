"""The gauges of a pool, with addresses in every state that there is."""

from __future__ import annotations

import pytest

from services.ipam.model import IpamConfig, Shown
from services.ipam.reservations import ReservationBody
from services.ipam.service import Ipam
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.ipam.test_service import claim, give, take

CONFIG = IpamConfig.model_validate(
    {
        "networks": [
            {
                "name": "web",
                "vlan": 1,
                "cidr": "10.0.0.0/28",
                "excluded": ["10.0.0.12-10.0.0.14"],
                "pools": [{"name": "more", "cidr": "10.0.1.0/30", "priority": -1}],
            }
        ],
        "cooldown_s": 60.0,
        "hold_s": 600.0,
    }
)


@virtual
async def test_each_state_is_counted(world: World) -> None:
    rt = SmallWorld(world.loop).runtime("ipam", "ipam-1")
    ipam = await Ipam.open(rt, CONFIG)

    async def read() -> tuple[dict[str, float], float]:
        await ipam.telling.look(ipam.catalogue.pools())
        lines = rt.telemetry.exposition().decode().splitlines()
        values = dict(each.rsplit(" ", 1) for each in lines if not each.startswith("#"))
        where = 'network="web",pool="default"'
        states = {
            state.value: float(values[f'gantry_ipam_addresses{{{where},state="{state}"}}'])
            for state in Shown
        }
        return states, float(values[f"gantry_ipam_pool_utilisation_ratio{{{where}}}"])

    unused = {each.value: 0.0 for each in Shown} | {"free": 11, "excluded": 5}
    assert await read() == (unused, 0.0)
    (network,) = ipam.catalogue
    await ipam.reservations.put(network, "db", ReservationBody(), "ann", None)
    await give(ipam, claim("allocated"))
    cooling = await give(ipam, claim("cooling"))
    held = await give(ipam, claim("held", sticky_key="acme/held/0"))
    lost = await give(ipam, claim("lost"))
    assert await take(ipam, "cooling", cooling.generation)
    assert await take(ipam, "held", held.generation)
    await ipam.conflict("lost.eth0", lost.address, lost.generation, "02:00:00:00:00:09")
    states, ratio = await read()
    assert states == {
        "free": 5,
        "allocated": 2,  # who lost one has another
        "held": 1,
        "cooling": 1,
        "quarantined": 1,
        "reserved": 1,
        "excluded": 5,
    }
    assert ratio == pytest.approx(6 / 11)
    await world.clock.sleep(61.0)
    assert (await read())[0] == {**states, "free": 6, "cooling": 0}
    await ipam.reservations.delete(network, "db", "ann", None)
    await world.clock.sleep(600.0)
    states, ratio = await read()
    assert states == unused | {"free": 8, "allocated": 2, "quarantined": 1}
    assert ratio == pytest.approx(3 / 11)


@virtual
async def test_of_a_pool_that_is_gone_nothing_is_told(world: World) -> None:
    rt = SmallWorld(world.loop).runtime("ipam", "ipam-1")
    ipam = await Ipam.open(rt, CONFIG)
    pools = ipam.catalogue.pools()
    await ipam.telling.look(pools)
    await ipam.telling.look(pools[:1])
    told = rt.telemetry.exposition().decode()
    assert 'pool="default"' in told and 'pool="more"' not in told
