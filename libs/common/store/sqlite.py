"""The document store in an SQLite file: one row a document, durable at each commit, group commit for speed.

A collection is a table (id, version, epoch, body); the body is JSON text with indexes on its fields. What is in its
outboxes has a table of its own (sqlite_outbox.py), so that no document is written anew when its events have been sent.
Many processes may open one file.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from libs.common.errors import Conflict, InvalidInput
from libs.common.sqlite import SqliteThread
from libs.common.store.base import (
    Archive,
    Body,
    CollectionSpec,
    Doc,
    Fence,
    Lease,
    OutboxEvent,
    Outcome,
    Page,
    Query,
    Scalar,
    Versions,
    Where,
    Write,
    WriteResult,
)
from libs.common.store.bodies import (
    SCHEMA,
    check_query,
    check_writes,
    decode_body,
    encode_body,
)
from libs.common.store.sqlite_outbox import Outboxes, SqliteOutbox, stored_collections, table_of
from libs.common.store.sqlite_query import condition, expression, select_page

_OK = WriteResult(Outcome.OK)
_CONFLICT = WriteResult(Outcome.CONFLICT)
_FENCED = WriteResult(Outcome.FENCED)
_NEWER = WriteResult(Outcome.NEWER)
_NO_FENCE = 2**62
_ANY_SCHEMA = 2**62
_SCHEMA_SQL = f"coalesce(json_extract(body, '$.{SCHEMA}.version'), 1)"
_ID_CHUNK = 5000

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS epochs (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS leases"
    " (name TEXT PRIMARY KEY, holder TEXT NOT NULL, epoch INTEGER NOT NULL, until REAL NOT NULL)",
)

TAKE_OVER_S = 600.0
"""A large file of an older version is written anew when it is opened."""


class SqliteStore:
    """A `Store` in an SQLite file."""

    def __init__(self, path: Path, writer: SqliteThread, reader: SqliteThread) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader

    @classmethod
    async def open(cls, path: str | Path) -> SqliteStore:
        """Open or make the file (mode 0600). Raises Unavailable."""
        writer = await SqliteThread.open(Path(path), write=True)
        try:
            await writer.run(_make_schema, timeout_s=TAKE_OVER_S)
            reader = await SqliteThread.open(Path(path), write=False)
        except BaseException:
            await writer.close()
            raise
        return cls(Path(path), writer, reader)

    async def collection(self, spec: CollectionSpec) -> SqliteCollection:
        """See Store. Raises Conflict when a new unique index doesn't fit what is stored."""
        _check_name(spec.name)
        try:
            await self._writer.run(lambda connection: _make_tables(connection, spec))
        except _NotUnique as error:
            raise Conflict(f"collection {spec.name}: {error}") from error
        return SqliteCollection(self._writer, self._reader, spec.name)

    async def raise_epoch(self, name: str) -> int:
        """See Store."""
        sql = (
            "INSERT INTO epochs VALUES (?, 1) ON CONFLICT (name)"
            " DO UPDATE SET epoch = epoch + 1 RETURNING epoch"
        )
        row = await self._writer.run(lambda connection: connection.execute(sql, (name,)).fetchone())
        return int(row[0])

    async def take_lease(self, name: str, holder: str, now: float, ttl_s: float) -> Lease | None:
        """See Store."""
        sql = (
            "INSERT INTO leases VALUES (:name, :holder, 1, :until) ON CONFLICT (name) DO UPDATE SET"
            " epoch = epoch + (holder <> :holder), holder = :holder, until = :until"
            " WHERE holder = :holder OR until <= :now RETURNING epoch"
        )
        until = now + ttl_s
        values = {"name": name, "holder": holder, "until": until, "now": now}
        row = await self._writer.run(lambda connection: connection.execute(sql, values).fetchone())
        return Lease(name, holder, int(row[0]), until) if row else None

    async def drop_lease(self, name: str, holder: str) -> None:
        """See Store."""
        # The row stays: its epoch must grow when somebody else takes it.
        sql = "UPDATE leases SET until = -1e300 WHERE name = ? AND holder = ?"
        await self._writer.run(lambda connection: connection.execute(sql, (name, holder)).rowcount)

    def archive(self) -> Archive:
        """For backup and restore."""
        from libs.common.store.sqlite_archive import SqliteArchive

        return SqliteArchive(self._path, self._writer)

    async def close(self) -> None:
        """See Store."""
        await self._reader.close()
        await self._writer.close()


class SqliteCollection:
    """A `Collection` of an SqliteStore."""

    def __init__(self, writer: SqliteThread, reader: SqliteThread, name: str) -> None:
        self._writer = writer
        self._reader = reader
        self._table = table_of(name)
        self._outbox = SqliteOutbox(name)
        self._select = f"SELECT id, version, epoch, body FROM {self._table}"

    async def get(self, doc_id: str) -> Doc | None:
        """See Collection."""
        return (await self.get_many([doc_id])).get(doc_id)

    async def get_many(self, doc_ids: Sequence[str]) -> dict[str, Doc]:
        """See Collection."""
        chunks = [doc_ids[at : at + _ID_CHUNK] for at in range(0, len(doc_ids), _ID_CHUNK)]
        queries = [
            (f"{self._select} WHERE id IN ({','.join('?' * len(chunk))})", chunk)
            for chunk in chunks
        ]
        return {doc.id: doc for doc in await self._read(queries)}

    async def find(self, query: Query) -> Page:
        """See Collection."""
        check_query(query)
        docs = await self._read([select_page(self._select, query)])
        return Page(tuple(docs[: query.limit]), more=len(docs) > query.limit)

    async def versions(self, query: Query) -> Versions:
        """See Collection."""
        check_query(query)
        chosen = select_page(f"SELECT id, version FROM {self._table}", query)
        rows = await self._reader.run(lambda connection: connection.execute(*chosen).fetchall())
        return Versions(dict(rows[: query.limit]), more=len(rows) > query.limit)

    async def _read(self, queries: Sequence[tuple[str, Sequence[Scalar]]]) -> list[Doc]:
        def job(connection: sqlite3.Connection) -> tuple[list[Any], Outboxes]:
            rows = [row for query in queries for row in connection.execute(*query)]
            return rows, self._outbox.of(connection, [row[0] for row in rows])

        rows, outboxes = await self._reader.run(job)
        return [
            Doc(name, version, decode_body(body), epoch, outboxes.get(name, ()))
            for name, version, epoch, body in rows
        ]

    async def count(self, where: Sequence[Where] = ()) -> int:
        """See Collection."""
        clause, values = condition(where)
        sql = f"SELECT count(*) FROM {self._table} WHERE {clause}"
        row = await self._reader.run(lambda connection: connection.execute(sql, values).fetchone())
        return int(row[0])

    async def replace_many(
        self, writes: Sequence[Write], fence: Fence | None = None
    ) -> list[WriteResult]:
        """See Collection."""
        check_writes(writes)
        if not writes:
            return []
        rows = [(write, encode_body(write.id, write.body).decode()) for write in writes]

        def job(connection: sqlite3.Connection) -> list[WriteResult]:
            if _outdated(connection, fence):
                return [_FENCED] * len(rows)
            results = [self._write(connection, *row, fence) for row in rows]
            done = zip(writes, results, strict=True)
            self._outbox.append(connection, [write for write, result in done if result.ok])
            return results

        return await self._writer.run(job)

    def _write(
        self, connection: sqlite3.Connection, write: Write, body: str, fence: Fence | None
    ) -> WriteResult:
        mine = fence.epoch if fence else None
        limit = _NO_FENCE if mine is None else mine
        try:
            if write.version == 0:
                sql = f"INSERT INTO {self._table} VALUES (?, 1, ?, ?) ON CONFLICT (id) DO NOTHING"
                done = connection.execute(sql, (write.id, mine or 0, body)).rowcount
            else:
                sql = (
                    f"UPDATE {self._table} SET version = version + 1, epoch = coalesce(?, epoch),"
                    f" body = ? WHERE id = ? AND version = ? AND epoch <= ? AND {_SCHEMA_SQL} <= ?"
                )
                schema = write.schema or _ANY_SCHEMA
                values = (mine, body, write.id, write.version, limit, schema)
                done = connection.execute(sql, values).rowcount
        except sqlite3.IntegrityError as error:
            return WriteResult(Outcome.DUPLICATE, _violated(error, self._table))
        return _OK if done else self._refusal(connection, write.id, limit, write.version)

    def _refusal(
        self, connection: sqlite3.Connection, doc_id: str, limit: int, version: int
    ) -> WriteResult:
        sql = f"SELECT epoch, version FROM {self._table} WHERE id = ?"
        row = connection.execute(sql, (doc_id,)).fetchone()
        if row is not None and row[0] > limit:
            return _FENCED
        # Neither fence nor version refused it: its schema did.
        return _NEWER if version and row is not None and row[1] == version else _CONFLICT

    async def rewrite(self, changes: Sequence[tuple[Doc, Body]]) -> int:
        """See Collection."""
        rows = [
            (encode_body(doc.id, body).decode(), doc.id, doc.version, encode_body(doc.id, doc.body))
            for doc, body in changes
        ]
        sql = (
            f"UPDATE OR IGNORE {self._table} SET body = ? WHERE id = ? AND version = ? AND body = ?"
        )

        def job(connection: sqlite3.Connection) -> int:
            return sum(
                connection.execute(sql, (*row[:3], row[3].decode())).rowcount for row in rows
            )

        return await self._writer.run(job)

    async def delete(self, doc_id: str, version: int, fence: Fence | None = None) -> WriteResult:
        """See Collection."""
        limit = fence.epoch if fence else _NO_FENCE
        sql = (
            f"DELETE FROM {self._table} WHERE id = ? AND version = ? AND epoch <= ?"
            f" AND {self._outbox.is_empty}"
        )

        def job(connection: sqlite3.Connection) -> WriteResult:
            if _outdated(connection, fence):
                return _FENCED
            done = connection.execute(sql, (doc_id, version, limit)).rowcount
            return _OK if done else self._refusal(connection, doc_id, limit, 0)

        return await self._writer.run(job)

    async def unsent(self, limit: int) -> dict[str, tuple[OutboxEvent, ...]]:
        """See Collection."""
        return await self._reader.run(lambda connection: self._outbox.unsent(connection, limit))

    async def mark_sent(self, sent: Mapping[str, Sequence[str]]) -> None:
        """See Collection."""
        await self._writer.run(lambda connection: self._outbox.remove(connection, sent))


class _NotUnique(Exception):
    """The stored documents violate a unique index that is to be made."""


def _make_schema(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    for collection in stored_collections(connection):
        SqliteOutbox(collection).take_over(connection)


def _check_name(collection: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", collection):
        raise InvalidInput.of("collection", f"bad name {collection!r}", "[a-z][a-z0-9_]*")


def _make_tables(connection: sqlite3.Connection, spec: CollectionSpec) -> None:
    table = table_of(spec.name)
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {table} (id TEXT PRIMARY KEY, version INTEGER NOT NULL,"
        " epoch INTEGER NOT NULL, body TEXT NOT NULL)"
    )
    SqliteOutbox(spec.name).make(connection)
    for index in spec.indexes:
        name = f"{table}_{index.name}"
        own_id = ["id"] if index.by_id else []
        fields = ", ".join([expression(each) for each in index.fields] + own_id)
        unique = "UNIQUE " if index.unique else ""
        sql = f'CREATE {unique}INDEX "{name}" ON {table} ({fields})'
        _make_index(connection, name, sql)


def _make_index(connection: sqlite3.Connection, name: str, sql: str) -> None:
    query = "SELECT sql FROM sqlite_master WHERE type = 'index' AND name = ?"
    row = connection.execute(query, (name,)).fetchone()
    if row is not None and row[0] == sql:
        return
    connection.execute(f'DROP INDEX IF EXISTS "{name}"')
    try:
        connection.execute(sql)
    except sqlite3.IntegrityError as error:
        raise _NotUnique(str(error)) from error


def _outdated(connection: sqlite3.Connection, fence: Fence | None) -> bool:
    if fence is None:
        return False
    sql = "SELECT epoch FROM epochs WHERE name = ?"
    row = connection.execute(sql, (fence.name,)).fetchone()
    return row is not None and row[0] > fence.epoch


def _violated(error: sqlite3.IntegrityError, table: str) -> str:
    # "UNIQUE constraint failed: index 'docs_things_by_name'"
    found = re.search(r"index '([^']*)'", str(error))
    return found.group(1).removeprefix(f"{table}_") if found else ""
