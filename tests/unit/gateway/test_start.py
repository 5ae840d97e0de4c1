"""The first start: the first admin key, its file, and starts after it."""

from __future__ import annotations

import asyncio
import io
import stat
from pathlib import Path

import pytest

from libs.common.store.memory import MemoryStore
from services.gateway.model import GatewayConfig, KeyId
from services.gateway.service import KEY_FILE
from tests.fakes.gateway import ShiftedClock, World, gateway_world, make_shared, running


async def test_the_first_key_is_for_root_alone_and_opens_everything(world: World) -> None:
    file = Path(world.shared.common.data_dir) / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (await world.call("GET", "/v1/keys")).json()["keys"][0]["bu"] == "*"


async def test_later_starts_leave_it_alone(tmp_path: Path) -> None:
    store, clock = MemoryStore(), ShiftedClock()
    file = tmp_path / KEY_FILE
    async with running(make_shared(tmp_path, GatewayConfig(), clock, store.share())):
        key = file.read_text()
    file.unlink()  # as a careful operator does
    async with running(make_shared(tmp_path, GatewayConfig(), clock, store.share())) as rt:
        assert not file.exists()
        answer = await rt.peers.call(
            "gateway", "GET", "/v1/keys", headers={"authorization": f"Bearer {key.strip()}"}
        )
        assert answer.status == 200


async def test_a_crash_between_file_and_store_is_mended_by_the_next_start(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        key = world.admin_key
    async with gateway_world(tmp_path) as again:  # a new, empty store beside the old file
        assert again.admin_key == key
        assert (await again.call("GET", "/v1/keys")).status == 200


async def test_replicas_that_start_together_agree(tmp_path: Path) -> None:
    store, clock = MemoryStore(), ShiftedClock()
    first = make_shared(tmp_path / "a", GatewayConfig(), clock, store.share())
    second = make_shared(tmp_path / "b", GatewayConfig(), clock, store.share())
    for each in (first, second):
        each.common.data_dir.mkdir()
    async with asyncio.TaskGroup() as group:
        done = asyncio.Event()

        async def start(shared: object) -> None:
            async with running(shared):  # type: ignore[arg-type]
                await done.wait()

        group.create_task(start(first))
        group.create_task(start(second))
        async with asyncio.timeout(30):
            while not ("gateway" in first.local.apps and "gateway" in second.local.apps):
                await asyncio.sleep(0.002)
        key = (tmp_path / "a" / KEY_FILE).read_text().strip()
        for shared in (first, second):
            answer = await shared.local.apps["gateway"].dispatch(
                "GET", "/v1/keys", {"authorization": f"Bearer {key}"}
            )
            assert answer.status == 200
        done.set()


async def test_the_key_is_never_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    async with gateway_world(tmp_path) as world:
        await world.call("POST", "/v1/keys", {"bu": "acme"})
        await world.call("GET", "/v1/apps", key="gk_first_" + "0" * 52)
        secret = world.admin_key.rpartition("_")[2]
    assert secret not in written.getvalue()


async def test_old_records_are_pruned(world: World) -> None:
    await world.put_app()
    await world.deployed("/v1/apps/acme/web/deploys")

    async def trail() -> int:
        return len((await world.call("GET", "/v1/audit")).json()["entries"])

    async def recorded() -> bool:
        return await trail() == 2

    await world.eventually(recorded)
    from services.gateway.store import Repository

    repository = await Repository.open(world.shared.store)
    now = world.clock.now()
    assert await repository.prune(now - 60, now - 60) == 0
    assert await repository.prune(now + 1, now - 60) == 2
    assert await repository.prune(now + 1, now + 1) == 2
    assert await trail() == 0


async def test_keys_that_are_long_over_are_forgotten_but_the_first(world: World) -> None:
    """Without the first one's document it would be made anew, and revoked in vain."""
    from services.gateway.store import Repository

    for _ in range(2):
        await world.key("acme", "viewer")
    repository = await Repository.open(world.shared.store)
    others = [key.id for key in await repository.list_keys("*") if key.id != "first"]
    now = world.clock.now()
    await repository.revoke_key(others[0], now)
    await repository.revoke_key(KeyId("first"), now)
    await repository.prune(0, now - 60)
    assert len(await repository.list_keys("*")) == 3
    await repository.prune(0, now + 60)
    assert sorted(key.id for key in await repository.list_keys("*")) == sorted(["first", others[1]])


async def test_the_store_being_away_is_no_internal_error(world: World) -> None:
    await world.shared.store.close()
    world.clock.ahead_s += 10  # past the cache of keys
    response = await world.call("GET", "/v1/apps")
    assert response.status == 503
