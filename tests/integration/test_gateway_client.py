"""The client against a gateway behind sockets: errors, retries, streams that break and come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from libs.client import GantryClient
from libs.client import model as api
from libs.client.networks import QuotaBody
from libs.common.clock import RngIds
from libs.common.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Stale,
    TimedOut,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from libs.common.events import model as ev
from libs.common.http import Dispatcher, Response
from libs.common.serve import serve
from libs.common.spec import AppSpec
from services.gateway.model import GatewayConfig
from tests.fakes.gateway import SPEC, ShiftedClock, World, gateway_world, live_gateway

WEB = AppSpec.model_validate(SPEC)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[World, str]]:
    """A world and its URL."""
    async with live_gateway(tmp_path) as both:
        yield both


@dataclass
class QuickClock(ShiftedClock):
    """Sleeps are noted, and short."""

    slept_s: list[float] = field(default_factory=list)

    async def sleep(self, delay_s: float) -> None:
        """Sleep a thousandth of it."""
        self.slept_s.append(delay_s)
        await asyncio.sleep(delay_s / 1000)


@asynccontextmanager
async def client(url: str, key: str, **more: Any) -> AsyncIterator[GantryClient]:
    rng = random.Random(3)
    more = {"clock": QuickClock(), "rng": rng, "ids": RngIds(rng), **more}
    async with GantryClient.open(url, key, **more) as made:
        yield made


async def test_the_way_of_an_app(served: tuple[World, str]) -> None:
    world, url = served
    async with client(url, world.admin_key) as gantry:
        made, etag = await gantry.put_app("acme/web", WEB)
        assert (made.app, made.version, etag) == ("acme/web", 1, '"1"')
        accepted = await gantry.deploy("acme/web")
        ended = await gantry.wait(accepted.deployment, poll_s=1.0)
        assert ended.state == "succeeded" and ended.release == 1
        await gantry.wait((await gantry.scale("acme/web", 5)).deployment)
        instances = (await gantry.instances("acme/web")).instances
        assert {each.address for each in instances} == {f"10.1.0.{n}" for n in range(1, 6)}
        lines = [line async for line in gantry.logs(instances[0].instance, tail=2)]
        assert [line["stream"] for line in lines] == ["stdout", "stdout"]
        assert [each.app for each in (await gantry.apps()).apps] == ["acme/web"]
        assert [each.action for each in (await gantry.deployments("acme/web")).deployments] == [
            "scale",
            "release",
        ]
        assert (await gantry.nodes()).nodes[0].instances == 5
        assert (await gantry.addressing.network("blue"))[0].network == "blue"
        assert (await gantry.plan("acme/web")).model_dump()["release"] == 2
        new = await gantry.plan("acme/new", spec=WEB)
        assert new.model_dump()["release"] == 1
        key = await gantry.create_key(api.NewKey(bu="acme", role=api.Role.VIEWER))
        assert [each.bu for each in (await gantry.tenants()).tenants] == ["acme"]
        assert (await gantry.revoke_key(key.id)).revoked_at is not None


async def test_problems_come_back_as_the_errors_they_stand_for(served: tuple[World, str]) -> None:
    world, url = served
    viewer = await world.key("acme", "viewer")
    async with client(url, world.admin_key) as gantry, client(url, viewer) as watcher:
        await gantry.put_app("acme/web", WEB)
        with pytest.raises(NotFound) as caught:
            await gantry.app("acme/none")
        assert any(note.startswith("request id: ") for note in caught.value.__notes__)
        with pytest.raises(Stale):
            await gantry.put_app("acme/web", WEB, if_match='"7"')
        with pytest.raises(InvalidInput) as wrong:
            await gantry.put_app("acme/web", {**SPEC, "instances": -1})
        assert [each.field for each in wrong.value.problems] == ["instances"]
        with pytest.raises(InvalidInput, match="not an app's name"):
            await gantry.app("web")
        with pytest.raises(Forbidden):
            await watcher.deploy("acme/web")
        with pytest.raises(Conflict):
            await gantry.revoke_key("first")
    async with client(url, "gk_first_" + "0" * 52) as stranger:
        with pytest.raises(Unauthenticated):
            await stranger.apps()
        with pytest.raises(Unauthenticated):
            async with aclosing(stranger.events()) as events:
                await anext(events)


@dataclass
class Flaky:
    """A dispatcher that lets answers get lost after the deed, or answers for a peer that is away."""

    inner: Dispatcher
    lose: int = 0
    refuse: int = 0
    calls: list[tuple[str, str]] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def dispatch(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Answer, or not."""
        self.calls.append((method, target))
        if self.refuse:
            self.refuse -= 1
            return Response(502, b"<html>", {}, "text/html")
        response = await self.inner.dispatch(method, target, headers, body)
        if self.lose:
            self.lose -= 1
            await self.over.wait()
        return response


async def test_a_lost_answer_costs_a_retry_and_no_second_deployment(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        flaky = Flaky(world.app)
        async with serve(flaky, "127.0.0.1:0") as url:
            async with (
                client(url, world.admin_key) as patient,
                client(url, world.admin_key, timeout_s=0.3) as gantry,
            ):
                await patient.put_app("acme/web", WEB)
                flaky.lose = 2
                accepted = await gantry.deploy("acme/web")
                assert (await patient.wait(accepted.deployment)).state == "succeeded"
                assert len(world.deployer.heard) == 1
                flaky.refuse = 3
                assert len((await patient.apps()).apps) == 1
            flaky.over.set()


async def test_a_lost_answer_to_a_delete_costs_a_retry_and_no_error(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        flaky = Flaky(world.app)
        async with serve(flaky, "127.0.0.1:0") as url:
            async with (
                client(url, world.admin_key) as patient,
                client(url, world.admin_key, timeout_s=5.0) as gantry,
            ):
                await patient.addressing.put_quota("acme", QuotaBody(limit=5))
                flaky.lose = 2
                await gantry.addressing.remove_quota("acme")
                deletes = [path for method, path in flaky.calls if method == "DELETE"]
                assert deletes == 3 * ["/v1/quotas/acme"]
            flaky.over.set()


async def test_retries_are_bounded_and_a_put_is_not_repeated(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        flaky = Flaky(world.app, refuse=100)
        async with serve(flaky, "127.0.0.1:0") as url:
            async with client(url, world.admin_key, tries=3) as gantry:
                with pytest.raises(Unavailable, match="502"):
                    await gantry.apps()
                assert len(flaky.calls) == 3
                with pytest.raises(Unavailable):
                    await gantry.put_app("acme/web", WEB)
                assert len(flaky.calls) == 4
            flaky.refuse, flaky.lose = 0, 100
            async with client(url, world.admin_key, tries=2, timeout_s=0.1) as gantry:
                with pytest.raises(TimedOut):
                    await gantry.apps()
            flaky.over.set()


async def test_being_too_quick_is_waited_out(tmp_path: Path) -> None:
    config = GatewayConfig(rate_per_s=0.125, rate_burst=2)
    async with live_gateway(tmp_path, config) as (world, url):
        clock = QuickClock()
        async with client(url, world.admin_key, clock=clock, tries=3) as gantry:
            await gantry.apps()
            await gantry.apps()
            with pytest.raises(TooMany) as caught:
                await gantry.apps()
            after_s = caught.value.retry_after_s
            assert after_s is not None and len(clock.slept_s) == 2
            first_s, second_s = clock.slept_s  # what it was told each time, which grows less
            assert 1 <= after_s <= second_s <= first_s <= 8


async def test_events_survive_broken_connections_without_gap_or_double(
    served: tuple[World, str],
) -> None:
    world, url = served
    broken: list[asyncio.StreamWriter] = []
    host, _, port = url.removeprefix("http://").partition(":")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        broken.extend((writer, up_writer))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(300):
                    sink.write(data)
                    await sink.drain()
            except ConnectionError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    seen: list[str] = []
    async with server, client(proxy, world.admin_key) as gantry:
        place = await gantry.place(["node.*"])
        async with (
            aclosing(gantry.events(["node.*"], last_id=place)) as events,
            asyncio.timeout(60),
        ):
            for n in range(40):
                await world.deployer.tell(ev.NodeLost(agent=f"a{n}", hostname="h"))
                if n % 10 == 5:
                    for writer in broken:
                        writer.transport.abort()
                seen.append((await anext(events)).subject)
    assert sorted(seen) == sorted(f"a{n}" for n in range(40))


async def test_a_reader_that_left_gives_its_place_back_though_nothing_is_written(
    tmp_path: Path,
) -> None:
    config = GatewayConfig(max_streams=2, heartbeat_s=3600)
    async with (
        live_gateway(tmp_path, config) as (world, url),
        client(url, world.admin_key) as gantry,
    ):
        for _ in range(6):
            async with asyncio.timeout(60):
                while True:
                    try:
                        await gantry.place()
                        break
                    except TooMany:
                        await asyncio.sleep(0.05)


async def test_a_stop_does_not_wait_for_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    async with gateway_world(tmp_path) as world:
        stopped_at = 0.0
        monkeypatch.setattr("libs.common.serve.SHUTDOWN_S", 60.0)

        async def read(url: str, begun: asyncio.Event) -> None:
            async with (
                client(url, world.admin_key) as gantry,
                gantry._transport.stream("/v1/events") as chunks,
            ):
                async for _ in chunks:
                    begun.set()

        async with asyncio.TaskGroup() as group:
            begun = asyncio.Event()
            async with serve(world.app, "127.0.0.1:0") as url:
                reader = group.create_task(read(url, begun))
                await begun.wait()
                stopped_at = loop.time()
            assert loop.time() - stopped_at < 30.0
            reader.cancel()


async def test_an_odd_name_in_a_path_is_not_found_like_any_other(
    served: tuple[World, str],
) -> None:
    world, url = served
    async with client(url, world.admin_key) as gantry:
        for name in ("a\nb", "\x02\x0a", "é"):
            with pytest.raises(NotFound):
                await gantry.deployment(name)
