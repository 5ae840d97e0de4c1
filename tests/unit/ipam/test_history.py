"""Who had an address is known afterwards, however it came to lose it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from libs.common.errors import Conflict
from libs.common.store.base import Outcome
from services.ipam import core
from services.ipam.model import Address, Reported, State
from services.ipam.store import Change
from tests.simulation.loop import EPOCH_S, World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.ipam.test_service import claim, config, give, replica, take

GRACE_S, COOLDOWN_S = 120.0, 60.0
LATER = EPOCH_S + 3000.0


@virtual
async def test_of_one_that_was_released_by_hand(world: World) -> None:
    ipam = await replica(SmallWorld(world.loop), config())
    began = world.clock.now()
    address = await give(ipam, claim("a"))
    await world.clock.sleep(10)
    await ipam.releases.by_hand("web", address.address, "ann", gone="h1")
    (stint,) = await ipam.store.history.of("web", address.address, 10)
    assert (stint.instance, stint.attempt, stint.host) == ("acme-a", "acme-a.1", "h1")
    assert (stint.since, stint.until, stint.why) == (began, began + 10, "released by ann")


@virtual
async def test_of_one_that_was_taken_back_since_its_attachment_ended_meanwhile(
    world: World,
) -> None:
    ipam = await replica(SmallWorld(world.loop), config())
    save = ipam.store.save_many

    async def overtaken(changes: Sequence[Change], now: float) -> list[Outcome]:
        outcomes = await save(changes, now)
        await ipam.store.bury([("late.eth0", "h1")], now)  # its DEL found nothing to free
        return outcomes

    ipam.store.save_many = overtaken  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="is over"):
        await ipam.allocate(claim("late"))
    (stint,) = await ipam.store.history.of("web", "10.0.0.1", 10)
    assert stint.instance == "acme-late" and stint.why.startswith("not to be had: attachment late")


def hear(stored: Address, attachment: str, host: str, generation: int) -> Address:
    """The address after a host's word of it."""
    name = attachment.partition(".")[0]
    told = Reported(
        attachment, "web", stored.address, generation, f"acme-{name}-1", f"acme-{name}-1.1",
        f"acme/{name}/0", f"acme/{name}",
    )  # fmt: skip
    address = core.heard(stored, told, host, {attachment}, EPOCH_S + 2000.0, GRACE_S).address
    assert address is not None
    return address


def after_reports(disputed: Address, host: str) -> Address:
    """Two reports of the host's, a grace apart, which do not have its claim any more."""
    missed = core.unclaimed(disputed, host, (), LATER, GRACE_S, COOLDOWN_S).address
    assert missed is not None
    settled = core.unclaimed(missed, host, (), LATER + GRACE_S, GRACE_S, COOLDOWN_S).address
    assert settled is not None and settled.state is State.ALLOCATED
    return settled


def test_who_is_left_of_two_that_claim_an_address_has_it_by_name() -> None:
    free = Address("web", "10.0.0.1", 1, version=3, generation=4)
    held = core.give(free, claim("a", app="acme/a", sticky_key="acme/a/0"), 1000.0, "acme")[0]
    disputed = hear(held, "b.eth0", "h2", held.generation)
    theirs = after_reports(disputed, "h1")
    assert (theirs.attachment, theirs.host, theirs.bu) == ("b.eth0", "h2", "acme")
    assert (theirs.instance, theirs.attempt) == ("acme-b-1", "acme-b-1.1")
    assert (theirs.sticky_key, theirs.app) == ("acme/b/0", "acme/b")
    again = after_reports(disputed, "h2")
    assert (again.instance, again.attempt, again.app) == ("acme-a", "acme-a.1", "acme/a")
    assert (again.sticky_key, again.bu) == ("acme/a/0", "acme")


@virtual
async def test_both_stints_of_who_gets_its_address_back_out_of_quarantine(world: World) -> None:
    """With the generation that it had before."""
    ipam = await replica(SmallWorld(world.loop), config())
    held = await give(ipam, claim("a"))
    disputed = hear(held, "b.eth0", "h2", held.generation)
    assert await ipam.store.save(Change(disputed, before=held, why="not as stored"), LATER)
    stored = await ipam.store.get("web", held.address)
    assert stored is not None
    assert await ipam.store.save(Change(after_reports(stored, "h2")), LATER)
    assert await take(ipam, "a", held.generation)
    stints = await ipam.store.history.of("web", held.address, 10)
    assert [(each.instance, each.why) for each in stints] == [
        ("acme-a", "del"),
        ("acme-a", "not as stored"),
    ]
    assert {each.generation for each in stints} == {held.generation}
