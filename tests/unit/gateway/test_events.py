"""Events by SSE: what is shown to whom, resumption at another replica, heartbeats, bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from libs.client.sse import Message, Parser
from libs.common.bus.base import Record
from libs.common.errors import Unauthenticated
from libs.common.events import model as ev
from libs.common.http import Response
from services.gateway.api_streams import Lines
from services.gateway.feed import Leave
from services.gateway.model import GatewayConfig
from tests.fakes.gateway import World, gateway_world, make_shared, running

COUNTS = ev.Counts(wanted=1)


def progressed(app: str, state: str = "rolling") -> ev.DeployProgressed:
    return ev.DeployProgressed(deployment="d", app=app, release=1, state=state, counts=COUNTS)


class Reader:
    """Reads one stream, message by message."""

    def __init__(self, response: Response) -> None:
        assert response.status == 200 and response.stream is not None, response.body
        assert response.content_type == "text/event-stream"
        self._chunks: AsyncIterator[bytes] = response.stream
        self.parser = Parser()
        self._messages: list[Message] = []

    async def start(self) -> Reader:
        self._messages += self.parser.feed(await anext(self._chunks))
        return self

    async def chunk(self) -> bytes:
        async with asyncio.timeout(30):
            chunk = await anext(self._chunks)
        self._messages += self.parser.feed(chunk)
        return chunk

    async def next(self) -> dict[str, Any]:
        while not self._messages:
            await self.chunk()
        message = self._messages.pop(0)
        content = dict(orjson.loads(message.data))
        assert content["topic"] == message.event
        return content

    async def close(self) -> None:
        close = getattr(self._chunks, "aclose")  # noqa: B009
        await close()


async def follow(
    world: World, query: str = "", key: str | None = None, last_id: str = ""
) -> Reader:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    response = await world.call("GET", f"/v1/events{query}", key=key, headers=headers)
    return await Reader(response).start()


async def test_events_are_told_as_cloudevents(world: World) -> None:
    reader = await follow(world)
    await world.deployer.tell(progressed("acme/web"))
    told = await reader.next()
    assert told["topic"] == "deploy.progressed" and told["subject"] == "acme/web"
    assert told["data"]["state"] == "rolling" and told["sequence"] == 1 and len(told["id"]) == 36
    await reader.close()


async def test_a_unit_sees_its_own_only(world: World) -> None:
    key = await world.key("acme", "viewer")
    reader = await follow(world, key=key)
    await world.deployer.tell(ev.NodeLost(agent="a", hostname="h"))
    await world.deployer.tell(progressed("other/web"), progressed("acme-2/web"))
    await world.deployer.tell(progressed("acme/web"))
    assert (await reader.next())["subject"] == "acme/web"
    await reader.close()


async def test_topics_and_subject_filter(world: World) -> None:
    reader = await follow(world, "?topics=deploy.*,node.lost&subject=acme/web")
    await world.deployer.tell(ev.InstanceStopRequested(instance="i", app="acme/web", reason=""))
    await world.deployer.tell(progressed("acme/api"))
    await world.deployer.tell(progressed("acme/web", "paused"))
    assert (await reader.next())["data"]["state"] == "paused"
    of_app = await follow(world, "?subject=acme/web")
    await world.deployer.tell(ev.InstanceStopRequested(instance="i", app="acme/web", reason="x"))
    assert (await of_app.next())["subject"] == "i"
    await reader.close()
    await of_app.close()


async def test_a_stream_is_resumed_without_gap_or_double_at_another_replica(world: World) -> None:
    reader = await follow(world)
    for n in range(40):
        await world.deployer.tell(progressed(f"acme/web{n}"))
    seen = [(await reader.next())["subject"] for _ in range(15)]
    place = reader.parser.last_id
    await reader.close()
    replica = make_shared(Path(world.shared.common.data_dir), GatewayConfig(), world.clock)
    replica.bus, replica.store = world.bus, world.shared.store
    replica.local.apps.update(
        {name: app for name, app in world.shared.local.apps.items() if name != "gateway"}
    )
    async with running(replica):
        other = World(
            replica, world.clock, world.bus, world.deployer, world.others, world.admin_key
        )
        resumed = await follow(other, last_id=place)
        seen += [(await resumed.next())["subject"] for _ in range(25)]
        await resumed.close()
    assert sorted(seen) == sorted(f"acme/web{n}" for n in range(40))


async def test_poison_is_passed_over(world: World) -> None:
    reader = await follow(world)
    await world.bus.publish([Record("deploy.progressed", "k", b"not an event")])
    await world.deployer.tell(progressed("acme/web"))
    assert (await reader.next())["subject"] == "acme/web"
    await reader.close()


async def test_wrong_ids_are_refused(world: World) -> None:
    response = await world.call("GET", "/v1/events", headers={"Last-Event-ID": "7"})
    assert response.status == 422 and response.json()["errors"][0]["field"] == "Last-Event-ID"


async def test_heartbeats_move_the_place_past_what_is_not_shown(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, GatewayConfig(heartbeat_s=0.05)) as world:
        key = await world.key("acme", "viewer")
        reader = await follow(world, key=key)
        before = reader.parser.last_id
        await world.deployer.tell(progressed("other/web"))
        async with asyncio.timeout(30):
            while reader.parser.last_id == before:
                assert (await reader.chunk()).startswith(b": still here")
        await reader.close()


async def test_a_revoked_keys_stream_ends(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, GatewayConfig(heartbeat_s=0.05)) as world:
        key = await world.key("acme", "viewer")
        reader = await follow(world, key=key)
        await world.call("DELETE", f"/v1/keys/{key.split('_')[1]}")
        async with asyncio.timeout(30):
            try:
                while True:
                    await reader.chunk()
            except StopAsyncIteration:
                pass


async def test_a_revoked_keys_stream_ends_however_much_there_is_to_tell(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, GatewayConfig(heartbeat_s=0.2)) as world:
        key = await world.key("acme", "viewer")
        reader = await follow(world, key=key)
        await world.call("DELETE", f"/v1/keys/{key.split('_')[1]}")
        told = 0
        async with asyncio.timeout(30):
            try:
                while True:
                    await world.deployer.tell(progressed("acme/web"))
                    await reader.chunk()
                    told += 1
                    await asyncio.sleep(0.01)
            except StopAsyncIteration:
                pass
        assert told < 100


async def test_a_log_ends_when_who_reads_it_may_no_longer() -> None:
    now, allowed, freed = 0.0, True, 0

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"line"

    async def still_allowed() -> None:
        if not allowed:
            raise Unauthenticated("revoked")

    def free() -> None:
        nonlocal freed
        freed += 1

    lines = Lines(endless(), Leave(still_allowed, lambda: now, 5.0), free)
    assert await anext(lines) == b"line"
    allowed = False
    assert await anext(lines) == b"line"  # asked once in a while
    now = 5.0
    with pytest.raises(StopAsyncIteration):
        await anext(lines)
    assert freed == 1


async def test_streams_are_bounded_and_their_places_freed(tmp_path: Path) -> None:
    config = GatewayConfig(max_streams=3, max_streams_per_key=2)
    async with gateway_world(tmp_path, config) as world:
        key = await world.key("acme", "viewer")
        first, second = await follow(world), await follow(world)
        assert (await world.call("GET", "/v1/events")).status == 429
        third = await follow(world, key=key)
        assert (await world.call("GET", "/v1/events", key=key)).status == 429
        for reader in (first, second, third):
            await reader.close()
        unread = await world.call("GET", "/v1/events")
        await unread.stream.aclose()  # type: ignore[union-attr]
        again = [await follow(world), await follow(world), await follow(world, key=key)]
        for reader in again:
            await reader.close()


async def test_a_slow_reader_holds_up_nobody(world: World) -> None:
    slow = await follow(world)
    quick = await follow(world)
    for n in range(500):
        await world.deployer.tell(progressed("acme/web", f"s{n}"))
    assert [(await quick.next())["data"]["state"] for _ in range(500)][-1] == "s499"
    assert (await slow.next())["data"]["state"] == "s0"
    await slow.close()
    await quick.close()
