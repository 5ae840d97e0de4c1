"""Checkpoints on a full disk: tried again, nothing said before, nothing lost; it goes on when there is room."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.minimesos import journal as journal_module
from libs.minimesos.effects import Effect, Input, Put, Send, Tick
from libs.minimesos.errors import StorageError
from libs.minimesos.journal import Journal
from libs.minimesos.node import Node
from tests.disks import small_disk


class Machine:
    """Saves something large at each input, and tells of it."""

    def __init__(self) -> None:
        self.inputs = 0

    def handle(self, _now: float, _event: Input) -> list[Effect]:
        self.inputs += 1
        number = self.inputs
        return [Put(f"k{number}", b"x" * 200_000), Send("stream", str(number).encode())]

    def next_deadline(self) -> float | None:
        return None


def test_what_can_not_be_saved_leaves_no_trace(tmp_path: Path) -> None:
    """Half a record would hide all that is saved after it."""
    with small_disk(tmp_path / "disk") as disk:
        journal = Journal(disk.root / "meta")
        journal.commit([Put("a", b"one")])
        disk.fill(leave_bytes=8192)
        with pytest.raises(StorageError, match="the disk is full"):
            journal.commit([Put("b", b"x" * 50_000)])
        journal.commit([Put("c", b"three")])  # there is room for this one
        assert Journal(disk.root / "meta").saved == {"a": b"one", "c": b"three"}


def test_no_room_to_write_it_anew_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_REWRITE_MIN_BYTES", 100_000)
    with small_disk(tmp_path / "disk") as disk:
        journal = Journal(disk.root / "meta")
        journal.commit([Put("a", b"x" * 90_000)])
        disk.fill(leave_bytes=100_000)
        journal.commit([Put("a", b"y" * 90_000)])
        journal.commit([Put("b", b"z")])
        assert sorted(each.name for each in (disk.root / "meta").iterdir()) == ["journal"]
        disk.free()
        for _ in range(5):
            journal.commit([Put("a", b"y" * 90_000)])
        assert (disk.root / "meta/journal").stat().st_size < 400_000
        assert Journal(disk.root / "meta").saved == {"a": b"y" * 90_000, "b": b"z"}


async def test_an_agent_waits_for_room_and_says_nothing_before(tmp_path: Path) -> None:
    told: list[Effect] = []
    with small_disk(tmp_path / "disk") as disk:
        journal = Journal(disk.root / "meta")
        node = Node(Machine(), journal, SystemClock(), told.append)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(node.run())
            node.feed(Tick())
            async with asyncio.timeout(30):
                while not told:
                    await asyncio.sleep(0.01)
            disk.fill(leave_bytes=4096)
            node.feed(Tick())
            await asyncio.sleep(0.2)
            assert told == [Send("stream", b"1")]
            node.feed(Tick())
            disk.free()
            async with asyncio.timeout(30):
                while len(told) < 3:
                    await asyncio.sleep(0.01)
            running.cancel()
        assert told == [Send("stream", str(n).encode()) for n in (1, 2, 3)]
        assert sorted(Journal(disk.root / "meta").saved) == ["k1", "k2", "k3"]
