"""Several replicas of ipam on one store, in virtual time, interleaved at random and with failing stores."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import Conflict, GantryError, TooMany, Unavailable
from libs.common.http import Kind, call_json
from libs.common.store.base import Write
from services.ipam.definition import NetworkConfig
from services.ipam.model import Address, Claim, IpamConfig
from services.ipam.releases import Ending
from services.ipam.service import Ipam, run
from services.ipam.store import ADDRESSES
from tests.simulation.faults import Point
from tests.simulation.life import Life
from tests.simulation.loop import World, virtual
from tests.simulation.loop import run as run_virtual
from tests.simulation.process import client_of
from tests.simulation.small import SmallWorld

COOLDOWN_S = 60.0


def config(cidr: str = "10.0.0.0/29", **fields: object) -> IpamConfig:
    """One network, `web`; a /29 has six addresses."""
    web = NetworkConfig.model_validate({"name": "web", "cidr": cidr, "vlan": 100, **fields})
    return IpamConfig(networks=(web,), cooldown_s=COOLDOWN_S)


@dataclass
class Watch:
    """Sees every write: generations only grow, and never has one address two owners."""

    last: dict[str, tuple[int, str]] = field(default_factory=dict)
    allocations: int = 0

    def __call__(self, collection: str, write: Write) -> None:
        """One write took effect."""
        if collection != ADDRESSES.name:
            return
        generation, owner = int(write.body["generation"]), str(write.body.get("attachment", ""))
        known, held = self.last.get(write.id, (0, ""))
        assert generation >= known
        if owner and owner != held:
            assert held == "", f"{write.id} goes from {held} to {owner} without a release"
            assert generation == known + 1
            self.allocations += 1
        self.last[write.id] = (generation, owner)
        owners = Counter(who for _, who in self.last.values() if who)
        assert all(count == 1 for count in owners.values())


def claim(name: str, host: str = "h1", **fields: Any) -> Claim:
    """What the attachment `name` asks for."""
    return Claim(f"{name}.eth0", "web", f"acme-{name}", f"acme-{name}.1", host, **fields)


async def replica(small: SmallWorld, given: IpamConfig, name: str = "ipam-1") -> Ipam:
    """A replica, without its background work."""
    rt = small.runtime("ipam", name)
    return await Ipam.open(rt, given)


async def give(ipam: Ipam, wanted: Claim) -> Address:
    """The (first) address that a claim gets."""
    return (await ipam.allocate(wanted)).primary


async def take(ipam: Ipam, name: str, generation: int, host: str = "") -> bool:
    """Release what the attachment `name` has."""
    return await ipam.release(Ending(f"{name}.eth0", generation, "del", "test", host))


async def _storm(world: World, rng: random.Random, actors: int, faulty: bool) -> None:
    watch = Watch()
    small = SmallWorld(world.loop, rng.randrange(1 << 30), on_write=watch)
    given_config = config("10.0.0.0/28")
    replicas = [await replica(small, given_config, f"ipam-{n}") for n in range(3)]
    small.faults.on = True
    rates = {Point.STORE_DELAY: 0.5, Point.STORE_FAILS: 0.02, Point.STORE_REPLY_LOST: 0.05}
    small.faults.rates = {
        point: rates.get(point, 0.0) if faulty or point is Point.STORE_DELAY else 0.0
        for point in Point
    }
    live: dict[str, str] = {}

    async def actor(number: int) -> None:
        for turn in range(8):
            name = f"c{number}-{turn}"
            address = await _insist(rng, replicas, claim(name))
            if address is None:
                await asyncio.sleep(rng.uniform(0, 2 * COOLDOWN_S))
                continue
            ip, generation = address
            assert ip not in live.values()
            live[name] = ip
            await asyncio.sleep(rng.expovariate(0.1))
            again = await _insist(rng, replicas, claim(name))
            assert again == (ip, generation), "the same claim gets the same address"
            stale = rng.choice(replicas)
            try:
                assert not await take(stale, name, generation - 1)
            except Unavailable:
                pass
            assert await _insist(rng, replicas, claim(name)) == (ip, generation)
            del live[name]
            while True:
                try:
                    await take(rng.choice(replicas), name, generation)
                    break
                except Unavailable:
                    await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        for number in range(actors):
            group.create_task(actor(number))
    assert watch.allocations > actors
    assert not any(owner for _, owner in watch.last.values())


async def _insist(
    rng: random.Random, replicas: list[Ipam], wanted: Claim
) -> tuple[str, int] | None:
    while True:
        try:
            address = await give(rng.choice(replicas), wanted)
            return address.address, address.generation
        except TooMany:
            return None
        except Unavailable:
            await asyncio.sleep(rng.uniform(0, 0.5))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(2, 12), st.booleans())
def test_no_address_is_given_twice(seed: int, actors: int, faulty: bool) -> None:
    run_virtual(lambda world: _storm(world, random.Random(seed), actors, faulty), seed)


@virtual
async def test_racing_claims_of_one_attachment_get_one_address(world: World) -> None:
    small = SmallWorld(world.loop, on_write=Watch())
    replicas = [await replica(small, config(), f"ipam-{n}") for n in range(4)]
    small.faults.on, small.faults.rates = True, dict.fromkeys(Point, 0.0) | {Point.STORE_DELAY: 0.9}
    got = await asyncio.gather(*(give(each, claim("a")) for each in replicas for _ in range(3)))
    assert len({address.address for address in got}) == 1


@virtual
async def test_oldest_released_first_and_never_before_its_rest(world: World) -> None:
    small = SmallWorld(world.loop)
    ipam = await replica(small, config())
    got = [await give(ipam, claim(f"a{n}")) for n in range(6)]
    for n in (3, 0, 5):
        assert await take(ipam, f"a{n}", 1)
        await world.clock.sleep(10)
    with pytest.raises(TooMany, match="6 addresses 3 are allocated, 3 are cooling"):
        await ipam.allocate(claim("early"))
    await world.clock.sleep(COOLDOWN_S - 30)
    again = await give(ipam, claim("b0"))
    assert (again.address, again.generation) == (got[3].address, 2)
    await world.clock.sleep(20)
    order = [(await give(ipam, claim(f"b{n}"))).address for n in (1, 2)]
    assert order == [got[0].address, got[5].address]


@virtual
async def test_a_finished_attachment_gets_nothing_any_more(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), config())
    address = await give(ipam, claim("a"))
    assert await take(ipam, "a", address.generation)
    with pytest.raises(Conflict, match="is over"):
        await ipam.allocate(claim("a"))
    assert not await take(ipam, "b", 1)  # the end overtakes the beginning
    with pytest.raises(Conflict, match="is over"):
        await ipam.allocate(claim("b"))


@virtual
async def test_a_failed_write_costs_no_address(world: World) -> None:
    small = SmallWorld(world.loop)
    ipam = await replica(small, config())
    small.faults.away["store"] += 1
    for n in range(3):
        with pytest.raises(Unavailable):
            await ipam.allocate(claim(f"x{n}"))
    small.faults.away["store"] -= 1
    small.faults.on = True
    small.faults.rates = dict.fromkeys(Point, 0.0) | {Point.STORE_BATCH_CUT: 1.0}
    small.faults.rng.seed(1)
    for n in range(3):
        with pytest.raises(Unavailable):
            while True:
                await ipam.allocate(claim(f"y{n}"))
                await take(ipam, f"y{n}", 1)
    small.faults.on = False
    await world.clock.sleep(2 * COOLDOWN_S)
    names = [f"y{n}" for n in range(3)] + [f"z{n}" for n in range(6)]
    held = 0
    for name in names:
        try:
            await ipam.allocate(claim(name))
            held += 1
        except GantryError:
            pass
    assert held == 6, "all six addresses of a /29 can be given"


@virtual
async def test_an_address_skipped_by_a_replica_that_died_is_found(world: World) -> None:
    small = SmallWorld(world.loop)
    first, second = [await replica(small, config(), f"ipam-{n}") for n in (1, 2)]
    await first.allocate(claim("a"))
    stock = first._stock_of(next(iter(first.catalogue)).pools[0])
    await stock.pick(3)  # it dies with them
    for n in range(5):
        await second.allocate(claim(f"b{n}"))
    with pytest.raises(TooMany):
        await second.allocate(claim("c"))


@virtual
async def test_a_full_network_says_so(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), config())
    for n in range(6):
        await ipam.allocate(claim(f"a{n}"))
    with pytest.raises(TooMany) as caught:
        await ipam.allocate(claim("b"))
    assert str(caught.value) == (
        "network web is full: of 6 addresses 6 are allocated, 0 are cooling down, 0 are in quarantine"
    )


@virtual
async def test_sticky_and_requested_addresses(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), config())
    first = await give(ipam, claim("db-1", sticky_key="db-0"))
    await take(ipam, "db-1", 1)
    other = await give(ipam, claim("x"))
    assert other.address != first.address
    again = await give(ipam, claim("db-2", sticky_key="db-0"))
    assert (again.address, again.generation) == (first.address, 2)
    asked = await give(ipam, claim("y", requested="10.0.0.5"))
    assert asked.address == "10.0.0.5"
    with pytest.raises(Conflict, match="is allocated"):
        await ipam.allocate(claim("z", requested="10.0.0.5"))
    with pytest.raises(Conflict, match="not an address"):
        await ipam.allocate(claim("z", requested="10.0.0.7"))


@virtual
async def test_of_several_sticky_addresses_the_last_one_is_given_again(world: World) -> None:
    """Two were under the key once, since the one had to come before the other was back."""
    ipam = await replica(SmallWorld(world.loop), config())
    older = await give(ipam, claim("db-1", sticky_key="db-0"))
    newer = await give(ipam, claim("db-2", sticky_key="db-0"))
    await take(ipam, "db-1", older.generation)
    await world.clock.sleep(1)
    await take(ipam, "db-2", newer.generation)
    again = await give(ipam, claim("db-3", sticky_key="db-0"))
    assert (again.address, older.address != newer.address) == (newer.address, True)


@virtual
async def test_leaks_are_collected_after_two_reports(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), config())
    grace_s = ipam.config.leak_grace_s
    for name in ("a", "b"):
        await ipam.allocate(claim(name))
    await world.clock.sleep(grace_s)
    assert await ipam.report("h1", frozenset({"a.eth0"})) == 0
    assert await ipam.report("h1", frozenset({"a.eth0"})) == 0
    await world.clock.sleep(grace_s)
    assert await ipam.report("h2", frozenset()) == 0
    assert await ipam.report("h1", frozenset({"a.eth0"})) == 1
    assert [each.attachment for each in await ipam.store.on_host("h1")] == ["a.eth0"]


@virtual
async def test_a_host_speaks_for_itself_only(world: World) -> None:
    small = SmallWorld(world.loop, settings={"ipam": config()})
    server = asyncio.create_task(run(small.runtime("ipam", "ipam-1")))
    clients = {
        host: client_of(small, Life(world.loop, f"hostd@{host}"), Kind.HOST, host)
        for host in ("h1", "h2")
    }
    while small.net.pick("ipam") is None:
        await world.clock.sleep(0.1)

    async def ask(host: str, method: str, path: str, content: Mapping[str, object] | None) -> str:
        try:
            answer = await call_json(clients[host], "ipam", method, path, content)
        except GantryError as error:
            return type(error).__name__
        return str(answer.get("address", answer.get("released")))

    body = {"network": "web", "instance": "acme-a", "attempt": "acme-a.1", "host": "h1"}
    own = "/v1/attachments/a.eth0"
    assert await ask("h2", "DELETE", f"{own}?generation=1", None) == "False"
    assert await ask("h2", "PUT", own, body) == "Forbidden"
    assert await ask("h1", "PUT", own, body) == "10.0.0.1"  # h2's word did not bury it
    assert await ask("h2", "PUT", own, {**body, "host": "h2"}) == "Conflict"
    assert await ask("h2", "DELETE", f"{own}?generation=1", None) == "Forbidden"
    assert await ask("h2", "POST", "/v1/hosts/h1/attachments", {"live": []}) == "Forbidden"
    assert await ask("h2", "GET", "/v1/networks", None) == "Forbidden"
    assert await ask("h2", "GET", "/v1/hosts/h1/attachments", None) == "Forbidden"
    listed = await call_json(clients["h1"], "ipam", "GET", "/v1/hosts/h1/attachments", None)
    assert [each["address"] for each in listed["attachments"]] == ["10.0.0.1"]
    room = await call_json(clients["h2"], "ipam", "GET", "/v1/networks/web/room", None)
    assert set(room) == {"free"}  # and no word of whose the others are
    assert await ask("h1", "DELETE", f"{own}?generation=1", None) == "True"
    assert await ask("h1", "PUT", own, body) == "Conflict"
    server.cancel()


@virtual
async def test_tombstones_go_however_many_they_are(world: World) -> None:
    small = SmallWorld(world.loop)
    one = await replica(small, config("10.0.0.0/28").model_copy(update={"tombstone_s": 3600}))
    for n in range(1200):
        await one.store.bury([(f"a{n}", "h1")], world.clock.now())
    running = asyncio.ensure_future(one.run())
    await world.clock.sleep(3000)
    assert await one.store.buried([("a1199", "h1")])
    await world.clock.sleep(1300)
    assert not await one.store.buried([(f"a{n}", "h1") for n in range(1200)])
    running.cancel()


@virtual
async def test_replicas_in_turns_keep_the_order_and_racing_ones_keep_near_it(world: World) -> None:
    small = SmallWorld(world.loop)
    replicas = [await replica(small, config("10.0.0.0/26"), f"ipam-{n}") for n in range(2)]
    first = await asyncio.gather(*(give(replicas[0], claim(f"a{n}")) for n in range(62)))
    released = []
    for n in random.Random(3).sample(range(62), 62):
        assert await take(replicas[0], f"a{n}", 1)
        released.append(first[n].address)
        await world.clock.sleep(0.1)
    await world.clock.sleep(COOLDOWN_S)
    in_turns = [(await give(replicas[n % 2], claim(f"b{n}"))).address for n in range(20)]
    assert in_turns == released[:20]
    racing = [give(replicas[n % 2], claim(f"c{n}")) for n in range(20)]
    got = [each.address for each in await asyncio.gather(*racing)]
    assert len(set(got)) == 20 and set(got) <= set(released[20:])
