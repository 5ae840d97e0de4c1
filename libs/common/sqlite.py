"""SQLite for asyncio: a thread with a connection, and one transaction for all calls that wait (group commit).

While a commit is being synced to disk, new calls gather; they share the next transaction and its sync. Each of them is
a savepoint of its own then, so one that raises undoes only itself. Several processes may open one file (WAL): a writer
waits for another one up to BUSY_S, then its calls raise Unavailable.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from libs.common.disk import why, why_sqlite
from libs.common.errors import TimedOut, Unavailable

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

BUSY_S = 5.0
CALL_S = 30.0
MAX_WAITING = 20_000
GROUP = 512  # calls that share a transaction at most
POLL_S = 0.05
GIVE_BACK_EVERY = 64  # transactions
FREE_PAGES = 2000  # 8 MB: freed pages are used again, so a few of them are welcome
WAL_BYTES = 16 * 1024 * 1024  # what a log that grew in a burst is cut to when it begins anew


@dataclass(slots=True)
class _Call(Generic[T]):
    job: Job[T]
    future: asyncio.Future[T]
    loop: asyncio.AbstractEventLoop
    result: T | None = None
    error: BaseException | None = field(default=None)


@dataclass(slots=True)
class Watch:
    """`changed` is called in the loop within about POLL_S of a commit through another connection."""

    changed: Callable[[], None]
    monotonic: Callable[[], float]
    loop: asyncio.AbstractEventLoop = field(init=False)


class SqliteThread:
    """Runs jobs on one connection in a thread of its own."""

    def __init__(self, path: Path, *, write: bool, watch: Watch | None) -> None:
        self._path = path
        self._write = write
        self._watch = watch
        self._looked_at = float("-inf")
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._data_version = -1
        self._since_given = 0
        self._connection = self._connect()
        name = f"sqlite-{'write' if write else 'read'}-{path.name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, path: Path, *, write: bool, watch: Watch | None = None) -> SqliteThread:
        """Open the file, made with mode 0600 if need be. Raises Unavailable."""
        if watch is not None:
            watch.loop = asyncio.get_running_loop()
        try:
            return await asyncio.to_thread(cls, path, write=write, watch=watch)
        except (sqlite3.Error, OSError) as error:
            reason = why_sqlite(error, path) if isinstance(error, sqlite3.Error) else why(error)
            raise Unavailable(f"{path}: {reason}") from error

    def _connect(self) -> sqlite3.Connection:
        if self._write:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
        connection = sqlite3.connect(
            self._path,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
        )
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a file that is made just now
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-16000")
        connection.execute("PRAGMA temp_store=MEMORY")  # what savepoints remember
        connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
        # A page that is written again and again goes to the file itself once in a while only.
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_BYTES // 4096}")
        if not self._write:
            connection.execute("PRAGMA query_only=ON")
        return connection

    async def run(self, job: Job[T], timeout_s: float = CALL_S) -> T:
        """Run `job` in a transaction; returns when that is durable.

        Raises what the job raises, Unavailable when SQLite fails or is locked for too long, and TimedOut.
        """
        if self._closed:
            raise Unavailable(f"{self._path} is closed")
        if self._calls.qsize() >= MAX_WAITING:
            raise Unavailable(f"{self._path}: {MAX_WAITING} calls are waiting")
        loop = asyncio.get_running_loop()
        call: _Call[T] = _Call(job, loop.create_future(), loop)
        self._calls.put(call)
        try:
            async with asyncio.timeout(timeout_s):
                return await call.future
        except TimeoutError:
            raise TimedOut(f"{self._path}: no result within {timeout_s} s") from None

    async def close(self) -> None:
        """Finish what waits, then close the connection."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)
        await asyncio.to_thread(self._thread.join, CALL_S)

    def _run(self) -> None:
        while True:
            calls, closing = self._gather()
            if calls:
                self._transact(calls)
                _deliver(calls)
                self._give_back()
            if self._watch is not None:
                self._look_for_changes(self._watch)
            if closing:
                self._connection.close()
                return

    def _gather(self) -> tuple[list[_Call[Any]], bool]:
        calls: list[_Call[Any]] = []
        try:
            call = self._calls.get(timeout=POLL_S if self._watch else None)
            while call is not None:
                calls.append(call)
                if len(calls) >= GROUP:
                    return calls, False
                call = self._calls.get_nowait()
        except queue.Empty:
            return calls, False
        return calls, True

    def _transact(self, calls: list[_Call[Any]]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE" if self._write else "BEGIN")
            # One alone is undone with its transaction: a savepoint copies each page before it is changed.
            several = len(calls) > 1
            for call in calls:
                self._run_one(call, guarded=self._write and several)
            undone = not several and calls[0].error is not None
            connection.execute("ROLLBACK" if undone else "COMMIT")
        except Exception as error:  # locked, disk full, broken file: none of the calls took effect
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            reason = why_sqlite(error, self._path) if isinstance(error, sqlite3.Error) else error
            for call in calls:
                call.error = Unavailable(f"{self._path}: {reason}")

    def _run_one(self, call: _Call[Any], guarded: bool) -> None:
        if call.future.cancelled():
            return
        if guarded:
            self._connection.execute("SAVEPOINT one")
        try:
            call.result = call.job(self._connection)
        except sqlite3.Error:
            raise
        except Exception as error:
            call.error = error
            if guarded:
                self._connection.execute("ROLLBACK TO one")
        if guarded:
            self._connection.execute("RELEASE one")

    def _give_back(self) -> None:
        """Now and then give pages back that hold nothing any more, once they are a good part of the file."""
        self._since_given += 1
        if not self._write or self._since_given < GIVE_BACK_EVERY:
            return
        self._since_given = 0
        with suppress(sqlite3.Error):  # locked, or full: the next time
            pages, free = (
                self._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count")
            )
            if free > max(FREE_PAGES, pages // 4):
                # As a script: a statement alone is stepped once, which is one page.
                self._connection.executescript(f"PRAGMA incremental_vacuum({FREE_PAGES})")

    def _look_for_changes(self, watch: Watch) -> None:
        now = watch.monotonic()
        if now - self._looked_at < POLL_S:
            return
        self._looked_at = now
        try:
            version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            return  # the next call will say it
        if version != self._data_version:
            self._data_version = version
            _call_soon(watch.loop, watch.changed)


def _call_soon(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any
) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        pass  # the loop has been closed: nobody waits any more


def _deliver(calls: list[_Call[Any]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Call[Any]]] = {}
    for call in calls:
        by_loop.setdefault(call.loop, []).append(call)
    for loop, ready in by_loop.items():
        _call_soon(loop, _resolve, ready)


def _resolve(calls: list[_Call[Any]]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.result)
