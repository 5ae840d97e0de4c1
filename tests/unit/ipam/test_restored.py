"""A store that has gone back in time: what hosts have is given to nobody else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from libs.common.errors import Unavailable
from libs.common.http import Kind, call_json
from libs.common.store.backup import back_up, restore
from libs.common.store.restores import restored_at
from services.ipam import core
from services.ipam.model import Address, Reported, State, from_body, to_body
from services.ipam.recovery import ROUND_S
from services.ipam.service import Ipam, run
from tests.simulation.life import Life
from tests.simulation.loop import World, virtual
from tests.simulation.process import client_of
from tests.simulation.small import SmallWorld
from tests.unit.ipam.test_service import claim, config, give, replica, take

GRACE_S, COOLDOWN_S = 120.0, 60.0
FREE = Address("web", "10.0.0.1", 1, generation=3, since=1000.0)
HELD = replace(
    FREE,
    state=State.ALLOCATED,
    attachment="a.eth0",
    host="h1",
    instance="acme-a",
    attempt="acme-a.1",
)


def told(name: str = "b", generation: int = 4, address: str = "10.0.0.1") -> Reported:
    """An attachment of that name has the address."""
    return Reported(f"{name}.eth0", "web", address, generation, f"acme-{name}", f"acme-{name}.1")


def hear(stored: Address, word: Reported, host: str = "h2", now: float = 1001.0) -> core.Verdict:
    """A host's word that has just the attachment it speaks of."""
    return core.heard(stored, word, host, {word.attachment}, now, GRACE_S)


def test_an_address_that_is_stored_as_free_goes_to_who_has_it_with_a_newer_generation() -> None:
    for stored in (FREE, replace(FREE, generation=0)):
        verdict = hear(stored, told())
        assert verdict.gone_back and verdict.address is not None
        assert verdict.address.state is State.ALLOCATED
        assert (verdict.address.generation, verdict.address.attachment) == (4, "b.eth0")
        assert (verdict.address.host, verdict.address.instance) == ("h2", "acme-b")


def test_a_word_that_comes_late_changes_nothing_and_one_that_stays_does() -> None:
    for generation in (2, 3):  # released meanwhile, and perhaps given again and released again
        assert hear(FREE, told(generation=generation)) == core.Verdict()
        late = hear(FREE, told(generation=generation), now=1000.0 + GRACE_S).address
        assert late is not None and late.state is State.QUARANTINED and late.generation == 3
    assert hear(HELD, told(generation=2)) == core.Verdict()
    assert hear(HELD, told(generation=2), now=1000.0 + GRACE_S).address is not None


def test_what_is_as_stored_changes_nothing() -> None:
    assert hear(HELD, told("a", 3), "h1", now=9000.0) == core.Verdict()
    newer = hear(HELD, told("a", 7), "h1").address
    assert newer is not None and (newer.generation, newer.attachment) == (7, "a.eth0")


def test_an_address_of_anothers_goes_into_quarantine_and_to_nobody() -> None:
    for generation in (3, 4, 10**9):  # no host can take an address away by a large number
        verdict = hear(HELD, told(generation=generation))
        assert verdict.address is not None and verdict.address.state is State.QUARANTINED
        assert [each.who for each in verdict.address.claims] == [("h1", "a.eth0"), ("h2", "b.eth0")]
        assert [type(each).__name__ for each in verdict.events] == ["IpConflicted", "AuditRecorded"]
        assert from_body(0, to_body(verdict.address)) == verdict.address
        again = hear(verdict.address, told(generation=generation))
        assert again == core.Verdict()
        third = hear(verdict.address, told("c"), "h3").address
        assert third is not None and len(third.claims) == 3


def test_no_host_can_use_up_the_generations_of_an_address() -> None:
    """Of its own attachment, of a free address, or of somebody else's."""
    far = 2**53
    assert hear(HELD, told("a", far), "h1").address is None
    for stored in (FREE, HELD):
        after = hear(stored, told(generation=far)).address
        assert after is None or after.generation <= stored.generation + 2**20


def test_a_host_knows_best_which_of_its_own_attachments_has_it() -> None:
    taken = core.heard(HELD, told("b", 4), "h1", {"b.eth0"}, 1001.0, GRACE_S).address
    assert taken is not None and (taken.state, taken.attachment) == (State.ALLOCATED, "b.eth0")
    both = core.heard(HELD, told("b", 4), "h1", {"a.eth0", "b.eth0"}, 1001.0, GRACE_S).address
    assert both is not None and both.state is State.QUARANTINED


def leave(stored: Address, host: str, *live: str, now: float) -> core.Verdict:
    """After a report of the host's."""
    return core.unclaimed(stored, host, live, now, GRACE_S, COOLDOWN_S)


def test_claims_end_when_two_reports_a_grace_apart_lack_them() -> None:
    disputed = hear(HELD, told(generation=4)).address
    assert disputed is not None
    assert leave(disputed, "h1", "a.eth0", now=2000.0) == core.Verdict()
    assert leave(disputed, "h3", now=2000.0) == core.Verdict()
    missed = leave(disputed, "h1", now=2000.0).address
    assert missed is not None and len(missed.claims) == 2
    found = leave(missed, "h1", "a.eth0", now=2060.0).address
    assert found == disputed
    assert leave(missed, "h1", now=2000.0 + GRACE_S - 1) == core.Verdict()
    # What is left has the newest generation: it is its address, and its host can give it back.
    settled = leave(missed, "h1", now=2000.0 + GRACE_S).address
    assert settled is not None and settled.state is State.ALLOCATED
    assert (settled.attachment, settled.host, settled.generation) == ("b.eth0", "h2", 4)


def test_an_address_that_nobody_claims_any_more_cools_down() -> None:
    disputed = hear(FREE, told(generation=2), now=1000.0 + GRACE_S).address
    assert disputed is not None and [each.who for each in disputed.claims] == [("h2", "b.eth0")]
    missed = leave(disputed, "h2", now=2000.0).address
    assert missed is not None
    over = leave(missed, "h2", now=2000.0 + GRACE_S).address
    assert over is not None and (over.state, over.claims) == (State.RELEASED, ())
    assert over.free_at == 2000.0 + GRACE_S + COOLDOWN_S


async def two(small: SmallWorld) -> list[Ipam]:
    """Two replicas that have looked at what there is, and follow it."""
    made = [await replica(small, config("10.0.0.0/28"), f"ipam-{n}") for n in (1, 2)]
    for each in made:
        await each.recovery.start(await restored_at(small.store))
    return made


@virtual
async def test_after_a_restore_new_addresses_wait_for_the_hosts_at_every_replica(
    world: World,
) -> None:
    small = SmallWorld(world.loop)
    before = (await two(small))[0]
    kept = await give(before, claim("kept", "h1"))
    gone = await give(before, claim("gone", "h2"))
    with TemporaryDirectory() as directory:
        file = Path(directory) / "backup.gz"
        await back_up(small.store, file, 0.0)
        # After the backup: one more, and one gone.
        late = await give(before, claim("late", "h2"))
        assert await take(before, "gone", gone.generation, "h2")
        await restore(small.store, file, world.clock.now(), replace_all=True)

    first, second = await two(small)
    for each in (first, second):
        with pytest.raises(Unavailable, match=r"the store was restored: .* now for h1, h2"):
            await each.allocate(claim("new", "h3"))
        assert (await give(each, claim("kept", "h1"))).address == kept.address
    running = [asyncio.create_task(each.recovery.run()) for each in (first, second)]
    have = told("late", late.generation, late.address)
    await first.report("h2", frozenset({"late.eth0"}), [have])
    own = told("kept", kept.generation, kept.address)
    await second.report("h1", frozenset({"kept.eth0"}), [own])
    await world.clock.sleep(ROUND_S + 15)
    new = [(await give(each, claim(f"new-{each is first}", "h3"))) for each in (first, second)]
    assert len({each.address for each in (*new, late, kept)}) == 4
    # What the backup still has of h2's old attachment is found out to be over.
    for _ in range(2):
        await first.report("h2", frozenset({"late.eth0"}), [have])
        await world.clock.sleep(first.config.leak_grace_s)
    await first.report("h2", frozenset({"late.eth0"}), [have])
    assert not await first.store.of_attachment("gone.eth0")
    # And the one that was taken up is given back like any other.
    assert await take(second, "late", late.generation, "h2")
    for task in running:
        task.cancel()


@virtual
async def test_a_host_that_does_not_come_back_holds_nobody_up_for_ever(world: World) -> None:
    small = SmallWorld(world.loop)
    first, _ = await two(small)
    await first.allocate(claim("a", "h1"))
    await first.recovery.start(5.0)
    running = asyncio.create_task(first.recovery.run())
    await world.clock.sleep(ROUND_S + 15)
    with pytest.raises(Unavailable, match="h1"):
        await first.allocate(claim("b", "h2"))
    await world.clock.sleep(first.config.restore_wait_s)
    await first.allocate(claim("b", "h2"))
    running.cancel()


@virtual
async def test_a_hosts_word_alone_holds_new_addresses_back_and_not_again_and_again(
    world: World,
) -> None:
    small = SmallWorld(world.loop)
    first, second = await two(small)
    running = [asyncio.create_task(each.recovery.run()) for each in (first, second)]
    await world.clock.sleep(4000)
    await first.report("h1", frozenset({"b.eth0"}), [told("b", 9, "10.0.0.3")])
    await world.clock.sleep(10)
    for each in (first, second):
        with pytest.raises(Unavailable, match="the store has gone back"):
            await each.allocate(claim("c", "h2"))
    await first.report("h1", frozenset({"b.eth0"}), [told("b", 9, "10.0.0.3")])
    await world.clock.sleep(ROUND_S)
    await second.report("h1", frozenset({"d.eth0"}), [told("d", 99, "10.0.0.4")])
    taken = [(await give(each, claim(f"c{each is first}", "h2"))) for each in (first, second)]
    assert {each.address for each in taken}.isdisjoint({"10.0.0.3", "10.0.0.4"})
    for task in running:
        task.cancel()


@virtual
async def test_an_address_of_an_attachment_that_has_another_by_the_store_is_given_to_nobody(
    world: World,
) -> None:
    first, _ = await two(SmallWorld(world.loop))
    stored = await give(first, claim("a", "h1"))
    await first.report("h1", frozenset({"a.eth0"}), [told("a", 5, "10.0.0.6")])
    found = await first.store.get("web", "10.0.0.6")
    assert found is not None and found.state is State.QUARANTINED
    assert await first.store.of_attachment("a.eth0") == [stored]


@virtual
async def test_hosts_report_what_they_have_over_http_and_for_themselves_only(world: World) -> None:
    small = SmallWorld(world.loop, settings={"ipam": config()})
    task = asyncio.create_task(run(small.runtime("ipam", "ipam-1")))
    await world.clock.sleep(1)
    host = client_of(small, Life(world.loop, "h1"), Kind.HOST, "h1")
    held = [
        {"attachment": "b.eth0", "network": "web", "address": "10.0.0.2", "generation": 4},
        {"attachment": "x.eth0", "network": "web", "address": "10.9.9.9", "generation": 4},
        {"attachment": "y.eth0", "network": "other", "address": "10.0.0.3", "generation": 4},
    ]
    content = {"live": ["b.eth0", "x.eth0", "y.eth0"], "held": held, "since_a_later_version": 1}
    await call_json(host, "ipam", "POST", "/v1/hosts/h1/attachments", content)
    docs = small.store.bodies("ipam_addresses")
    assert {name: each["attachment"] for name, each in docs.items()} == {"web/10.0.0.2": "b.eth0"}
    task.cancel()
