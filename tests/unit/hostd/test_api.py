"""hostd's HTTP face: paths, bodies, and which error becomes which answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from libs.common.errors import Unauthenticated
from libs.common.http import Access, Kind, Response
from libs.common.tokens import TokenSigner, TokenVerifier, derive_key
from services.hostd.api import read_routes, socket_routes
from services.hostd.auth import OwnKeyVerifier
from services.hostd.main import make_app
from services.hostd.model import ContainerView
from tests.fakes.hostd import HostdClient, fake_hostd
from tests.fakes.ipam import FakeIpam
from tests.fakes.network import FakeHost
from tests.simulation.loop import World, virtual

ID = "a" * 64
SECRET = b"s" * 32
PATH = "/v1/attachments/web-1/eth0"


async def ask(
    client: HostdClient, method: str, path: str, content: Mapping[str, Any] | None = None
) -> Response:
    body = b"" if content is None else json.dumps(content).encode()
    return await client.call("hostd", method, path, body=body)


@virtual
async def test_the_way_of_an_attachment(world: World) -> None:
    host, ipam = FakeHost(), FakeIpam(red=(100, "10.0.0.0/28"))
    async with fake_hostd(host, ipam, world.clock, world.rng) as client:
        assert (await ask(client, "GET", PATH)).status == 404
        added = await ask(client, "PUT", PATH, {"network": "red", "attempt": "web.1"})
        assert added.status == 200
        view = added.json()
        assert (view["ip"], view["vlan"], view["attempt"]) == ("10.0.0.1", 100, "web.1")
        assert view["ready"] is True
        assert view["host_inode"] not in (0, view["inode"])
        registration = {"container_id": ID, "generation": 0}
        registered = await ask(client, "POST", f"{PATH}/registration", registration)
        assert registered.json()["registered"] is True
        revoked = await ask(client, "DELETE", f"{PATH}/registration")
        assert revoked.json() == {"revoked": True}
        assert (await ask(client, "GET", PATH)).json()["registered"] is False
        listed = (await ask(client, "GET", "/v1/attachments")).json()["attachments"]
        assert [each["container"] for each in listed] == ["web-1"]
        assert (await ask(client, "DELETE", PATH)).json() == {"removed": True}
        assert (await ask(client, "DELETE", PATH)).json() == {"removed": False}


@virtual
async def test_errors_and_their_answers(world: World) -> None:
    host, ipam = FakeHost(), FakeIpam(red=(100, "10.0.0.0/30"))
    async with fake_hostd(host, ipam, world.clock, world.rng, ipam_wait_s=0) as client:
        other = "/v1/attachments/web-2/eth0"
        await ask(client, "PUT", PATH, {"network": "red", "generation": 2})
        for method, path, content, status in (
            ("PUT", PATH, {"network": "red", "generation": 1}, 412),
            ("PUT", PATH, {"network": "blue", "generation": 2}, 409),
            ("PUT", other, {"network": "green"}, 404),
            ("PUT", other, {"network": "red"}, 429),
            ("PUT", other, {"network": "red", "mtu": 1}, 422),
            ("PUT", other, {"network": "red", "colour": 1}, 422),
            ("PUT", other, {"network": "red", "ip": "ten"}, 422),
            ("PUT", "/v1/attachments/web-2/TOO%20BAD", {"network": "red"}, 422),
            ("POST", f"{PATH}/registration", {"container_id": "short", "generation": 2}, 422),
            ("POST", f"{PATH}/registration", {"container_id": ID, "generation": 1}, 412),
            ("POST", f"{other}/registration", {"container_id": ID}, 404),
            ("GET", "/v1/containers/nobody/logs", None, 404),
            ("GET", "/v1/containers/nobody/stats", None, 404),
            ("GET", "/v1/containers/web-1/logs?tail=many", None, 422),
        ):
            answer = await ask(client, method, path, content)
            assert answer.status == status, (path, answer.body)
        ipam.away = True
        assert (await ask(client, "PUT", other, {"network": "red"})).status == 503


@virtual
async def test_logs_and_numbers(world: World) -> None:
    host, ipam = FakeHost(), FakeIpam(red=(100, "10.0.0.0/28"))
    host.containers[ID] = ContainerView(ID, "web-1", True, "gantry", 7, None)
    host.logs[ID] = [b'{"n":1}\n', b'{"n":2}\n']
    async with fake_hostd(host, ipam, world.clock, world.rng) as client:
        answer = await ask(client, "GET", "/v1/containers/web-1/logs?tail=1")
        assert answer.content_type == "application/x-ndjson"
        assert answer.stream is not None
        assert [each async for each in answer.stream] == [b'{"n":2}\n']
        assert (await ask(client, "GET", "/v1/containers/web-1/stats")).json()["network"] is None
        await ask(client, "PUT", PATH, {"network": "red"})
        numbers = (await ask(client, "GET", f"/v1/containers/{ID}/stats")).json()
        assert numbers["pids"] == 1 and numbers["at"] == world.clock.now()
        assert (await ask(client, "GET", "/v1/containers/web-1/stats")).json()["network"][
            "rx_bytes"
        ] == 0


@virtual
async def test_a_disk_with_little_room_is_told(world: World) -> None:
    host, ipam = FakeHost(), FakeIpam(red=(100, "10.0.0.0/28"))
    async with fake_hostd(host, ipam, world.clock, world.rng, disks=["/sandboxes"]) as client:

        async def low() -> str:
            await world.clock.sleep(20)
            answer = await ask(client, "GET", "/healthz")
            assert answer.status == 200
            said: str = answer.json()["disk_low"]
            return said

        assert await low() == ""
        metrics = (await ask(client, "GET", "/metrics")).body.decode()
        for path in ("/engine", "/var/lib/gantry", "/sandboxes"):
            assert f'gantry_hostd_disk_free_bytes{{path="{path}"}} 1.048576e+11' in metrics
        host.disk.used_mib = 95_000
        assert await low() == "/engine has 5000 MiB (5 %) left"
        host.engine_up = False
        assert await low() == "/var/lib/gantry has 5000 MiB (5 %) left"
        host.engine_up, host.disk.used_mib, host.disk.free_inodes_pct = True, 0, 3
        assert await low() == "/engine has 3 % of its inodes left"


@virtual
async def test_ready_and_metrics(world: World) -> None:
    host, ipam = FakeHost(), FakeIpam(red=(100, "10.0.0.0/28"))
    async with fake_hostd(host, ipam, world.clock, world.rng) as client:
        assert (await ask(client, "GET", "/healthz")).status == 200
        await world.clock.sleep(1)
        assert (await ask(client, "GET", "/readyz")).status == 200
        host.switch_up = False
        answer = await ask(client, "GET", "/readyz")
        assert (answer.status, answer.json()["reason"]) == (503, "no connection to Open vSwitch")
        await ask(client, "PUT", PATH, {"network": "red"})
        metrics = (await ask(client, "GET", "/metrics")).body.decode()
        assert "gantry_hostd_add_seconds" in metrics
        assert 'route="/v1/attachments/{container}/{ifname}"' in metrics


@virtual
async def test_the_port_is_for_reading_with_a_token(world: World) -> None:
    host, ipam = FakeHost(), FakeIpam(red=(100, "10.0.0.0/28"))
    async with fake_hostd(host, ipam, world.clock, world.rng) as client:
        service = client.service
        key = derive_key(SECRET, Kind.HOST, "host-1")
        verifier = OwnKeyVerifier("host-1", key, world.clock)
        app = make_app(service, read_routes(service), verifier)
        good = TokenSigner(Kind.HOST, "host-1", key, world.clock).headers()
        assert (await app.dispatch("GET", "/v1/attachments", good)).status == 200
        assert (await app.dispatch("GET", "/v1/attachments", {})).status == 401
        assert (await app.dispatch("DELETE", PATH, good)).status == 405
        assert (await app.dispatch("PUT", PATH, good, b"{}")).status == 405


def sign(kind: Kind, name: str, world: World, secret: bytes = SECRET) -> dict[str, str]:
    return TokenSigner(kind, name, derive_key(secret, kind, name), world.clock).headers()


@virtual
async def test_whose_tokens_open_the_port(world: World) -> None:
    key = derive_key(SECRET, Kind.HOST, "host-1")
    alone = OwnKeyVerifier("host-1", key, world.clock)
    both = OwnKeyVerifier("host-1", key, world.clock, TokenVerifier(SECRET, world.clock))
    assert (await alone(sign(Kind.HOST, "host-1", world), {})).kind is Kind.SERVICE
    assert (await both(sign(Kind.HOST, "host-1", world), {})).kind is Kind.SERVICE
    assert (await both(sign(Kind.SERVICE, "gateway", world), {})).kind is Kind.SERVICE
    # Another host stays a host, and the routes are for services.
    assert (await both(sign(Kind.HOST, "host-2", world), {})).kind is Kind.HOST
    for headers in (
        sign(Kind.SERVICE, "gateway", world),
        sign(Kind.HOST, "host-2", world),
        sign(Kind.HOST, "host-1", world, b"x" * 32),
        {"authorization": "Bearer nonsense"},
        {
            "authorization": sign(Kind.HOST, "host-1", world)["authorization"].replace(
                "Bearer", "Basic"
            )
        },
    ):
        with pytest.raises(Unauthenticated):
            await alone(headers, {})
    old = sign(Kind.HOST, "host-1", world)
    await world.clock.sleep(100)
    with pytest.raises(Unauthenticated, match="expired"):
        await alone(old, {})


@virtual
async def test_routes_say_who_may_call(world: World) -> None:
    host, ipam = FakeHost(), FakeIpam()
    async with fake_hostd(host, ipam, world.clock, world.rng) as client:
        assert {route.access for route in read_routes(client.service)} == {Access.SERVICE}
        assert {route.access for route in socket_routes(client.service)} == {Access.HOST}
