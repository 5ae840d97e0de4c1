"""Replicas of ipam on one store, interleaved at random, with failing stores: pools, both families, quotas, bursts."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import Conflict, GantryError, TooMany, Unavailable
from libs.common.store.base import Write
from services.ipam.jobs import Allocation
from services.ipam.model import Claim, IpamConfig
from services.ipam.quota_rules import QuotaBody
from services.ipam.releases import Ending
from services.ipam.service import Ipam
from services.ipam.store import ADDRESSES
from tests.simulation.faults import Point
from tests.simulation.loop import EPOCH_S, World
from tests.simulation.loop import run as run_virtual
from tests.simulation.small import SmallWorld

LIMIT = 13
COOLDOWN_S = 5.0
POOLS = {"near": "10.0.0.0/29", "far": "10.0.1.0/29", "six": "fd00::/64"}
CONFIG = IpamConfig.model_validate(
    {
        "networks": [
            {
                "name": "web",
                "vlan": 100,
                "pools": [
                    {"name": name, "cidr": cidr, "priority": name == "near"}
                    for name, cidr in POOLS.items()
                ],
            }
        ],
        "cooldown_s": COOLDOWN_S,
        "hold_s": 40.0,
    }
)
RATES = {Point.STORE_DELAY: 0.5, Point.STORE_FAILS: 0.02, Point.STORE_REPLY_LOST: 0.05}


@dataclass
class Invariants:
    """Looked at on every write of an address."""

    world: World
    docs: dict[str, dict[str, Any]] = field(default_factory=dict)
    allocations: int = 0
    by_name: int = 0
    most: int = 0

    def __call__(self, collection: str, write: Write) -> None:
        """One write took effect."""
        if collection != ADDRESSES.name:
            return
        body, before = dict(write.body), self.docs.get(write.id, {})
        assert ip_address(body["address"]) in ip_network(POOLS[body.get("pool", "")])
        assert body["generation"] >= before.get("generation", 0)
        owner, old = _owner(body), _owner(before)
        if owner and owner != old:
            assert not old, f"{write.id} goes from {old} to {owner} without a release"
            assert body["generation"] == before.get("generation", 0) + 1
            rested = before.get("free_at", 0.0) <= self._now()
            assert rested or _again(before, body), f"{write.id} has not rested"
            self.allocations += 1
            self.by_name += bool(body.get("pinned"))
        self.docs[write.id] = body
        owners = [each for each in map(_owner, self.docs.values()) if each]
        assert len(owners) == len(set(owners))
        used = sum(map(self._counts, self.docs.values()))
        assert used <= LIMIT, f"{used} of {LIMIT}"
        self.most = max(self.most, used)

    def _now(self) -> float:
        return self.world.loop.time() + EPOCH_S

    def _counts(self, body: dict[str, Any]) -> bool:
        mine = body.get("bu") == "acme"
        return mine and (body["state"] == "allocated" or body["free_at"] > self._now())


def _again(before: dict[str, Any], body: dict[str, Any]) -> bool:
    """Does it go to who had it last."""
    return any(
        before.get(name) and before[name] == body.get(name) for name in ("sticky_key", "app")
    )


def _owner(body: dict[str, Any]) -> str:
    for family, name in (("4", "attachment"), ("6", "attachment6")):
        if body.get(name):
            return f"{family}:{body[name]}"
    return ""


async def _storm(world: World, rng: random.Random, actors: int, faulty: bool) -> Invariants:
    watch = Invariants(world)
    small = SmallWorld(world.loop, rng.randrange(1 << 30), on_write=watch)
    replicas = [await Ipam.open(small.runtime("ipam", f"ipam-{n}"), CONFIG) for n in range(3)]
    await replicas[0].quotas.rules.put("acme", QuotaBody(limit=LIMIT), "test", None)
    await asyncio.sleep(3.0)
    small.faults.on = True
    small.faults.rates = {
        point: RATES.get(point, 0.0) if faulty or point is Point.STORE_DELAY else 0.0
        for point in Point
    }

    async def actor(number: int) -> None:
        for turn in range(5):
            names = [f"c{number}-{turn}-{n}" for n in range(rng.choice((1, 1, 1, 4)))]
            sticky = f"acme/c{number}/0" if number % 3 == 0 and len(names) == 1 else ""
            wanted = f"10.0.{rng.randrange(2)}.{rng.randint(1, 6)}" if number % 3 == 1 else ""
            app = f"acme/c{number}" if rng.random() < 0.5 else ""
            claims = [
                Claim(
                    f"{name}.eth0",
                    "web",
                    f"acme-{name}",
                    f"acme-{name}.1",
                    "h1",
                    sticky,
                    requested=wanted if len(names) == 1 else "",
                    app=app,
                )
                for name in names
            ]
            got = [each for each in await _insist(rng, replicas, claims) if each]
            await asyncio.sleep(rng.expovariate(0.2))
            for each in got:
                assert [address.family for address in each.addresses] == [4, 6]
                await _release(rng, replicas, each)
            await asyncio.sleep(rng.uniform(0, COOLDOWN_S))

    async with asyncio.TaskGroup() as group:
        for number in range(actors):
            group.create_task(actor(number))
    assert watch.allocations >= actors
    small.faults.on = False
    await _nothing_is_lost(replicas, watch)
    return watch


async def _insist(
    rng: random.Random, replicas: list[Ipam], claims: list[Claim]
) -> list[Allocation | None]:
    """What each gets in the end; None: there was no room."""
    done: dict[Claim, Allocation | None] = {}
    while len(done) < len(claims):
        left = [each for each in claims if each not in done]
        ipam = rng.choice(replicas)
        results: list[Allocation | GantryError]
        try:
            if len(left) > 1:
                results = await ipam.allocate_many(left)
            else:
                results = [await ipam.allocate(left[0])]
        except TooMany:
            results = [TooMany("")]
        except Conflict:
            assert left[0].requested, "only who wants a certain one can come too late"
            results = [TooMany("")]
        except Unavailable:
            await asyncio.sleep(rng.uniform(0, 0.5))
            continue
        for claim, result in zip(left, results, strict=True):
            if isinstance(result, Allocation):
                done[claim] = result
            elif isinstance(result, TooMany):
                done[claim] = None
            else:
                assert isinstance(result, Unavailable)
    return [done[each] for each in claims]


async def _release(rng: random.Random, replicas: list[Ipam], held: Allocation) -> None:
    primary = held.primary
    ending = Ending(primary.attachment, primary.generation, "del", "test", "h1")
    while True:
        try:
            await rng.choice(replicas).release(ending)
            return
        except Unavailable:
            await asyncio.sleep(0.1)


async def _nothing_is_lost(replicas: list[Ipam], watch: Invariants) -> None:
    """All IPv4 addresses can be had once everything has rested and the quota is no more."""
    await asyncio.sleep(CONFIG.hold_s + 150.0)  # claims that were given up half-way are leaks
    for _ in range(3):
        await replicas[0].report("h1", frozenset())
        await asyncio.sleep(CONFIG.leak_grace_s + 1)
    assert not any(map(_owner, watch.docs.values()))
    await asyncio.sleep(CONFIG.hold_s)
    claims = [
        Claim(f"last-{n}.eth0", "web", f"globex-{n}", f"globex-{n}.1", "h1", families=(4,))
        for n in range(13)
    ]
    results = await replicas[1].allocate_many(claims)
    assert sum(isinstance(each, Allocation) for each in results) == 12
    assert sum(isinstance(each, TooMany) for each in results) == 1


def test_some_get_the_address_that_they_ask_for() -> None:
    watch = run_virtual(lambda world: _storm(world, random.Random(7), 9, False), 7)
    assert watch.by_name > 3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(2, 9), st.booleans())
def test_invariants_hold(seed: int, actors: int, faulty: bool) -> None:
    run_virtual(lambda world: _storm(world, random.Random(seed), actors, faulty), seed)
