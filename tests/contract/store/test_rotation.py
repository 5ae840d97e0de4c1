"""MongoDB's password is replaced while a store is in use: nothing is restarted, no write is lost or done twice.

The server of these tests knows no users; the door before it (`mongo_guard`) has them prove their passwords.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.provision import Server
from libs.common.errors import TimedOut, Unavailable
from libs.common.store.base import Collection, CollectionSpec, Write
from libs.common.store.mongo import MongoStore
from tests.contract.store.test_doors import port_of
from tests.contract.store.worlds import mongo_database
from tests.fakes.mongo_guard import MongoGuard, mongo_guard

OLD, NEW = "hunter2", "hunter3"
USER = ("gantry", "admin")
ROUNDS = 40
WAIT_S = 60.0
REFUSED = "refuses the user or its password"


@dataclass
class Rotation:
    """A store behind a door, and the two places where its password stands."""

    guard: MongoGuard
    passwords: dict[tuple[str, str], str]
    file: Path
    store: MongoStore
    things: Collection

    def at_the_server(self, password: str = NEW) -> None:
        """From now on new connections need this one."""
        self.passwords[USER] = password

    def in_the_file(self, text: str = f"{NEW}\n") -> None:
        """What the store may read from now on."""
        self.file.write_text(text)


@pytest.fixture
async def rotation(own_mongo: Server, tmp_path: Path) -> AsyncIterator[Rotation]:
    """With the old password everywhere, and one connection made."""
    file, passwords = tmp_path / "password", {USER: OLD}
    file.write_text(f"{OLD}\n")
    async with mongo_guard(passwords, port_of(own_mongo)) as guard:
        url = f"mongodb://gantry@127.0.0.1:{guard.port}/admin?passwordFile={file}"
        store = await MongoStore.open(mongo_database(url))
        try:
            things = await store.collection(CollectionSpec("things"))
            yield Rotation(guard, passwords, file, store, things)
        finally:
            await store.close()


async def _put(things: Collection, doc_id: str) -> None:
    (result,) = await things.replace_many([Write(doc_id, 0, {"n": 1})])
    assert result.ok


async def _until_served(things: Collection) -> None:
    """Ask as callers do, until there is an answer."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(Unavailable):
                await things.count()
                return


async def test_what_is_under_way_ends_on_the_old_client_while_the_new_one_serves(
    rotation: Rotation,
) -> None:
    guard, things = rotation.guard, rotation.things
    opened, guard.gate = guard.gate, asyncio.Event()
    before = asyncio.create_task(_put(things, "before"))  # done by the server, which is not heard
    await guard.held.wait()
    shut, guard.gate = guard.gate, opened
    rotation.at_the_server()
    rotation.in_the_file()
    with pytest.raises(Unavailable, match=REFUSED):  # its connection is a new one
        await _put(things, "after")
    await _put(things, "after")
    assert not before.done()
    shut.set()
    await before
    assert [each.version for each in (await things.get_many(["before", "after"])).values()] == [
        1,
        1,
    ]
    assert not rotation.store.link._retired, "the old client is closed"


async def test_writers_lose_nothing_and_do_nothing_twice_when_all_connections_end(
    rotation: Rotation,
) -> None:
    """As they do when the server is restarted with the new password."""
    things, half = rotation.things, _Latch(4)

    async def count_up(doc_id: str) -> int:
        failures, counted = 0, 0
        while counted < ROUNDS:  # as reconcilers do: look, then write what is still to be written
            try:
                found = await things.get(doc_id)
                counted, version = (found.body["n"], found.version) if found else (0, 0)
                await things.replace_many([Write(doc_id, version, {"n": counted + 1})])
            except (Unavailable, TimedOut):
                failures += 1
            if counted == ROUNDS // 2:
                half.count_down(doc_id)
        return failures

    names = [f"writer-{n}" for n in range(4)]
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        writers = [group.create_task(count_up(each)) for each in names]
        await half.wait()
        rotation.at_the_server()
        rotation.guard.cut()
        rotation.in_the_file()
    assert sum(each.result() for each in writers) > 0
    stored = await things.get_many(names)
    counted = {name: (doc.version, doc.body["n"]) for name, doc in stored.items()}
    assert counted == dict.fromkeys(names, (ROUNDS + 1, ROUNDS + 1))


class _Latch:
    """Waits until as many have come by."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen: set[str] = set()
        self._open = asyncio.Event()

    def count_down(self, who: str) -> None:
        self._seen.add(who)
        if len(self._seen) == self._count:
            self._open.set()

    async def wait(self) -> None:
        await self._open.wait()


async def test_a_password_that_the_server_does_not_know_yet_breaks_nothing(
    rotation: Rotation,
) -> None:
    rotation.in_the_file()
    await asyncio.gather(*(_put(rotation.things, f"early-{n}") for n in range(4)))
    rotation.at_the_server()
    rotation.guard.cut()
    await _until_served(rotation.things)
    assert await rotation.things.count() == 4


async def test_who_is_refused_goes_on_when_the_file_is_there(rotation: Rotation) -> None:
    rotation.at_the_server()
    rotation.guard.cut()
    for text in (f"{OLD}\n", "", "\n"):  # nobody has been here; somebody is at writing it
        rotation.in_the_file(text)
        said = ""
        while REFUSED not in said:
            with pytest.raises(Unavailable) as raised:
                await rotation.things.count()
            said = str(raised.value)
        assert OLD not in said
    rotation.in_the_file()
    await _until_served(rotation.things)
    tried = len(rotation.guard.users)
    await _put(rotation.things, "late")
    assert len(rotation.guard.users) == tried, "the new client is kept"
