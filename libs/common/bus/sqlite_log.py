"""The log of the SQLite bus: tables and what is done to them within a transaction. Called in the database's threads.

A partition is a number, its *place*; a record's rowid is `place << 40 | offset`, so that appends go to the end of
few pages and reading on is a range scan.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from libs.common.bus.base import Delivered, Record, TopicPartition, TopicSpec, partition_of
from libs.common.bus.retention import fair_limit

_SHIFT = 40
_MAX_PARTITIONS = 1024
FETCH_BYTES = 8_000_000
_TRIM_ROWS = 20_000

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " partitions INTEGER NOT NULL, retention_s REAL)",
    "CREATE TABLE IF NOT EXISTS logs (place INTEGER PRIMARY KEY, end INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS records (at INTEGER PRIMARY KEY, time REAL NOT NULL,"
    " key TEXT NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS committed (grp TEXT NOT NULL, place INTEGER NOT NULL,"
    " offset INTEGER NOT NULL, PRIMARY KEY (grp, place)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS groups (grp TEXT PRIMARY KEY, state TEXT NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as stored; it never changes."""

    id: int
    name: str
    partitions: int
    retention_s: float | None

    def place(self, partition: int) -> int:
        """The number of a partition."""
        return self.id * _MAX_PARTITIONS + partition


Topics = dict[str, Topic]


def make_schema(connection: sqlite3.Connection) -> None:
    """Create what is missing."""
    for statement in _SCHEMA:
        connection.execute(statement)


def load_topics(connection: sqlite3.Connection) -> Topics:
    """All topics by name."""
    rows = connection.execute("SELECT id, name, partitions, retention_s FROM topics")
    return {row[1]: Topic(*row) for row in rows}


def ensure(connection: sqlite3.Connection, specs: Iterable[TopicSpec]) -> Topics:
    """Create the topics that don't exist; returns all."""
    for spec in specs:
        partitions = min(spec.partitions, _MAX_PARTITIONS)
        connection.execute(
            "INSERT INTO topics (name, partitions, retention_s) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO NOTHING",
            (spec.name, partitions, spec.retention_s),
        )
    topics = load_topics(connection)
    places = [(topic.place(n),) for topic in topics.values() for n in range(topic.partitions)]
    connection.executemany("INSERT OR IGNORE INTO logs VALUES (?, 0, 0)", places)
    return topics


def append(
    connection: sqlite3.Connection, topics: Topics, records: Sequence[Record], now: float
) -> None:
    """Write the records at the ends of their partitions."""
    ends: dict[int, int] = {}
    grown: dict[int, int] = {}
    rows = []
    for record in records:
        topic = topics[record.topic]
        place = topic.place(partition_of(record.key, topic.partitions))
        if place not in ends:
            sql = "SELECT end FROM logs WHERE place = ?"
            ends[place] = connection.execute(sql, (place,)).fetchone()[0]
            grown[place] = 0
        headers = _pack(record.headers)
        rows.append((place << _SHIFT | ends[place], now, record.key, headers, record.value))
        ends[place] += 1
        grown[place] += len(record.key) + len(headers) + len(record.value)
    connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
    connection.executemany(
        "UPDATE logs SET end = ?, bytes = bytes + ? WHERE place = ?",
        [(end, grown[place], place) for place, end in ends.items()],
    )


def read_from(
    connection: sqlite3.Connection,
    topics: Topics,
    positions: Mapping[TopicPartition, int],
    max_records: int,
) -> list[Delivered]:
    """The records at and after the positions, partition by partition, up to FETCH_BYTES or a little more."""
    ends = _ends(connection)
    found: list[Delivered] = []
    room = FETCH_BYTES
    for (name, number), start in positions.items():
        place = topics[name].place(number)
        if start >= ends.get(place, 0):
            continue
        rows = connection.execute(
            "SELECT at, time, key, headers, value FROM records WHERE at >= ? AND at < ?"
            " ORDER BY at LIMIT ?",
            (place << _SHIFT | start, (place + 1) << _SHIFT, max_records - len(found)),
        )
        for at, time, key, headers, value in rows:
            record = Record(name, key, value, _unpack(headers))
            found.append(Delivered(record, number, at & ((1 << _SHIFT) - 1), time))
            room -= len(value) + len(headers)
            if room < 0:
                break
        if room < 0 or len(found) >= max_records:
            break
    return found


def _ends(connection: sqlite3.Connection) -> dict[int, int]:
    return dict(connection.execute("SELECT place, end FROM logs"))


def end_offsets(
    connection: sqlite3.Connection, topics: Iterable[Topic]
) -> dict[TopicPartition, int]:
    """The end of each partition."""
    ends = _ends(connection)
    return {(t.name, n): ends[t.place(n)] for t in topics for n in range(t.partitions)}


def oldest(connection: sqlite3.Connection, place: int) -> int | None:
    """The oldest offset that a partition still has."""
    sql = "SELECT at FROM records WHERE at >= ? AND at < ? ORDER BY at LIMIT 1"
    row = connection.execute(sql, (place << _SHIFT, (place + 1) << _SHIFT)).fetchone()
    return None if row is None else row[0] & ((1 << _SHIFT) - 1)


def committed(
    connection: sqlite3.Connection, group: str, topics: Iterable[Topic]
) -> dict[TopicPartition, int]:
    """What the group has committed of these topics."""
    stored = dict(connection.execute("SELECT place, offset FROM committed WHERE grp = ?", (group,)))
    return {
        (topic.name, n): stored[topic.place(n)]
        for topic in topics
        for n in range(topic.partitions)
        if topic.place(n) in stored
    }


def commit(
    connection: sqlite3.Connection,
    topics: Topics,
    group: str,
    offsets: Mapping[TopicPartition, int],
) -> None:
    """Store the group's next offsets."""
    rows = [(group, topics[name].place(n), offset) for (name, n), offset in offsets.items()]
    connection.executemany("INSERT OR REPLACE INTO committed VALUES (?, ?, ?)", rows)


def lag(
    connection: sqlite3.Connection, group: str, topics: Sequence[Topic]
) -> dict[TopicPartition, int]:
    """End minus committed (or minus the oldest there is), per partition."""
    done = committed(connection, group, topics)
    by_name = {topic.name: topic for topic in topics}
    result = {}
    for place, end in end_offsets(connection, topics).items():
        first = oldest(connection, by_name[place[0]].place(place[1]))
        result[place] = end - max(done.get(place, 0), end if first is None else first)
    return result


def truncate(connection: sqlite3.Connection, place: int, before: int) -> None:
    """Drop the records of a partition before an offset."""
    span = (place << _SHIFT, place << _SHIFT | before)
    sizes = "SELECT total(length(key) + length(headers) + length(value)) FROM records"
    row = connection.execute(f"{sizes} WHERE at >= ? AND at < ?", span).fetchone()
    connection.execute("DELETE FROM records WHERE at >= ? AND at < ?", span)
    connection.execute("UPDATE logs SET bytes = bytes - ? WHERE place = ?", (int(row[0]), place))


def retain(
    connection: sqlite3.Connection,
    topics: Iterable[Topic],
    *,
    now: float,
    age_s: Callable[[str], float],
    partition_bytes: int,
    total_bytes: int,
) -> bool:
    """Drop what is too old or too much; True when there is more to drop than one transaction should."""
    sizes = dict(connection.execute("SELECT place, bytes FROM logs"))
    most = min(partition_bytes, fair_limit(sizes.values(), total_bytes))
    room = _TRIM_ROWS
    for topic in topics:
        kept_s = age_s(topic.name) if topic.retention_s is None else topic.retention_s
        for n in range(topic.partitions):
            place = topic.place(n)
            room -= _retain_one(connection, place, now - kept_s, sizes[place] - most, room)
            if room <= 0:
                return True
    return False


def _retain_one(
    connection: sqlite3.Connection, place: int, cutoff: float, excess: int, limit: int
) -> int:
    rows = connection.execute(
        "SELECT at, time, length(key) + length(headers) + length(value) FROM records"
        " WHERE at >= ? AND at < ? ORDER BY at LIMIT ?",
        (place << _SHIFT, (place + 1) << _SHIFT, limit),
    )
    dropped = 0
    before = None
    for at, time, size in rows:
        if time >= cutoff and excess <= 0:
            break
        excess -= size
        before = (at & ((1 << _SHIFT) - 1)) + 1
        dropped += 1
    if before is not None:
        truncate(connection, place, before)
    return dropped


def _pack(headers: Sequence[tuple[str, bytes]]) -> bytes:
    return orjson.dumps([(name, value.decode("latin-1")) for name, value in headers])


def _unpack(raw: bytes) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value.encode("latin-1")) for name, value in orjson.loads(raw))
