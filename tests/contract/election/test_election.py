"""One leads; who dies, freezes or leaves is followed within bounds, and does no harm."""

from __future__ import annotations

import signal

from tests.contract.election.conftest import SOON_S, TTL_S, Member, World, until


async def _followed(world: World, heir: Member, within_s: float) -> None:
    took_s = await until(heir.leads, within_s)
    print(f"handover by {world.kind} after {took_s:.2f} s of {TTL_S:g}")


async def test_who_is_killed_is_followed_in_time_and_who_stops_at_once(world: World) -> None:
    first, heir = await world.two()
    first.signal(signal.SIGKILL)
    await _followed(world, heir, TTL_S * 4 / 3 + SOON_S)
    third = await world.stand("third")
    await until(lambda: bool(heir.said("wrote")), SOON_S)
    heir.signal(signal.SIGTERM)
    # No session can have expired by then; a standby asks the store every third of the time.
    at_once_s = TTL_S * 2 / 3 if world.kind == "zookeeper" else TTL_S
    await _followed(world, third, at_once_s)
    assert await heir.process.wait() == 0
    await until(lambda: bool(third.said("wrote")), SOON_S)
    world.check()


async def test_a_paused_leader_does_no_harm_when_it_goes_on(world: World) -> None:
    first, heir = await world.two()
    first.signal(signal.SIGSTOP)
    await _followed(world, heir, TTL_S * 4 / 3 + SOON_S)
    acted = len(first.said("acts"))
    first.signal(signal.SIGCONT)
    await until(lambda: bool(first.said("lost")), SOON_S)
    await until(lambda: len(heir.said("wrote")) > 10, SOON_S + 1)
    assert heir.leads() and not first.leads()
    assert len(first.said("acts")) - acted <= 1, "certain of what it could not know"
    world.check()


async def test_nobody_leads_without_what_elects_and_somebody_does_after(world: World) -> None:
    first, heir = await world.two()
    await world.server.kill9()
    try:
        await until(lambda: not first.leads(), TTL_S + SOON_S)
        assert not heir.leads()
    finally:
        await world.server.start()
    await until(lambda: first.leads() != heir.leads(), TTL_S * 2 + 10)
    leader = first if first.leads() else heir
    written = len(leader.said("wrote"))
    await until(lambda: len(leader.said("wrote")) > written, SOON_S + 5)
    world.check()
