"""The outboxes of an SQLite collection: a table beside its documents, with one row an event that has yet to be sent.

It is small, as it holds only what waits. Were the events in the documents' own rows, each of these would be written
three times: with its events, without them, and with what comes next.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from libs.common.store.base import Doc, OutboxEvent, Write
from libs.common.store.wire import pack_event, unpack_event, unpack_events

_DOCUMENTS = "docs_"
_ID_CHUNK = 5000
_first = itemgetter(0)

Outboxes = dict[str, tuple[OutboxEvent, ...]]
"""Events by document."""


def table_of(collection: str) -> str:
    """The table of a collection's documents."""
    return f"{_DOCUMENTS}{collection}"


def stored_collections(connection: sqlite3.Connection) -> list[str]:
    """The names of a file's collections, sorted."""
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'docs\\_%' ESCAPE '\\'"
    return sorted(row[0].removeprefix(_DOCUMENTS) for row in connection.execute(sql))


class SqliteOutbox:
    """The outboxes of a collection's documents; what its methods do is part of their caller's transaction."""

    def __init__(self, collection: str) -> None:
        self._documents = table_of(collection)
        self._table = f"outbox_{collection}"

    @property
    def is_empty(self) -> str:
        """A condition for statements over the documents."""
        return f"NOT EXISTS (SELECT 1 FROM {self._table} WHERE doc = {self._documents}.id)"

    def make(self, connection: sqlite3.Connection) -> None:
        """Create the table if need be."""
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (doc TEXT, version INTEGER, n INTEGER, id TEXT NOT NULL,"
            " event TEXT NOT NULL, PRIMARY KEY (doc, version, n)) WITHOUT ROWID"
        )

    def append(self, connection: sqlite3.Connection, done: Iterable[Write]) -> None:
        """Events of writes that took effect; they come after all that these documents' outboxes hold."""
        self._insert(connection, ((each.id, each.version + 1, each.events) for each in done))

    def put(self, connection: sqlite3.Connection, docs: Sequence[Doc]) -> None:
        """These outboxes in place of those that the documents have."""
        sql = f"DELETE FROM {self._table} WHERE doc = ?"
        connection.executemany(sql, [(each.id,) for each in docs])
        self._insert(connection, ((each.id, each.version, each.outbox) for each in docs))

    def _insert(
        self,
        connection: sqlite3.Connection,
        told: Iterable[tuple[str, int, Sequence[OutboxEvent]]],
    ) -> None:
        rows = [
            (doc, version, n, each.id, pack_event(each))
            for doc, version, events in told
            for n, each in enumerate(events)
        ]
        connection.executemany(f"INSERT INTO {self._table} VALUES (?, ?, ?, ?, ?)", rows)

    def of(self, connection: sqlite3.Connection, docs: Sequence[str]) -> Outboxes:
        """The outboxes of those of the documents that have events in it."""
        found: Outboxes = {}
        for at in range(0, len(docs), _ID_CHUNK):
            chunk = docs[at : at + _ID_CHUNK]
            marks = ",".join("?" * len(chunk))
            found.update(self._read(connection, f"doc IN ({marks})", chunk))
        return found

    def unsent(self, connection: sqlite3.Connection, limit: int) -> Outboxes:
        """The outboxes of up to `limit` documents."""
        some = f"doc IN (SELECT DISTINCT doc FROM {self._table} LIMIT ?)"
        return self._read(connection, some, [limit])

    def _read(
        self, connection: sqlite3.Connection, condition: str, values: Sequence[Any]
    ) -> Outboxes:
        sql = f"SELECT doc, event FROM {self._table} WHERE {condition} ORDER BY doc, version, n"
        rows = connection.execute(sql, values).fetchall()
        return {
            doc: tuple([unpack_event(event) for _, event in events])
            for doc, events in groupby(rows, _first)
        }

    def remove(self, connection: sqlite3.Connection, sent: Mapping[str, Sequence[str]]) -> None:
        """These events (ids by document) have been sent."""
        rows = [(doc, each) for doc, events in sent.items() for each in events]
        connection.executemany(f"DELETE FROM {self._table} WHERE doc = ? AND id = ?", rows)

    def clear(self, connection: sqlite3.Connection) -> None:
        """All have been sent."""
        connection.execute(f"DELETE FROM {self._table}")

    def take_over(self, connection: sqlite3.Connection) -> None:
        """Move events here that lie in the documents' rows, where they were in files of before."""
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({self._documents})")]
        if "outbox" not in columns:
            return
        self.make(connection)
        sql = f"SELECT id, version, outbox FROM {self._documents} WHERE outbox IS NOT NULL"
        told = [(row[0], row[1], unpack_events(row[2])) for row in connection.execute(sql)]
        self._insert(connection, told)
        connection.execute(f'DROP INDEX IF EXISTS "{self._documents}__unsent"')
        connection.execute(f"ALTER TABLE {self._documents} DROP COLUMN outbox")
