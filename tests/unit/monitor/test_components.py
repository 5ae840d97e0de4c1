"""Components that do not answer raise alerts; a time in which nobody watched is told, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from pydantic import ValidationError

from libs.common.errors import Unavailable
from libs.common.http import Response, reply
from services.monitor.components import Watch, ask, endpoint, host_probes, lags, low_disks, speaks
from services.monitor.model import MonitorConfig, Node
from tests.simulation.faults import Point
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.monitor.test_service import NO_MASTER, Desk, within


@dataclass
class Hosts:
    """A ServiceClient that knows hosts by their URL."""

    answers: dict[str, Response]
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    strangers: tuple[str, ...] = ()

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        **_: object,
    ) -> Response:
        """See ServiceClient. Without a word about it, the caller's own token would go with the call."""
        assert service not in self.strangers or headers == {"authorization": ""}
        self.asked.append((service, method, path))
        if service not in self.answers:
            raise Unavailable(f"{service} can't be reached")
        return self.answers[service]


def test_a_component_is_down_after_some_failures_in_a_row_and_well_at_once() -> None:
    watch = Watch(misses=2)
    said = [watch.judge("bus", reason) for reason in ("", "x", "x", "x", "", "x", "", "x", "x")]
    assert said == [False, None, True, True, False, None, False, None, True]


async def test_whatever_goes_wrong_with_a_probe_is_a_reason() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    async def refused() -> str:
        raise ConnectionRefusedError(111, "refused")

    assert await ask(never, 0.01) == "no answer within 0.01 s"
    assert "refused" in await ask(refused, 1.0)


async def test_hosts_say_themselves_what_they_lack() -> None:
    bad = reply({"reason": "no connection to Open vSwitch"}, 503)
    client = Hosts({"http://h1:1": reply({"reason": ""}), "http://h2:1": bad})
    client.strangers = ("http://h1:1", "http://h2:1", "http://h3:1")
    nodes = [Node(f"a{n}", f"h{n}", attributes={"hostd": f"http://h{n}:1"}) for n in (1, 2, 3)]
    probes = host_probes(client, [*nodes, Node("a4", "h4")], {})
    reasons = {name: await ask(probe, 1.0) for name, probe in probes.items()}
    assert reasons == {
        "host@h1": "",
        "host@h2": "no connection to Open vSwitch",
        "host@h3": "http://h3:1 can't be reached",
    }
    assert client.asked[0] == ("http://h1:1", "GET", "/readyz")


@pytest.mark.parametrize("body", [b"[]", b"{", b"", b'{"reason": []}', b'{"reason": null}'])
async def test_whatever_listens_there_ends_nobody(body: bytes) -> None:
    url = "http://h1:1"
    client = Hosts({url: Response(503, body, {}, "application/json")}, strangers=(url,))
    nodes = [Node("a1", "h1", attributes={"hostd": url})]
    (probe,) = host_probes(client, nodes, {}).values()
    assert await ask(probe, 1.0) == "status 503"
    client.answers[url] = Response(200, body, {}, "application/json")
    assert await low_disks(client, nodes, 1.0) == {}


@asynccontextmanager
async def says(text: bytes, *, only_if_asked: bytes = b"") -> AsyncIterator[int]:
    """The port of a server that says one thing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(len(only_if_asked)) == only_if_asked:
            writer.write(text)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"220 mail.test ESMTP\r\n", ""),
        (b"554 no\r\n", "it says b'554', not b'220'"),
        (b"", "no answer within 0.3 s"),
    ],
)
async def test_a_mail_server_must_greet(text: bytes, reason: str) -> None:
    async with says(text) as port:
        assert await ask(speaks("127.0.0.1", port, b"", b"220", b"QUIT\r\n"), 0.3) == reason
    assert "Connect call failed" in await ask(speaks("127.0.0.1", port, b"", b"220"), 1.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"Zookeeper version: 3.8.0\nMode: standalone\n", ""),
        (b"This ZooKeeper instance is not currently serving requests\n", "This ZooKeep"),
        (b"", "no answer within 0.3 s"),
    ],
)
async def test_zookeeper_must_serve(text: bytes, reason: str) -> None:
    async with says(text, only_if_asked=b"srvr") as port, aiohttp.ClientSession() as session:
        told = await ask(endpoint(session, f"zookeeper://127.0.0.1:{port}"), 0.3)
    assert (reason in told) if reason else (told == "")


@pytest.mark.parametrize(
    "url", ["registry:5000", "tcp://zookeeper", "zookeeper://zk", "ftp://x/", "http://"]
)
def test_an_endpoint_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValidationError, match=r"mine: .* is not http|mine: .* names no port"):
        MonitorConfig(endpoints={"mine": url})


@virtual
async def test_a_time_in_which_nobody_watched_is_told_and_over(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    first = desk.start()
    await world.clock.sleep(20)
    first.cancel()
    await asyncio.wait([first])
    second = desk.start()
    await world.clock.sleep(60)
    assert desk.mails.told == []  # a restart is no blindness
    second.cancel()
    await asyncio.wait([second])
    await world.clock.sleep(45)
    third = desk.start()
    await within(world, 60, ("monitoring-blind", True), ("monitoring-blind", False), desk=desk)
    third.cancel()


@virtual
async def test_a_master_that_is_away_for_a_moment_is_no_alert(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    task = desk.start()
    await world.clock.sleep(11)
    desk.master.away = True
    await world.clock.sleep(5)
    desk.master.away = False
    await world.clock.sleep(30)
    assert desk.mails.told == []
    desk.master.away = True
    await within(world, 30, (NO_MASTER, True), desk=desk)
    task.cancel()


async def test_a_services_lag_is_that_of_its_replica_which_knows_of_most() -> None:
    client = Hosts(
        {
            "http://d1": reply({"status": "alive", "lag": 7}),
            "http://d2": reply({"status": "alive", "lag": 9}),
            "http://g1": reply({"status": "alive"}),
            "http://i1": reply({}, 503),
            "http://i2": Response(200, b"<html>", content_type="text/html"),
            "http://i3": reply([]),
            "scheduler": reply({"lag": 3}),
        }
    )
    peers = {
        "deployer": "http://d1, http://d2,http://d3",
        "gateway": "http://g1",
        "ipam": "http://i1,http://i2,http://i3",
    }
    assert await lags(client, peers, 1.0) == {"deployer": 9}
    assert await lags(client, {}, 1.0) == {"scheduler": 3}


@virtual
async def test_a_service_that_stays_behind_is_an_alert_until_it_has_caught_up(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    behind = desk.small.runtime("deployer", "deployer-1")
    alert = "consumer-lag:deployer"
    async with behind.serve(behind.http_app([])):
        task = desk.start()
        await world.clock.sleep(70)
        behind.telemetry.lagging("deployer", [10_000, 1])
        await world.clock.sleep(39)
        behind.telemetry.lagging("deployer", [9_999])  # it was a moment
        await world.clock.sleep(70)
        assert desk.mails.told == []
        behind.telemetry.lagging("deployer", [10_000, 1])
        await within(world, 70, (alert, True), desk=desk)
        body = desk.small.store.body("monitor_alerts", alert)
        assert body and body["summary"] == "deployer is 10001 events behind; its limit is 10000"
        behind.telemetry.lagging("deployer", [0, 0])
        await within(world, 30, (alert, True), (alert, False), desk=desk)
        task.cancel()


async def test_hosts_say_themselves_how_much_room_they_have() -> None:
    client = Hosts(
        {
            "http://h1:1": reply({"status": "alive", "disk_low": ""}),
            "http://h2:1": reply({"status": "alive", "disk_low": "/engine has 7 MiB left"}),
            "http://h3:1": reply({"status": "alive"}),  # of an older version
            "http://h4:1": Response(200, b"<html>", content_type="text/html"),
        }
    )
    nodes = [Node(f"a{n}", f"h{n}", attributes={"hostd": f"http://h{n}:1"}) for n in range(1, 6)]
    found = await low_disks(client, [*nodes, Node("a9", "h9")], 1.0)
    assert found == {"h1": "", "h2": "/engine has 7 MiB left"}


@virtual
async def test_a_disk_that_fills_is_an_alert_until_there_is_room(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    alert = "disk-low:control-plane"
    task = desk.start()
    await world.clock.sleep(40)
    assert desk.mails.told == []
    desk.disk.used_mib = 91_000
    await within(world, 40, (alert, True), desk=desk)
    body = desk.small.store.body("monitor_alerts", alert)
    assert body and "has 9000 MiB (9 %) left" in body["summary"]
    desk.disk.used_mib = 0
    await within(world, 40, (alert, True), (alert, False), desk=desk)
    task.cancel()


@virtual
async def test_people_are_told_once_when_the_store_takes_nothing_any_more(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    alert = "disk-low:control-plane"
    task = desk.start()
    await world.clock.sleep(10)
    desk.disk.used_mib = 100_000
    desk.small.faults.rates = dict.fromkeys(Point, 0.0) | {Point.STORE_FAILS: 1.0}
    desk.small.faults.on = True
    await within(world, 120, (alert, True), desk=desk, about=alert)
    assert not desk.alert(alert)
    desk.disk.used_mib = 0
    desk.small.faults.on = False
    await within(world, 120, (alert, True), (alert, False), desk=desk, about=alert)
    task.cancel()
