"""What every StateStore does."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from libs.common.errors import Unavailable
from services.hostd.model import (
    Attachment,
    AttachmentId,
    AttachmentSpec,
    PendingRelease,
    Phase,
)
from services.hostd.ports import StateStore
from services.hostd.state import SqliteState, open_state
from tests.contract.network.conftest import BOTH
from tests.disks import small_disk
from tests.fakes.network import FakeHost, FakeState

Reopen = Callable[[], StateStore]


@pytest.fixture(params=BOTH)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Opens the store as the next process does."""
    if request.param == "fake":
        host = FakeHost()
        yield lambda: FakeState(host)
        return
    opened: list[SqliteState] = []

    def again() -> StateStore:
        opened.append(open_state(tmp_path / "hostd" / "state.db"))
        return opened[-1]

    yield again
    for each in opened:
        each.close()


def attachment(n: int, phase: Phase = Phase.ADDRESSING) -> Attachment:
    return Attachment(
        id=AttachmentId(f"a{n}"),
        container=f"web-{n}",
        ifname="eth0",
        ipam_key=f"web-{n}.eth0",
        spec=AttachmentSpec(network="red", instance="web", generation=n),
        phase=phase,
        created_at=1.5,
    )


def release(n: int) -> PendingRelease:
    spec = AttachmentSpec(network="red")
    return PendingRelease(ipam_key=f"web-{n}.eth0", spec=spec, generation=n, since=2.0)


async def test_what_was_saved_is_there_after_a_restart(reopen: Reopen) -> None:
    state = reopen()
    assert await state.load() == ([], [])
    await state.save([attachment(1), attachment(2), release(3)])
    assert await reopen().load() == ([attachment(1), attachment(2)], [release(3)])


async def test_the_last_save_wins(reopen: Reopen) -> None:
    state = reopen()
    await state.save([attachment(1)])
    await state.save([attachment(1, Phase.RELEASING), release(1)])
    newer = release(1).model_copy(update={"generation": 9})
    await state.save([newer])
    assert await reopen().load() == ([attachment(1, Phase.RELEASING)], [newer])


async def test_dropping_one_and_keeping_another_is_one_change(reopen: Reopen) -> None:
    state = reopen()
    await state.save([attachment(1)])
    await state.save([("attachment", "a1"), release(1)])
    assert await reopen().load() == ([], [release(1)])
    await state.save([("release", "web-1.eth0"), ("release", "never there"), ("attachment", "a1")])
    assert await reopen().load() == ([], [])
    await state.save([])


async def test_parked_ones_are_there_again(reopen: Reopen) -> None:
    parked = attachment(1, Phase.PARKED).model_copy(update={"parked_at": 5.0, "ipam_key": ""})
    await reopen().save([parked, release(1)])
    assert await reopen().load() == ([parked], [release(1)])


async def test_an_older_hostd_finds_the_end_of_a_parked_one_begun(tmp_path: Path) -> None:
    """Its phases are those before parking."""
    state = open_state(tmp_path / "state.db")
    await state.save([attachment(1, Phase.PARKED).model_copy(update={"parked_at": 5.0})])
    with closing(sqlite3.connect(tmp_path / "state.db")) as db:
        ((body,),) = db.execute("SELECT body FROM thing").fetchall()
    assert json.loads(body)["phase"] == "releasing"
    state.close()


async def test_a_disk_that_fails_is_said(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state.db")
    await state.save([attachment(1)])
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("DROP TABLE thing")
    with pytest.raises(Unavailable, match="can't be saved"):
        await state.save([attachment(2)])
    other.close()
    state.close()
    (tmp_path / "state.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable):
        open_state(tmp_path / "state.db")


async def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", mib=2) as disk:
        state = open_state(disk.root / "state.db")
        await state.save([attachment(1)])
        disk.fill()
        saved = 1
        with pytest.raises(Unavailable, match="the disk is full"):
            for n in range(2, 2000):
                await state.save([attachment(n)])
                saved = n
        kept = {f"{each.id}" for each in (await state.load())[0]}
        assert kept == {f"{attachment(n).id}" for n in range(1, saved + 1)}
        disk.free()
        await state.save([attachment(5000)])
        state.close()
        again = open_state(disk.root / "state.db")
        assert {each.id for each in (await again.load())[0]} == kept | {attachment(5000).id}
        again.close()
