"""Backup and restore of an SQLite file. A snapshot is SQLite's online backup: one moment, whoever writes meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TypeVar

from libs.common.errors import Unavailable
from libs.common.sqlite import SqliteThread
from libs.common.store.base import Doc
from libs.common.store.bodies import decode_body, encode_body
from libs.common.store.sqlite_outbox import SqliteOutbox, stored_collections, table_of

_JOB_S = 600.0
T = TypeVar("T")


class SqliteArchive:
    """See Archive."""

    def __init__(self, path: Path, thread: SqliteThread) -> None:
        self._path = path
        self._thread = thread

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SqliteArchive]:
        """See Archive. The copy needs as much room for temporary files as the store has."""
        with tempfile.TemporaryDirectory(prefix="gantry-backup-") as directory:
            copy = Path(directory) / "store.db"
            await asyncio.to_thread(_copy, self._path, copy)
            thread = await SqliteThread.open(copy, write=True)
            try:
                yield SqliteArchive(copy, thread)
            finally:
                await thread.close()

    async def _run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._thread.run(job, _JOB_S)

    async def collections(self) -> list[str]:
        """See Archive."""
        return await self._run(stored_collections)

    async def page(self, collection: str, after: str, limit: int) -> list[Doc]:
        """See Archive."""
        sql = (
            f"SELECT id, version, epoch, body FROM {table_of(collection)}"
            " WHERE id > ? ORDER BY id LIMIT ?"
        )

        def job(connection: sqlite3.Connection) -> list[Doc]:
            rows = connection.execute(sql, (after, limit)).fetchall()
            outboxes = SqliteOutbox(collection).of(connection, [row[0] for row in rows])
            return [
                Doc(name, version, decode_body(body), epoch, outboxes.get(name, ()))
                for name, version, epoch, body in rows
            ]

        return await self._run(job)

    async def epochs(self) -> dict[str, int]:
        """See Archive."""
        sql = "SELECT name, epoch FROM epochs"
        return dict(await self._run(lambda connection: connection.execute(sql).fetchall()))

    async def put(self, collection: str, docs: Sequence[Doc]) -> None:
        """See Archive."""
        rows = [
            (each.id, each.version, each.epoch, encode_body(each.id, each.body).decode())
            for each in docs
        ]

        def job(connection: sqlite3.Connection) -> None:
            sql = f"INSERT OR REPLACE INTO {table_of(collection)} VALUES (?, ?, ?, ?)"
            connection.executemany(sql, rows)
            SqliteOutbox(collection).put(connection, docs)

        await self._run(job)

    async def put_epochs(self, epochs: Mapping[str, int]) -> None:
        """See Archive."""
        sql = "INSERT OR REPLACE INTO epochs VALUES (?, ?)"
        rows = list(epochs.items())
        await self._run(lambda connection: connection.executemany(sql, rows).rowcount)

    async def clear(self) -> None:
        """See Archive."""

        def job(connection: sqlite3.Connection) -> None:
            for collection in stored_collections(connection):
                connection.execute(f"DELETE FROM {table_of(collection)}")
                SqliteOutbox(collection).clear(connection)
            for table in ("epochs", "leases"):
                connection.execute(f"DELETE FROM {table}")

        await self._run(job)


def _copy(source: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        raise Unavailable(f"{source}: {error}") from error
