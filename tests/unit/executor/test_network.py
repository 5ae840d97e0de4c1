"""What a `Network` promises, asked of the tests' fake and of the client of hostd's real API (on hostd's own fakes)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from libs.common.delivery import DeliveredLogin, DeliveredSecret, Delivery
from libs.common.errors import NotFound, Refused, Stale, Unavailable
from libs.common.http import HttpApp, Response
from libs.common.peers import PeerClient
from libs.common.wishes import Bandwidth, NetworkOptions
from services.executor.hostd import HostdClient
from services.executor.model import AttachmentSpec, AttemptId, ContainerName
from services.executor.ports import Network
from services.hostd.api import SocketAuthenticator, read_routes, socket_routes
from services.hostd.main import make_app
from tests.fakes.ipam import FakeNetwork as AddressPool
from tests.fakes.network import StartRefused as HostdRefused
from tests.simulation.loop import World, virtual
from tests.unit.executor.world import FakeNetwork
from tests.unit.hostd.world import HostdWorld

NAME = ContainerName("gantry-test-web.1")
ID = "a" * 64
Claim = Callable[[str], Awaitable[int]]


class _AppClient:
    """A ServiceClient right into hostd's application."""

    def __init__(self, app: HttpApp) -> None:
        self._app = app

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        assert service == "hostd"
        return await self._app.dispatch(method, path, headers or {}, body)


@asynccontextmanager
async def _fake(_world: World) -> AsyncIterator[tuple[Network, Claim]]:
    network = FakeNetwork()
    yield network, network.claim


@asynccontextmanager
async def _real(world: World) -> AsyncIterator[tuple[Network, Claim]]:
    it = HostdWorld(world)
    it.ipam.networks["red"].reserved["db"] = "10.0.0.9"
    it.ipam.networks["lab"] = AddressPool(300, IPv4Network("10.3.0.0/29"))
    it.ipam.networks["lab"].environments = frozenset({"lab"})

    async def claim(container_id: str) -> int:
        return it.host.claim(container_id).inode

    async with asyncio.TaskGroup() as group:
        service = await it.start(group)
        app = make_app(service, socket_routes(service), SocketAuthenticator("host-1"))
        yield HostdClient(_AppClient(app)), claim
        await it.crash()


BOTH = pytest.mark.parametrize("kind", ["fake", "hostd"])
Scene = Callable[[Network, Claim], Awaitable[None]]


def play(kind: str, scene: Scene) -> None:
    @virtual
    async def run(world: World) -> None:
        async with {"fake": _fake, "hostd": _real}[kind](world) as (network, claim):
            await scene(network, claim)

    run()


def spec(name: ContainerName = NAME, generation: int = 1, network: str = "red") -> AttachmentSpec:
    return AttachmentSpec(name, network, "web", AttemptId(f"web.{generation}"), generation)


async def refused(claim: Claim) -> bool:
    try:
        await claim(ID)
    except (Refused, HostdRefused):
        return True
    return False


@BOTH
def test_attaching_twice_is_attaching_once(kind: str) -> None:
    async def scene(network: Network, _claim: Claim) -> None:
        first = await network.attach(spec())
        assert await network.attach(spec()) == first
        other = await network.attach(spec(ContainerName("gantry-test-other.1")))
        assert first.ip != other.ip
        assert len({first.inode, other.inode, first.host_inode}) == 3
        assert first.namespace != other.namespace

    play(kind, scene)


def test_network_options_reach_hostd_and_only_when_there_are_some() -> None:
    @virtual
    async def run(world: World) -> None:
        it = HostdWorld(world)
        async with asyncio.TaskGroup() as group:
            service = await it.start(group)
            app = make_app(service, socket_routes(service), SocketAuthenticator("host-1"))
            client = HostdClient(_AppClient(app))
            limits = Bandwidth(egress_kbit=1000)
            await client.attach(replace(spec(), options=NetworkOptions(mtu=1400, bandwidth=limits)))
            await client.attach(spec(ContainerName("gantry-test-other.1")))
            first, other = (service.get(name, "eth0") for name in (NAME, "gantry-test-other.1"))
            assert (first.mtu, first.bandwidth.egress_kbit) == (1400, 1000)
            assert (other.mtu, other.bandwidth.egress_kbit) == (1500, None)
            (port, _) = it.host.ports.values()
            assert port.bandwidth.egress_kbit == 1000
            # A later attempt of another release may have others.
            await client.attach(replace(spec(generation=2), options=NetworkOptions()))
            assert it.host.wires[port.attachment].egress_kbit is None
            await it.crash()

    run()


def test_an_address_of_its_own_is_asked_for() -> None:
    async def scene(network: Network, _claim: Claim) -> None:
        named = replace(spec(), reservation="db")
        assert (await network.attach(named)).ip == "10.0.0.9"
        certain = replace(spec(ContainerName("gantry-test-other.1")), ip="10.0.0.7")
        assert (await network.attach(certain)).ip == "10.0.0.7"

    play("hostd", scene)


def test_networks_for_an_environment_are_for_those_of_it() -> None:
    async def scene(network: Network, _claim: Claim) -> None:
        lab = spec(ContainerName("gantry-test-lab.1"), network="lab")
        with pytest.raises(NotFound):
            await network.attach(lab)
        assert (await network.attach(replace(lab, environment="lab"))).ip

    play("hostd", scene)


@BOTH
def test_leave_is_given_once_and_can_be_taken_back(kind: str) -> None:
    async def scene(network: Network, claim: Claim) -> None:
        made = await network.attach(spec())
        assert await refused(claim)
        await network.register(NAME, ID, 1)
        assert await claim(ID) == made.inode
        assert await refused(claim)
        await network.register(NAME, ID, 1)
        await network.revoke(NAME)
        assert await refused(claim)

    play(kind, scene)


@BOTH
def test_what_is_unknown(kind: str) -> None:
    async def scene(network: Network, _claim: Claim) -> None:
        await network.revoke(NAME)
        await network.detach(NAME)
        with pytest.raises(NotFound):
            await network.register(NAME, ID, 1)

    play(kind, scene)


@BOTH
def test_an_older_attempt_is_stale(kind: str) -> None:
    async def scene(network: Network, _claim: Claim) -> None:
        await network.attach(spec(generation=2))
        with pytest.raises(Stale):
            await network.attach(spec(generation=1))

    play(kind, scene)


@BOTH
def test_after_the_end_there_is_nothing(kind: str) -> None:
    async def scene(network: Network, claim: Claim) -> None:
        await network.attach(spec())
        await network.register(NAME, ID, 1)
        await network.revoke(NAME)
        await network.detach(NAME)
        assert await refused(claim)
        with pytest.raises(NotFound):
            await network.register(NAME, ID, 1)

    play(kind, scene)


def test_refusals_of_hostd_are_told_apart() -> None:
    async def scene(network: Network, _claim: Claim) -> None:
        with pytest.raises(NotFound, match="nowhere"):
            await network.attach(spec(network="nowhere"))

    play("hostd", scene)


@virtual
async def test_hostd_hands_on_what_an_attempt_needs(world: World) -> None:
    it = HostdWorld(world)
    given = Delivery(
        secrets=(DeliveredSecret.of("db", "DB", None, b"value"),),
        login=DeliveredLogin(user="ci", password="pa55"),
    )
    it.host.deliveries["web.1"] = given
    async with asyncio.TaskGroup() as group:
        service = await it.start(group)
        app = make_app(service, socket_routes(service), SocketAuthenticator("host-1"))
        hostd = HostdClient(_AppClient(app))
        assert await hostd.of_attempt(AttemptId("web.1")) == given
        with pytest.raises(NotFound, match="no attempt"):
            await hostd.of_attempt(AttemptId("web.2"))
        assert "value" not in f"{given}" and "pa55" not in f"{given}"
        # By the port, which others reach, there is no such thing.
        remote = make_app(service, read_routes(service), SocketAuthenticator("host-1"))
        answer = await remote.dispatch("GET", "/v1/attempts/web.1/delivery", {})
        assert answer.status == 404
        await it.crash()


async def test_without_hostd_it_is_unavailable(tmp_path: object) -> None:
    client = PeerClient(None, {"hostd": f"unix:{tmp_path}/hostd.sock"})
    try:
        with pytest.raises(Unavailable):
            await HostdClient(client).attach(spec())
    finally:
        await client.close()
