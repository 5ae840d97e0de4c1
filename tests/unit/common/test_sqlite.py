"""SQLite behind asyncio: shared commits, separate failures, several processes; and the bus' retention."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.bus.base import Record, TopicSpec
from libs.common.bus.retention import Retention, fair_limit
from libs.common.bus.sqlite import SqliteBus
from libs.common.clock import SystemClock
from libs.common.errors import Conflict, TimedOut, Unavailable
from libs.common.sqlite import WAL_BYTES, SqliteThread, Watch
from libs.common.store.base import CollectionSpec, Doc, OutboxEvent, Write
from libs.common.store.sqlite import SqliteStore
from libs.common.store.wire import pack_events


async def opened(path: Path) -> SqliteThread:
    """A writer with a table."""
    thread = await SqliteThread.open(path, write=True)
    await thread.run(lambda c: c.execute("CREATE TABLE IF NOT EXISTS t (x UNIQUE)").rowcount)
    return thread


def insert(connection: sqlite3.Connection, x: object) -> None:
    """One row."""
    connection.execute("INSERT INTO t VALUES (?)", (x,))


def rows(connection: sqlite3.Connection) -> list[object]:
    """All rows."""
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]


async def test_calls_that_wait_share_a_transaction(tmp_path: Path) -> None:
    thread = await opened(tmp_path / "t.db")
    statements: list[str] = []
    await thread.run(lambda c: c.set_trace_callback(statements.append))
    await asyncio.gather(*(thread.run(lambda c, n=n: insert(c, n)) for n in range(200)))  # type: ignore[misc]
    await thread.run(lambda c: c.set_trace_callback(None))
    assert len(await thread.run(rows)) == 200
    assert statements.count("COMMIT") < 20
    await thread.close()


async def test_a_call_that_fails_undoes_only_itself(tmp_path: Path) -> None:
    thread = await opened(tmp_path / "t.db")

    def fail(connection: sqlite3.Connection) -> None:
        insert(connection, 100)
        raise Conflict("no")

    calls = [thread.run(lambda c, n=n: insert(c, n)) for n in range(5)]  # type: ignore[misc]
    results = await asyncio.gather(
        calls[0], calls[1], thread.run(fail), *calls[2:], return_exceptions=True
    )
    assert [type(each) for each in results if each is not None] == [Conflict]
    assert await thread.run(rows) == [0, 1, 2, 3, 4]
    with pytest.raises(Conflict):
        await thread.run(fail)  # alone in its transaction
    assert await thread.run(rows) == [0, 1, 2, 3, 4]
    await thread.close()


async def test_outboxes_of_a_file_of_before_are_taken_over(tmp_path: Path) -> None:
    events = [OutboxEvent(f"e{n}", "t", "k", b"1\x00\xff", (("h", b"\xfe"),)) for n in range(3)]
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as old:
        old.execute(
            "CREATE TABLE docs_things (id TEXT PRIMARY KEY, version INTEGER NOT NULL,"
            " epoch INTEGER NOT NULL, body TEXT NOT NULL, outbox TEXT)"
        )
        old.execute("CREATE INDEX docs_things__unsent ON docs_things (id) WHERE outbox IS NOT NULL")
        rows = [("a", 7, 2, '{"n": 1}', pack_events(events)), ("b", 1, 0, "{}", None)]
        old.executemany("INSERT INTO docs_things VALUES (?, ?, ?, ?, ?)", rows)
        old.commit()
    for _ in range(2):
        store = await SqliteStore.open(path)
        things = await store.collection(CollectionSpec("things"))
        assert await things.get("a") == Doc("a", 7, {"n": 1}, 2, tuple(events))
        assert await things.unsent(10) == {"a": tuple(events)}
        await store.close()
    store = await SqliteStore.open(path)
    things = await store.collection(CollectionSpec("things"))
    later = OutboxEvent("e3", "t", "k", b"")
    (result,) = await things.replace_many([Write("a", 7, {}, (later,))])
    assert result.ok
    await things.mark_sent({"a": ["e0", "e1", "e2"]})
    assert await things.unsent(10) == {"a": (later,)}
    await store.close()


async def test_a_database_that_stays_locked_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.sqlite.BUSY_S", 0.2)
    path = tmp_path / "t.db"
    thread = await opened(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await thread.run(lambda c: insert(c, 1))
    other.execute("ROLLBACK")
    await thread.run(lambda c: insert(c, 2))
    assert await thread.run(rows) == [2]
    other.close()
    await thread.close()


async def test_no_result_in_time_says_so(tmp_path: Path) -> None:
    thread = await opened(tmp_path / "t.db")
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(_connection: sqlite3.Connection) -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    with pytest.raises(TimedOut):
        await thread.run(slow, timeout_s=0.05)
    release.set()
    assert await thread.run(rows) == []
    await thread.close()


async def test_after_close_it_is_unavailable_and_what_waited_is_done(tmp_path: Path) -> None:
    thread = await opened(tmp_path / "t.db")
    waiting = [asyncio.ensure_future(thread.run(lambda c, n=n: insert(c, n))) for n in range(5)]  # type: ignore[misc]
    await asyncio.sleep(0)
    await thread.close()
    await asyncio.gather(*waiting)
    with pytest.raises(Unavailable):
        await thread.run(rows)
    again = await opened(tmp_path / "t.db")
    assert len(await again.run(rows)) == 5
    await again.close()


async def test_news_of_another_process_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    writer = await opened(path)
    changed = asyncio.Event()
    watch = Watch(changed.set, SystemClock().monotonic)
    reader = await SqliteThread.open(path, write=False, watch=watch)
    for n in range(3):
        changed.clear()
        await writer.run(lambda c, n=n: insert(c, n))  # type: ignore[misc]
        async with asyncio.timeout(30):
            await changed.wait()
    await reader.close()
    await writer.close()


async def test_a_directory_that_is_not_there_is_made_and_the_file_is_private(
    tmp_path: Path,
) -> None:
    path = tmp_path / "deep" / "down" / "store.db"
    store = await SqliteStore.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.close()


async def test_what_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is not a database, but it is long enough to be one" * 50)
    with pytest.raises(Unavailable):
        await SqliteStore.open(path)
    with pytest.raises(Unavailable):
        await SqliteBus.open(path, SystemClock())


class StoppedClock(SystemClock):
    """A wall clock that one sets."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


async def _left(bus: SqliteBus) -> dict[str, int]:
    return {topic: lag for (topic, _), lag in (await bus.lag("g", ["short", "long"])).items()}


async def test_retention_by_age_is_the_topics_own_or_the_default(tmp_path: Path) -> None:
    clock = StoppedClock()
    bus = await SqliteBus.open(tmp_path / "bus.db", clock, retention=Retention(events_s=100.0))
    await bus.ensure_topics([TopicSpec("short", 1, 10.0), TopicSpec("long", 1)])
    for _ in range(12):
        await bus.publish([Record("short", "k", b"x"), Record("long", "k", b"x")])
        clock.time += 10.0
    await bus.retain()
    assert await _left(bus) == {"short": 1, "long": 10}
    await bus.close()


async def test_retention_by_size_keeps_the_newest(tmp_path: Path) -> None:
    clock = StoppedClock()
    bus = await SqliteBus.open(tmp_path / "bus.db", clock, partition_bytes=50_000)
    await bus.ensure_topics([TopicSpec("long", 1), TopicSpec("short", 1)])
    for n in range(20):
        await bus.publish([Record("long", "k", bytes([n]) * 10_000)])
        clock.time += 60.0  # a publish now and then looks after it by itself
    assert (await _left(bus))["long"] in (4, 5)
    async with bus.consumer("g", ["long"]) as consumer:
        found = await consumer.fetch(100, 5.0)
    assert found[-1].record.value[0] == 19 and found[0].offset == 20 - len(found)
    await bus.close()


async def test_retention_by_size_holds_for_all_topics_together(tmp_path: Path) -> None:
    bus = await SqliteBus.open(tmp_path / "bus.db", StoppedClock(), total_bytes=60_000)
    await bus.ensure_topics([TopicSpec("long", 1), TopicSpec("short", 1)])
    await bus.publish([Record("short", "k", b"x" * 10_000)])
    await bus.publish([Record("long", "k", b"x" * 10_000) for _ in range(20)])
    await bus.retain()
    left = await _left(bus)
    assert left["short"] == 1  # the large one alone is cut
    assert left["long"] in (4, 5)
    await bus.close()


@given(st.lists(st.integers(0, 1000)), st.integers(0, 5000))
def test_a_fair_limit_uses_the_room_there_is(sizes: list[int], total: int) -> None:
    limit = fair_limit(sizes, total)
    assert sum(min(size, limit) for size in sizes) <= total
    if sum(sizes) > total:  # a little more would be too much
        assert sum(min(size, limit + 1) for size in sizes) > total


def test_topics_are_kept_by_their_kind() -> None:
    kept = Retention(events_s=100, audit_s=200, dead_s=300)
    names = ("container.started", "audit.recorded", "dead.deployer")
    assert [kept.of(each) for each in names] == [100, 200, 300]


async def test_a_file_shrinks_when_what_it_held_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    thread = await opened(path)
    await asyncio.gather(
        *(thread.run(lambda c, n=n: insert(c, f"{n}" + "x" * 8000)) for n in range(4000))  # type: ignore[misc]
    )
    await thread.close()
    thread = await opened(path)
    full = path.stat().st_size
    assert full > 30_000_000
    await thread.run(lambda c: c.execute("DELETE FROM t").rowcount)
    for n in range(500):
        await thread.run(lambda c, n=n: insert(c, n))  # type: ignore[misc]
    await thread.close()
    assert path.stat().st_size < full / 2
    assert not path.with_name("t.db-wal").exists()


async def test_a_log_that_grew_in_a_burst_is_cut(tmp_path: Path) -> None:
    """While somebody reads, the write-ahead log can't begin anew; afterwards it does, and is cut."""
    path = tmp_path / "t.db"
    thread = await opened(path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchall()
    for n in range(40):
        await thread.run(lambda c, n=n: insert(c, f"{n}" + "x" * 1_000_000))  # type: ignore[misc]
    wal = path.with_name("t.db-wal")
    assert wal.stat().st_size > 2 * WAL_BYTES
    reader.execute("COMMIT")
    for n in range(3):
        await thread.run(lambda c, n=n: insert(c, n))  # type: ignore[misc]
    assert wal.stat().st_size <= WAL_BYTES
    reader.close()
    await thread.close()
