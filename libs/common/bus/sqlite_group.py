"""The groups of the SQLite bus: stored as one row each, and how one knows that a process has died.

A process holds a lock on a file of its own beside the database for as long as it lives. The kernel drops the lock
with the process, so that its members are noticed to be gone at once, with no heartbeat to write and sync.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Iterable
from pathlib import Path

import orjson

from libs.common.bus.base import TopicPartition
from libs.common.bus.groups import Group, Member


class ProcessLock:
    """This process' sign of life; `name` is its name in the groups."""

    def __init__(self, database: Path) -> None:
        self._descriptor, path = tempfile.mkstemp(
            prefix=f"{database.name}.live-", dir=database.parent
        )
        self._path = Path(path)
        self.name = self._path.name
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Die."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_dead(directory: Path, process: str) -> bool:
    """Has that process gone?"""
    path = directory / process
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def dead_members(directory: Path, group: Group, alive: str) -> list[str]:
    """The members whose processes have gone; `alive` is our own."""
    processes = {member.process for member in group.members.values()} - {alive}
    gone = {process for process in sorted(processes) if is_dead(directory, process)}
    return [name for name, member in group.members.items() if member.process in gone]


def load_group(connection: sqlite3.Connection, name: str) -> Group:
    """The group as stored; an empty one when there is none."""
    row = connection.execute("SELECT state FROM groups WHERE grp = ?", (name,)).fetchone()
    if row is None:
        return Group()
    generation, givers, partitions, members, owners = orjson.loads(row[0])
    return Group(
        generation,
        {each: Member(frozenset(topics), *rest) for each, topics, *rest in members},
        {(topic, number): owner for topic, number, owner in owners},
        partitions,
        tuple(givers),
    )


def save_group(connection: sqlite3.Connection, name: str, group: Group) -> None:
    """Store the group."""
    members = [
        (each, sorted(member.topics), member.polled_at, member.max_poll_s, member.process)
        for each, member in group.members.items()
    ]
    state = (group.generation, group.givers, group.partitions, members, _flat(group.owners.items()))
    connection.execute(
        "INSERT OR REPLACE INTO groups VALUES (?, ?)", (name, orjson.dumps(state).decode())
    )


def _flat(owners: Iterable[tuple[TopicPartition, str]]) -> list[tuple[str, int, str]]:
    return [(topic, number, owner) for (topic, number), owner in owners]
