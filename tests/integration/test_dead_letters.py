"""Poison on every bus: what a group can't handle is listed, shown, published again, and remembered as such."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from libs.common.bus.base import MAX_RECORD_BYTES, Bus, Delivered, Record
from libs.common.clock import SystemClock
from libs.common.consume import Subscription
from libs.common.deadletters import bury
from libs.common.errors import Conflict, NotFound, Poison
from libs.common.events import Envelope, seal, to_record
from libs.common.events import model as ev
from libs.common.outbox import Relay
from libs.common.store.memory import MemoryStore
from libs.common.telemetry import Telemetry
from services.gateway.dead import PAGE_LETTERS, DeadLetters
from services.gateway.store import Repository
from tests.contract.bus.helpers import DEADLINE_S
from tests.contract.bus.worlds import World, open_world
from tests.unit.common.helpers import Lines

TOPIC = ev.NodeJoined.TOPIC


@dataclass
class Desk:
    """A log, a group `g` that consumes it, and the gateway's view of what that one can't handle."""

    world: World
    bus: Bus
    dead: DeadLetters
    handled: list[int]
    fixed: bool = False

    async def on_joined(self, event: ev.NodeJoined, envelope: Envelope) -> None:
        if event.agent.startswith("bad") and not self.fixed:
            raise Poison(f"{event.agent} is not to my taste")
        self.handled.append(envelope.sequence)

    async def buried(self, count: int) -> None:
        """Wait until the group has buried that many."""
        async with asyncio.timeout(DEADLINE_S):
            while "dead.g" not in await self.bus.topics():
                await asyncio.sleep(0.02)
            while sum((await self.bus.end_offsets(["dead.g"])).values()) < count:
                await asyncio.sleep(0.02)

    async def has_handled(self, *sequences: int) -> None:
        """Wait until exactly these were handled, and nothing is left to do."""
        async with asyncio.timeout(DEADLINE_S):
            while sorted(self.handled) != sorted(sequences) or any(
                (await self.bus.lag("g", [TOPIC])).values()
            ):
                await asyncio.sleep(0.02)


def joined(agent: str, sequence: int) -> Record:
    """An event of one agent."""
    event = ev.NodeJoined(agent=agent, hostname="h")
    return to_record(seal([event], source="test", sequence=sequence, now=1000.0)[0])


@pytest.fixture(params=["memory", "sqlite", "kafka"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    """One desk a bus."""
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else ""
    async with open_world(request.param, tmp_path, url) as world, _open(world) as opened:
        yield opened


@asynccontextmanager
async def _open(world: World) -> AsyncIterator[Desk]:
    clock, rng, store = SystemClock(), random.Random(1), MemoryStore()
    bus, repository = await world.open(), await Repository.open(store)
    relay = Relay(
        "gateway", "gw-1", store, repository.outboxes, bus, clock=clock, rng=rng, log=Lines()
    )
    dead = DeadLetters(await world.open(), repository, relay, clock)
    desk = Desk(world, bus, dead, [])
    telemetry = Telemetry("g", Lines())
    group = Subscription("g", {ev.NodeJoined: desk.on_joined}, bus, clock, rng, telemetry)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.run()) for each in (group, relay)]
        yield desk
        for each in running:
            each.cancel()


async def test_what_died_is_told_and_replayed_once(desk: Desk) -> None:
    bad = joined("bad-1", 2)
    broken = replace(joined("a", 3), value=b'{"hostname": "secret"}')
    await desk.bus.publish([joined("a", 1), bad, broken, joined("a", 4)])
    await desk.buried(2)
    await desk.has_handled(1, 4)
    found = {each.key: each for each in (await desk.dead.newest("", 10)).letters}
    assert found.keys() == {"bad-1", "a"}
    told = found["bad-1"]
    assert (told.group, told.topic, told.reason) == ("g", TOPIC, "bad-1 is not to my taste")
    assert told.size == len(bad.value) and told.id == dict(bad.headers)["ce_id"].decode()
    assert "agent" in found["a"].reason and "secret" not in found["a"].reason
    one = await desk.dead.letter("g", told.place)
    assert one.value.encode() == bad.value and one.encoding == "utf-8" and not one.truncated
    assert one.headers == {name: value.decode() for name, value in bad.headers}
    desk.fixed = True
    done = await desk.dead.replay("g", [told.place], "alice")
    assert done.replayed == (told.place,) and not done.left
    await desk.has_handled(1, 2, 4)
    seen = await desk.dead.letter("g", told.place)
    assert (seen.replayed_by, seen.replays) == ("alice", 1) and seen.replayed_at
    rest = await desk.dead.replay_all("g", "", "bob")
    assert rest.replayed == (found["a"].place,) and not rest.next
    await desk.buried(3)  # it died again: another letter
    await desk.has_handled(1, 2, 4)
    again = await desk.dead.replay_all("g", "", "bob")
    assert len(again.replayed) == 1 and again.replayed != rest.replayed
    twice = await desk.dead.replay("g", [told.place], "carol")
    assert twice.replayed == (told.place,)
    assert (await desk.dead.letter("g", told.place)).replays == 2
    await desk.has_handled(1, 2, 2, 4)  # that is the handlers' own business: they are idempotent


async def test_what_was_cut_or_is_not_there_is_refused(desk: Desk) -> None:
    await desk.bus.publish([Record(TOPIC, "a", bytes(MAX_RECORD_BYTES - 1)), joined("bad", 2)])
    await desk.buried(2)
    by_key = {each.key: each for each in (await desk.dead.newest("g", 10)).letters}
    cut, whole = by_key["a"], by_key["bad"]
    assert cut.cut_from == MAX_RECORD_BYTES - 1 and not whole.cut_from
    with pytest.raises(Conflict, match=f"g {cut.place}: only 800000 of its 899999 bytes"):
        await desk.dead.replay("g", [whole.place, cut.place], "alice")
    assert (await desk.dead.letter("g", whole.place)).replays == 0
    shown = await desk.dead.letter("g", cut.place)
    assert shown.truncated and len(shown.value) == 65_536
    done = await desk.dead.replay_all("g", "", "alice")
    assert done.replayed == (whole.place,)
    assert [each.place for each in done.left] == [cut.place]
    for place in ("0:77", "7:3", "99:0"):
        with pytest.raises(NotFound, match=f"at {place}"):
            await desk.dead.letter("g", place)
    with pytest.raises(NotFound, match="groups: g"):
        await desk.dead.newest("nobody", 10)
    assert "dead.nobody" not in await desk.bus.topics()


async def test_a_replay_of_all_goes_page_by_page_and_ends_where_it_began(desk: Desk) -> None:
    count = 2 * PAGE_LETTERS + 7
    desk.fixed = True
    letters = [_letter(n) for n in range(count)]
    for first in range(0, count, 500):
        await desk.bus.publish(letters[first : first + 500])
    assert (await desk.dead.newest("g", 20)).more
    done, after, pages = list[str](), "", 0
    while True:
        page = await desk.dead.replay_all("g", after, "alice")
        await desk.bus.publish([_letter(count + pages)])  # what dies meanwhile is not of this round
        done += page.replayed
        pages += 1
        after = page.next
        if not after:
            break
    assert pages == 3 and len(set(done)) == len(done) == count
    await desk.has_handled(*range(count))
    newest = await desk.dead.newest("g", 500)
    assert len(newest.letters) == 500 and newest.more
    assert sum(not each.replays for each in newest.letters) == 3


def _letter(sequence: int) -> Record:
    return bury(Delivered(joined(f"bad-{sequence}", sequence), 0, sequence, 0.0), "g", "bad")


async def test_retention_takes_dead_letters_too(desk: Desk) -> None:
    desk.fixed = True
    await desk.bus.publish([_letter(n) for n in range(40)])
    ends = await desk.bus.end_offsets(["dead.g"])
    spared = max(ends, key=lambda place: ends[place])
    for place, end in ends.items():
        if end:
            await desk.world.truncate(place, end if place != spared else end - 1)
    (left,) = (await desk.dead.newest("g", 100)).letters
    assert left.place == f"{spared[1]}:{ends[spared] - 1}"
    assert (await desk.dead.replay_all("g", "", "alice")).replayed == (left.place,)
