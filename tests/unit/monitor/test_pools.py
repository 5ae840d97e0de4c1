"""Which pools run low: shares and counts, small pools, pools that stand in for each other, and the alert's life."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from libs.common.errors import Unavailable
from libs.common.http import call_json, reply
from services.ipam.model import IpamConfig
from services.ipam.service import run as run_ipam
from services.monitor.model import MonitorConfig
from services.monitor.pools import ask, stocks, why_low
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.monitor.test_components import Hosts
from tests.unit.monitor.test_service import Desk, within

CONFIG = MonitorConfig()


def pool(free: int, usable: int, name: str = "default", **more: Any) -> dict[str, Any]:
    return {"pool": name, "cidr": "10.0.0.0/8", "free": free, "usable": usable, **more}


def network(*pools: dict[str, Any], name: str = "blue") -> dict[str, Any]:
    return {"network": name, "pools": list(pools)}


def low(*pools: dict[str, Any], firing: bool = False) -> list[str]:
    """The places that are low."""
    return [s.place for s in stocks([network(*pools)]) if why_low(s, CONFIG, firing)]


@pytest.mark.parametrize(
    ("free", "usable", "is_low", "stays"),
    [
        (26, 253, False, True),  # a tenth of a /24 is 25.3
        (25, 253, True, True),
        (32, 253, False, False),
        (16, 100, False, True),  # fewer than 16
        (15, 100, True, True),
        (20, 100, False, False),
        (4, 13, False, True),  # a /28: no more than a quarter is little
        (3, 13, True, True),
        (13, 13, False, False),
        (1, 2, False, False),
        (0, 2, True, True),
        (1, 1, False, False),
        (0, 0, False, False),  # all of it is excluded: nobody expects anything of it
        (2**60, 2**64 - 3, True, True),
    ],
)
def test_little_is_a_share_or_a_count(free: int, usable: int, is_low: bool, stays: bool) -> None:
    assert bool(low(pool(free, usable))) is is_low
    assert bool(low(pool(free, usable), firing=True)) is stays


def test_a_pool_is_not_low_while_another_stands_in_for_it() -> None:
    first = pool(0, 253, "old", priority=9)
    assert low(first) == ["blue/old"]
    assert low(first, pool(200, 253, "new")) == []
    assert low(first, pool(20, 253, "new")) == ["blue/new+old"]
    for elsewhere in ({"zone": "b"}, {"bus": ["acme"]}, {"cidr": "fd00::/64"}):
        assert low(first, pool(200, 253, "new", **elsewhere)) == ["blue/old"]


def test_it_says_where_the_addresses_are() -> None:
    (stock,) = stocks([network(pool(3, 61, cooling=40, quarantined=2, held=0))])
    told = why_low(stock, CONFIG, firing=False)
    assert told == "blue/default: 3 of 61 addresses are free (40 cooling, 2 quarantined)"


async def test_what_ipam_does_not_tell_is_not_judged() -> None:
    with pytest.raises(Unavailable):
        await ask(Hosts({}), 1.0)
    with pytest.raises(Unavailable, match="can't be read"):
        await ask(Hosts({"ipam": reply({"networks": [{"pools": [{"cidr": "x"}]}]})}), 1.0)


CLAIM = {"network": "blue", "attempt": "a", "host": "h1"}
LOW = "pool-low:blue/default"


@virtual
async def test_a_pool_that_runs_out_is_told_once_and_so_is_its_end(world: World) -> None:
    networks = [{"name": "blue", "vlan": 7, "cidr": "10.0.0.0/27"}]
    config = IpamConfig.model_validate({"networks": networks, "cooldown_s": 5})
    small = SmallWorld(world.loop, settings={"ipam": config})
    desk = Desk(small)
    ipam = asyncio.create_task(run_ipam(small.runtime("ipam", "ipam-1")))
    await world.clock.sleep(1)
    monitor = desk.start()
    peers = small.runtime("scheduler", "scheduler-1").peers

    async def attach(n: int) -> int:
        content = {**CLAIM, "instance": f"acme-web-{n}"}
        answer = await call_json(peers, "ipam", "PUT", f"/v1/attachments/i{n}", content)
        return int(answer["generation"])

    for n in range(22):
        await attach(n)
    await world.clock.sleep(120)
    assert desk.mails.told == []  # 8 of 30 are free: of so small a pool a quarter is little
    generations = {n: await attach(n) for n in range(22, 25)}
    await within(world, 120, (LOW, True), desk=desk)
    assert "5 of 30 addresses are free" in small.store.bodies("monitor_alerts")[LOW]["summary"]
    path = "/v1/attachments/i22?generation="
    await call_json(peers, "ipam", "DELETE", f"{path}{generations[22]}")
    await world.clock.sleep(120)
    assert desk.alert(LOW)  # 6 are free: no flutter at the limit
    ipam.cancel()  # that nothing is known of the pools ends no alert
    await asyncio.wait([ipam])
    await world.clock.sleep(120)
    assert desk.alert(LOW)
    other = [{"name": "blue", "vlan": 7, "pools": [{"name": "new", "cidr": "10.9.0.0/24"}]}]
    small.settings["ipam"] = IpamConfig.model_validate({"networks": other})
    ipam = asyncio.create_task(run_ipam(small.runtime("ipam", "ipam-2")))
    await within(world, 120, (LOW, True), (LOW, False), desk=desk, about=LOW)
    for task in (ipam, monitor):
        task.cancel()
