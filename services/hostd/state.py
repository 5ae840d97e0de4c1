"""The desired state on disk: one SQLite file, one transaction a batch of changes.

SQLite brings what a file of our own would have to learn again: no torn writes, no lost ones after a crash.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from libs.common.disk import why_sqlite
from libs.common.errors import Unavailable
from services.hostd.model import Attachment, PendingRelease, Phase
from services.hostd.ports import Change

BUSY_TIMEOUT_S = 5.0
_SCHEMA = "CREATE TABLE IF NOT EXISTS thing (kind TEXT, id TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, id))"
ATTACHMENT, RELEASE = "attachment", "release"


def open_state(file: Path) -> SqliteState:
    """Open the file, made when it is not there. Raises Unavailable when it can't be read."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        db = sqlite3.connect(
            file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(_SCHEMA)
    except sqlite3.Error as error:
        raise Unavailable(f"{file}: {why_sqlite(error, file)}") from error
    return SqliteState(db, file)


class SqliteState:
    """See StateStore."""

    def __init__(self, db: sqlite3.Connection, file: Path) -> None:
        self._db = db
        self._file = file
        self._lock = threading.Lock()  # a caller that is cancelled leaves its thread at work

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    async def load(self) -> tuple[list[Attachment], list[PendingRelease]]:
        """See StateStore."""
        rows = await asyncio.to_thread(self._read)
        # What a newer hostd has added is passed over: one that can't start leaves its whole host alone.
        attachments = [
            Attachment.model_validate(_content(body), extra="ignore")
            for kind, body in rows
            if kind == ATTACHMENT
        ]
        releases = [
            PendingRelease.model_validate(_content(body), extra="ignore")
            for kind, body in rows
            if kind == RELEASE
        ]
        return [_in_memory(each) for each in attachments], releases

    async def save(self, changes: Sequence[Change]) -> None:
        """See StateStore."""
        statements = [_statement(change) for change in changes]
        await asyncio.to_thread(self._write, statements)

    def _read(self) -> list[tuple[str, str]]:
        with self._lock:
            return self._db.execute("SELECT kind, body FROM thing ORDER BY kind, id").fetchall()

    def _write(self, statements: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        try:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    for text, values in statements:
                        self._db.execute(text, values)
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # a full disk has ended it already
                        self._db.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            reason = why_sqlite(error, self._file)
            raise Unavailable(f"the state can't be saved: {reason}") from error


def _content(body: str) -> Any:
    """A saved body; older hostds saved a wish in the spec that was always null."""
    content = orjson.loads(body)
    content["spec"].pop("inherit_from", None)
    return content


def _on_disk(attachment: Attachment) -> Attachment:
    """An older hostd doesn't know of parking: it finds a DEL that has begun, and finishes it."""
    if attachment.phase is not Phase.PARKED:
        return attachment
    return attachment.model_copy(update={"phase": Phase.RELEASING})


def _in_memory(saved: Attachment) -> Attachment:
    """One that was on its way out (parked before, and RELEASING) is so again when its time is up."""
    if saved.parked_at is None:
        return saved
    return saved.model_copy(update={"phase": Phase.PARKED})


def _statement(change: Change) -> tuple[str, tuple[str, ...]]:
    put = "INSERT INTO thing VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
    if isinstance(change, Attachment):
        return put, (ATTACHMENT, change.id, _on_disk(change).model_dump_json())
    if isinstance(change, PendingRelease):
        return put, (RELEASE, change.ipam_key, change.model_dump_json())
    return "DELETE FROM thing WHERE kind = ? AND id = ?", change
