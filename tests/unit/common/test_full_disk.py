"""On a disk that is full nothing that was acknowledged is lost, nothing half-written is believed, and room is enough
to go on: no restart is needed. The disks are real, and small."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common import logfile
from libs.common.bus.base import Record, TopicSpec
from libs.common.bus.sqlite import SqliteBus
from libs.common.clock import SystemClock
from libs.common.disk import FULL, create_file, measure, replace_file
from libs.common.errors import Unavailable
from libs.common.keys import open_secret, read_secrets
from libs.common.logfile import LogStream
from libs.common.problems import Problem
from libs.common.spans import SpanFile
from libs.common.store.base import CollectionSpec, Query, Write
from libs.common.store.sqlite import SqliteStore
from libs.common.telemetry import Telemetry, make_log
from services.gateway.keyfile import DiskKeyFile
from tests.disks import SmallDisk, small_disk

THINGS = CollectionSpec("things")
BODY = {"text": "x" * 20_000}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Four MiB."""
    with small_disk(tmp_path / "disk") as each:
        yield each


async def test_a_store_keeps_what_it_acknowledged_and_goes_on(disk: SmallDisk) -> None:
    store = await SqliteStore.open(disk.root / "store.db")
    things = await store.collection(THINGS)
    await things.replace_many([Write("first", 0, BODY)])
    disk.fill()
    kept, refused = {"first"}, ""
    for n in range(200):
        try:
            await things.replace_many([Write(f"t{n}", 0, BODY)])
            kept.add(f"t{n}")
        except Unavailable as error:
            problem = Problem.of(error)
            refused = f"{problem.status}: {problem.detail}"
            break
    assert refused.startswith("503: ")
    assert FULL in refused
    found = await things.find(Query(limit=1000))  # reading goes on
    assert {each.id for each in found.docs} == kept
    disk.free()
    (written,) = await things.replace_many([Write("after", 0, BODY)])
    assert written.ok
    await store.close()
    again = await SqliteStore.open(disk.root / "store.db")
    found = await (await again.collection(THINGS)).find(Query(limit=1000))
    assert {each.id for each in found.docs} == kept | {"after"}
    await again.close()


async def test_a_store_can_be_opened_again_on_a_full_disk_when_there_is_room(
    disk: SmallDisk,
) -> None:
    disk.fill()
    with pytest.raises(Unavailable, match=FULL):
        await SqliteStore.open(disk.root / "store.db")
    disk.free()
    await (await SqliteStore.open(disk.root / "store.db")).close()


async def test_a_bus_keeps_what_it_acknowledged_and_goes_on(disk: SmallDisk) -> None:
    bus = await SqliteBus.open(disk.root / "bus.db", SystemClock())
    await bus.ensure_topics([TopicSpec("t", 1)])
    disk.fill()
    published = 0
    for n in range(200):
        try:
            await bus.publish([Record("t", "k", f"{n}".encode() + b"x" * 20_000)])
            published += 1
        except Unavailable as error:
            assert FULL in str(error)
            break
    assert published < 200
    disk.free()
    await bus.publish([Record("t", "k", b"after")])
    async with bus.consumer("g", ["t"]) as consumer:
        values = [each.record.value for each in await consumer.fetch(1000, 1.0)]
        await consumer.commit({("t", 0): len(values)})
    numbers = [int(each.rstrip(b"x")) for each in values[:-1]]
    assert numbers == list(range(published))
    assert values[-1] == b"after"
    await bus.close()


def test_files_are_whole_or_as_they_were(disk: SmallDisk) -> None:
    file = disk.root / "file"
    replace_file(file, b"before")
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"x" * 100_000)
    with pytest.raises(OSError, match="No space left"):
        create_file(disk.root / "other", b"x" * 100_000)
    assert file.read_bytes() == b"before"
    assert sorted(each.name for each in disk.root.iterdir()) == ["ballast", "file"]
    disk.free()
    assert create_file(disk.root / "other", b"new")
    assert not create_file(disk.root / "other", b"newer")
    assert (disk.root / "other").read_bytes() == b"new"


def test_secrets_are_not_made_by_halves(disk: SmallDisk) -> None:
    """An empty file would be refused at each start from then on, an empty key file never be filled."""
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        open_secret(disk.root / "cluster.secret")
    with pytest.raises(OSError, match="No space left"):
        DiskKeyFile(disk.root / "admin.key").write_once("gk_secret")
    disk.free()
    assert len(read_secrets(open_secret(disk.root / "cluster.secret").path)) == 1
    DiskKeyFile(disk.root / "admin.key").write_once("gk_secret")
    assert (disk.root / "admin.key").read_text() == "gk_secret\n"


def test_spans_are_lost_and_nothing_else(disk: SmallDisk) -> None:
    """Moving a full file aside when no new one can be made must not let us write into whatever is opened next."""
    sink = SpanFile(disk.root / "spans.jsonl", max_bytes=2000)
    telemetry = Telemetry("test", make_log("test", stream=io.StringIO()), (sink,))
    for n in range(10):
        with telemetry.span(f"early-{n}"):
            pass
    disk.fill()
    for _ in range(20):
        with telemetry.span("lost"):
            pass
    victim = disk.root.parent / "victim"  # not on the disk that is full
    with victim.open("wb") as out:
        for _ in range(20):
            with telemetry.span("lost"):
                pass
        out.write(b"mine")
    assert victim.read_bytes() == b"mine"
    disk.free()
    with telemetry.span("late"):
        pass
    lines = (disk.root / "spans.jsonl").read_text().splitlines()
    assert any('"late"' in each and each.endswith("}") and each.startswith("{") for each in lines)


def test_a_log_on_a_full_disk_stops_nobody(disk: SmallDisk) -> None:
    with (disk.root / "log").open("a") as file:
        stream = LogStream(file)
        log = make_log("test", stream=file)
        disk.fill(leave_bytes=4096)
        for n in range(200):
            log.info("an event", n=n, text="x" * 200)
            stream.write("x" * 100 + "\n")
        assert stream.lost > 0
        disk.free()
        log.info("after")
    assert '"event": "after"' in (disk.root / "log").read_text().splitlines()[-1]


def test_a_log_is_cut_by_whoever_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when processes share the descriptor: both go on at the new end."""
    monkeypatch.setattr(logfile, "_LOOK_EVERY", 10)
    path = tmp_path / "log"
    with path.open("a") as file:
        stream = LogStream(file, max_bytes=10_000)
        for n in range(2000):
            stream.write(f"{n:0100d}\n")
        said = "import os; os.write(2, b'from a child\\n')"
        subprocess.run([sys.executable, "-c", said], stderr=file, check=True)
        stream.write("last\n")
    size, kept = path.stat().st_size, (tmp_path / "log.1").stat().st_size
    assert size <= 12_000
    assert 10_000 <= kept <= 12_000
    lines = path.read_text().splitlines()
    assert lines[-2:] == ["from a child", "last"]
    assert "\0" not in path.read_text()
    assert int(lines[0]) == int((tmp_path / "log.1").read_text().splitlines()[-1]) + 1


def test_a_log_that_is_not_ours_to_cut(tmp_path: Path) -> None:
    """Without O_APPEND a cut would leave a hole; a pipe can't be cut at all."""
    with (tmp_path / "log").open("w") as file:
        file.write("x" * 1000)
        file.flush()
        logfile.bound(file.fileno(), 10)
    assert (tmp_path / "log").stat().st_size == 1000
    read, write = os.pipe()
    logfile.bound(write, 0)
    os.close(read)
    os.close(write)


def test_room_is_counted_as_df_does(disk: SmallDisk) -> None:
    before = measure(disk.root)
    assert before.total_bytes == 4 * 1024 * 1024
    assert before.lacks(free_mib=1, free_pct=50, inodes_pct=50) == ""
    disk.fill(leave_bytes=512 * 1024)
    after = measure(disk.root / "not" / "there")
    assert after.free_bytes <= 512 * 1024
    assert after.used_pct > 85
    assert "MiB" in after.lacks(free_mib=1)
    assert after.lacks(free_pct=20) != ""
    for n in range(4096):
        try:
            (disk.root / f"f{n}").touch()
        except OSError:
            break
    assert "inodes" in measure(disk.root).lacks(inodes_pct=5)
