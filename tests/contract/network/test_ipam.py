"""What hostd may expect of ipam: asked of the fake, and over its client of the real service."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import Conflict, NotFound, TooMany
from libs.common.http import Kind, call_json
from libs.common.peers import PeerClient
from libs.common.runtime import CommonConfig, open_runtime, open_shared
from libs.common.tokens import TokenSigner, party_keys
from services.hostd.ipam import HttpIpam
from services.hostd.model import Attachment, AttachmentId, AttachmentSpec, PendingRelease, Phase
from services.hostd.ports import IpamPort
from services.ipam.model import IpamConfig
from services.ipam.service import run
from tests.contract.network.conftest import BOTH
from tests.fakes.ipam import FakeIpam

NETWORKS = [
    {"name": "red", "vlan": 100, "cidr": "10.0.0.0/29", "gateway": "10.0.0.6"},
    {"name": "amber", "vlan": 200, "cidr": "10.2.0.0/29"},
    {"name": "lab", "vlan": 300, "cidr": "10.3.0.0/29", "environments": ["lab", "dev"]},
    {"name": "here", "vlan": 400, "pools": [{"name": "p", "cidr": "10.4.0.0/29", "zone": "a"}]},
    {"name": "there", "vlan": 500, "pools": [{"name": "p", "cidr": "10.5.0.0/29", "zone": "b"}]},
]
ZONE = "a"  # the host's
ROOM = 5
RESERVED = "10.2.0.1"  # as `db`, in amber


@pytest.fixture(params=BOTH)
async def ipam(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[IpamPort]:
    """An ipam with a small network, one with a reservation, and some that are not for all; without cool-down."""
    if request.param == "fake":
        fake = FakeIpam(
            red=(100, "10.0.0.0/29"),
            amber=(200, "10.2.0.0/29"),
            lab=(300, "10.3.0.0/29"),
            here=(400, "10.4.0.0/29"),
            there=(500, "10.5.0.0/29"),
        )
        fake.networks["amber"].reserved["db"] = RESERVED
        fake.networks["lab"].environments = frozenset({"lab", "dev"})
        fake.networks["here"].zone, fake.networks["there"].zone, fake.zone = "a", "b", ZONE
        yield fake
        return
    common = CommonConfig(data_dir=tmp_path, bus="memory:", store="memory:", log_level="error")
    config = IpamConfig.model_validate({"networks": NETWORKS, "cooldown_s": 0})
    async with (
        open_shared(common, {"ipam": config}) as shared,
        open_runtime(shared, "ipam") as rt,
        asyncio.TaskGroup() as group,
    ):
        task = group.create_task(run(rt))
        while "ipam" not in shared.local.apps:
            await asyncio.sleep(0.01)
        key = party_keys(shared.secret, Kind.HOST, "host-1")
        signer = TokenSigner(Kind.HOST, "host-1", key, SystemClock())
        peers = PeerClient(signer, {}, shared.local)
        path = "/v1/networks/amber/reservations/db"
        await call_json(rt.peers, "ipam", "PUT", path, {"address": RESERVED, "bu": "acme"})
        yield HttpIpam(peers, "host-1", ZONE)
        task.cancel()
        await peers.close()


def attachment(name: str, **spec: str) -> Attachment:
    return Attachment(
        id=AttachmentId(f"{random.Random(name).getrandbits(40):010x}"),
        container=name,
        ifname="eth0",
        ipam_key=f"{name}.eth0",
        spec=AttachmentSpec.model_validate({"network": "red", "instance": name, **spec}),
        phase=Phase.ADDRESSING,
        created_at=0.0,
    )


def release(of: Attachment, generation: int | None) -> PendingRelease:
    return PendingRelease(ipam_key=of.ipam_key, spec=of.spec, generation=generation, since=0.0)


async def test_the_same_attachment_gets_the_same_address(ipam: IpamPort) -> None:
    one = await ipam.allocate(attachment("one"))
    assert await ipam.allocate(attachment("one")) == one
    two = await ipam.allocate(attachment("two"))
    assert two.ip != one.ip
    assert (one.vlan, one.prefix, one.gateway) == (100, 29, "10.0.0.6")


async def test_a_released_address_is_given_again(ipam: IpamPort) -> None:
    first = [await ipam.allocate(attachment(f"a{n}")) for n in range(ROOM)]
    with pytest.raises(TooMany):
        await ipam.allocate(attachment("late"))
    await ipam.release(release(attachment("a2"), first[2].generation))
    again = await ipam.allocate(attachment("late"))
    assert again.ip == first[2].ip
    assert again.generation > first[2].generation


async def test_a_release_of_an_old_generation_changes_nothing(ipam: IpamPort) -> None:
    one = await ipam.allocate(attachment("one"))
    await ipam.release(release(attachment("one"), one.generation - 1))
    assert await ipam.allocate(attachment("one")) == one


async def test_releases_repeat_and_know_no_strangers(ipam: IpamPort) -> None:
    one = await ipam.allocate(attachment("one"))
    for _ in range(2):
        await ipam.release(release(attachment("one"), one.generation))
    await ipam.release(release(attachment("nobody"), 1))


async def test_a_release_whose_generation_nobody_knows(ipam: IpamPort) -> None:
    every = [await ipam.allocate(attachment(f"a{n}")) for n in range(ROOM)]
    await ipam.release(release(attachment("a1"), None))
    assert (await ipam.allocate(attachment("late"))).ip == every[1].ip
    await ipam.release(
        release(attachment("a1"), None)
    )  # it is over: nothing to find, nothing to say


async def test_what_it_refuses(ipam: IpamPort) -> None:
    with pytest.raises(NotFound):
        await ipam.allocate(attachment("one", network="green"))
    one = await ipam.allocate(attachment("one", ip="10.0.0.3"))
    assert one.ip == "10.0.0.3"
    with pytest.raises(Conflict):
        await ipam.allocate(attachment("two", ip="10.0.0.3"))


async def test_takes_the_report_of_what_lives(ipam: IpamPort) -> None:
    one = await ipam.allocate(attachment("one"))
    await ipam.report_live(["one.eth0"])
    assert await ipam.allocate(attachment("one")) == one


async def test_an_address_that_another_station_has_is_put_aside(ipam: IpamPort) -> None:
    one, mac = attachment("one"), "02:00:00:00:00:09"
    address = await ipam.allocate(one)
    for _ in range(2):  # the first answer may have been lost
        await ipam.conflict(one.model_copy(update={"address": address}), address.ip, mac)
    others = [await ipam.allocate(each) for each in (one, attachment("a"), attachment("b"))]
    assert address.ip not in {each.ip for each in others}
    certain = attachment("two", ip="10.0.0.5")
    given = await ipam.allocate(certain)
    with pytest.raises(Conflict):
        await ipam.conflict(certain.model_copy(update={"address": given}), given.ip, mac)
    with pytest.raises(TooMany):
        await ipam.allocate(attachment("late"))


async def test_tells_what_a_host_should_have(ipam: IpamPort) -> None:
    assert await ipam.known() == {}
    one = await ipam.allocate(attachment("one"))
    assert await ipam.known() == {"one.eth0": frozenset({(one.ip, one.generation)})}
    await ipam.release(release(attachment("one"), one.generation))
    assert await ipam.known() == {}


async def test_it_says_who_has_what(ipam: IpamPort) -> None:
    room = await ipam.room("red")
    one = attachment("one")
    assert not await ipam.holds(one)
    address = await ipam.allocate(one)
    with_it = one.model_copy(update={"address": address})
    assert await ipam.holds(with_it)
    older = address.model_copy(update={"generation": address.generation - 1})
    assert not await ipam.holds(one.model_copy(update={"address": older}))
    async with asyncio.timeout(10):  # a count may be of a moment ago
        while await ipam.room("red") != room - 1:
            await asyncio.sleep(0.05)
    await ipam.release(release(one, address.generation))
    assert not await ipam.holds(with_it)
    with pytest.raises(NotFound):
        await ipam.room("green")


async def test_a_reserved_address_is_given_by_its_name_only(ipam: IpamPort) -> None:
    owner = {"network": "amber", "app": "acme/db"}
    other = await ipam.allocate(attachment("acme-web-1", **owner))
    assert other.ip != RESERVED
    named = attachment("acme-db-1", **owner, reservation="db")
    given = await ipam.allocate(named)
    assert given.ip == RESERVED and await ipam.allocate(named) == given
    with pytest.raises(Conflict):
        await ipam.allocate(attachment("acme-db-2", **owner, reservation="db"))
    with pytest.raises(NotFound):
        await ipam.allocate(attachment("acme-db-3", **owner, reservation="none"))
    await ipam.release(release(named, given.generation))
    successor = await ipam.allocate(attachment("acme-db-2", **owner, reservation="db"))
    assert successor.ip == RESERVED and successor.generation > given.generation


async def test_a_network_for_an_environment_is_for_its_instances(ipam: IpamPort) -> None:
    given = await ipam.allocate(attachment("one", network="lab", environment="dev"))
    assert given.vlan == 300
    for other in ("", "prod"):
        with pytest.raises(NotFound):
            await ipam.allocate(attachment(f"not-{other}", network="lab", environment=other))
    assert (await ipam.allocate(attachment("two", environment="prod"))).vlan == 100


async def test_a_pool_for_a_zone_is_for_its_hosts(ipam: IpamPort) -> None:
    assert await ipam.room("here") > 0 == await ipam.room("there")
    assert (await ipam.allocate(attachment("one", network="here"))).vlan == 400
    with pytest.raises(NotFound):
        await ipam.allocate(attachment("two", network="there"))
