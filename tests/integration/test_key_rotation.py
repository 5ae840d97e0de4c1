"""The cluster's secret and a host's key are replaced while services call each other over HTTP: nobody is refused.

Two machines with a file each and a host with its own keys; at any moment no two of them need be at the same stage.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from infra.provision.process import free_ports
from libs.common.actor import Actor
from libs.common.bus.memory import MemoryBus
from libs.common.clock import RngIds, SystemClock
from libs.common.http import HttpApp, Kind, Request, Response, Role, Route, reply
from libs.common.keys import SecretFile, prepend_secret, read_secrets, retire_secret, write_secrets
from libs.common.peers import PeerClient
from libs.common.runtime import CommonConfig, Shared
from libs.common.serve import serve
from libs.common.store.memory import MemoryStore
from libs.common.store.schemas import SchemaStore
from libs.common.supervision import run_services
from libs.common.telemetry import make_log
from libs.common.tokens import TokenSigner, TokenVerifier, derive_key
from services.gateway.model import GatewayConfig
from services.gateway.peers import HostTokens, Peers
from services.gateway.service import KEY_FILE
from services.gateway.service import run as run_gateway
from services.hostd.main import host_keys, make_verifier
from services.hostd.settings import HostdConfig
from services.ipam.model import IpamConfig
from services.ipam.service import run as run_ipam

pytestmark = pytest.mark.timeout(120)

HOST = "host-1"
ANN = Actor("ann", "*", Role.ADMIN)
NETWORK = {"name": "red", "vlan": 100, "cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}


class Hasty(SystemClock):
    """The machine's clock; files are looked at ten times as often, tokens live as long as ever."""

    async def sleep(self, delay_s: float) -> None:
        """Sleep a tenth."""
        await asyncio.sleep(delay_s / 10)


@dataclass
class Party:
    """Whose file it is, and what it has read of it."""

    path: Path
    secret: SecretFile

    async def takes_up(self, keys: Sequence[bytes]) -> None:
        """Wait until it has."""
        async with asyncio.timeout(30):
            while self.secret.current() != tuple(keys):
                await asyncio.sleep(0.01)


@dataclass
class Cluster:
    """The machines of gateway and ipam, and a host; what they asked each other, and what was answered."""

    gateway: Party
    ipam: Party
    host: Party
    urls: dict[str, str]
    calls: dict[str, Callable[[], object]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)

    async def rounds(self, count: int = 5) -> None:
        """Let so many more rounds of all calls pass."""
        async with asyncio.timeout(30):
            wanted = {name: len(found) + count for name, found in self.answers.items()}
            while any(len(self.answers[name]) < wanted[name] for name in wanted):
                await asyncio.sleep(0.005)


def machine(directory: Path, urls: dict[str, str], service: str) -> tuple[Party, Shared]:
    """A process's shared parts, its secret in a file of its own."""
    clock, rng = Hasty(), random.Random(7)
    secret = SecretFile(directory / "cluster.secret")
    common = CommonConfig(
        data_dir=directory,
        log_level="error",
        listen={service: urls[service].removeprefix("http://")},
        peers=urls,
    )
    settings = {
        "gateway": GatewayConfig(rate_per_s=100_000.0, rate_burst=100_000.0),
        "ipam": IpamConfig.model_validate({"networks": [NETWORK]}),
    }
    bus, store = MemoryBus(clock), SchemaStore(MemoryStore())
    shared = Shared(common, settings, bus, store, clock, rng, RngIds(rng), secret=secret)
    return Party(secret.path, secret), shared


def hostd_app(config: HostdConfig, secret: SecretFile, clock: SystemClock) -> HttpApp:
    """hostd's port: its verifier, and a route for services."""

    async def attachments(_request: Request) -> Response:
        return reply({"attachments": []})

    routes = [Route("GET", "/v1/attachments", attachments)]
    return HttpApp(routes, make_verifier(config, secret, clock), monotonic=clock.monotonic)


@asynccontextmanager
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """All of it, under one secret, calling each other without a pause."""
    for name in ("gateway", "ipam"):
        (tmp_path / name).mkdir()
    first = prepend_secret(tmp_path / "gateway" / "cluster.secret")
    write_secrets(tmp_path / "ipam" / "cluster.secret", first)
    key_file = tmp_path / "host.key"
    write_secrets(key_file, [derive_key(each, Kind.HOST, HOST) for each in first])
    urls = {name: f"http://127.0.0.1:{free_ports(1)[0]}" for name in ("gateway", "ipam")}
    one, at_gateway = machine(tmp_path / "gateway", urls, "gateway")
    other, at_ipam = machine(tmp_path / "ipam", urls, "ipam")
    host = Party(key_file, SecretFile(key_file))
    clock = Hasty()
    config = HostdConfig(host=HOST, host_key_file=key_file)
    made = Cluster(one, other, host, urls)
    keys = host_keys(config, host.secret)
    from_host = PeerClient(TokenSigner(Kind.HOST, HOST, keys, clock), urls)
    to_host = PeerClient(None, {})
    peers = Peers(to_host, 5.0, HostTokens(at_gateway.secret, clock))
    async with (
        serve(hostd_app(config, host.secret, clock), "127.0.0.1:0") as hostd_url,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as group,
    ):
        tasks = [
            group.create_task(run_services(at_gateway, {"gateway": run_gateway})),
            group.create_task(run_services(at_ipam, {"ipam": run_ipam})),
            group.create_task(host.secret.watch(clock, make_log("hostd", level="error"))),
        ]
        admin_file = tmp_path / "gateway" / KEY_FILE
        async with asyncio.timeout(30):
            while not admin_file.exists() or not await _ready(session, urls):
                await asyncio.sleep(0.02)
        admin = {"Authorization": f"Bearer {admin_file.read_text().strip()}"}

        async def gateway_to_ipam() -> int:
            async with session.get(f"{urls['gateway']}/v1/networks", headers=admin) as answer:
                content = await answer.json()
                return 503 if content.get("incomplete") else answer.status

        async def gateway_to_host() -> int:
            return (await peers.open(ANN, HOST, hostd_url, "/v1/attachments")).status

        async def host_to_ipam() -> int:
            path = f"/v1/hosts/{HOST}/attachments"
            return (await from_host.call("ipam", "POST", path, body=b'{"live": []}')).status

        async def again(name: str, call: Callable[[], object]) -> None:
            while True:
                made.answers[name].append(await call())  # type: ignore[misc]
                await asyncio.sleep(0.002)

        for call in (gateway_to_ipam, gateway_to_host, host_to_ipam):
            made.answers[call.__name__] = []
            tasks.append(group.create_task(again(call.__name__, call)))
        yield made
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await from_host.close()
        await to_host.close()


async def _ready(session: aiohttp.ClientSession, urls: dict[str, str]) -> bool:
    try:
        for url in urls.values():
            async with session.get(f"{url}/readyz") as answer:
                if answer.status != 200:
                    return False
    except aiohttp.ClientError:
        return False
    return True


async def status(url: str, secret: bytes) -> int:
    """What a service that signs with `secret` alone is answered."""
    clock = SystemClock()
    key = derive_key(secret, Kind.SERVICE, "monitor")
    headers = TokenSigner(Kind.SERVICE, "monitor", key, clock).headers()
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status


async def test_a_secret_is_replaced_and_no_call_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        (old,) = here.gateway.secret.current()
        await here.rounds()

        both = prepend_secret(here.gateway.path)  # the gateway is first to know
        await here.gateway.takes_up(both)
        await here.rounds()
        host_keys = [derive_key(each, Kind.HOST, HOST) for each in both]
        await here.host.takes_up(write_secrets(here.host.path, host_keys))
        await here.rounds()
        await here.ipam.takes_up(write_secrets(here.ipam.path, both))
        await here.rounds()
        metrics = [f"{url}/metrics" for url in here.urls.values()]
        assert [await status(url, secret) for url in metrics for secret in both] == [200] * 4

        for party in (here.ipam, here.host, here.gateway):  # the old one goes, in any order
            await party.takes_up(retire_secret(party.path))
            await here.rounds()
        assert {name: set(found) for name, found in here.answers.items()} == {
            "gateway_to_ipam": {200},
            "gateway_to_host": {200},
            "host_to_ipam": {200},
        }
        assert [await status(url, both[0]) for url in metrics] == [200, 200]
        assert [await status(url, old) for url in metrics] == [401, 401]
        assert read_secrets(here.host.path) == (derive_key(both[0], Kind.HOST, HOST),)


async def test_the_old_host_key_opens_nothing_after_its_removal(tmp_path: Path) -> None:
    old, new = b"o" * 32, b"n" * 32
    path = tmp_path / "host.key"
    write_secrets(path, [derive_key(each, Kind.HOST, HOST) for each in (new, old)])
    config, secret = HostdConfig(host=HOST, host_key_file=path), SecretFile(path)
    clock = Hasty()
    tokens = HostTokens(old, clock)
    async with (
        serve(hostd_app(config, secret, clock), "127.0.0.1:0") as url,
        aiohttp.ClientSession() as session,
    ):

        async def asked() -> int:
            target = f"{url}/v1/attachments"
            async with session.get(target, headers=await tokens.headers(HOST)) as answer:
                return answer.status

        assert await asked() == 200
        retire_secret(path)
        assert [secret.look(), secret.look()] == [False, True]
        assert await asked() == 401
    verify = TokenVerifier(new, clock)
    assert (await verify(await HostTokens(new, clock).headers(HOST), {})).name == HOST
