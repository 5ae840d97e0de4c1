"""A host enrols over HTTP at one of two gateways on one store; ipam takes its key for that host, and for no other.

Everything runs as it does for real but for bus and store, which are files: gateways, ipam, and the host's own client.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from infra.provision.process import free_ports
from libs.client import GantryClient
from libs.client.enrolment import Outcome, enrol, renew
from libs.client.hostfiles import HostFiles
from libs.client.hosts import NewHostToken
from libs.common.clock import RngIds
from libs.common.config import Settings
from libs.common.errors import Unauthenticated
from libs.common.http import Kind, raise_problem
from libs.common.keys import SecretFile, prepend_secret, read_secrets, retire_secret
from libs.common.peers import PeerClient
from libs.common.runtime import CommonConfig, Shared, open_bus, open_store
from libs.common.supervision import run_services
from libs.common.tokens import TokenSigner, derive_key
from services.gateway.model import GatewayConfig
from services.gateway.service import KEY_FILE
from services.gateway.service import run as run_gateway
from services.ipam.model import IpamConfig
from services.ipam.service import run as run_ipam
from services.ipam.store import HOSTS
from tests.integration.test_key_rotation import NETWORK, Hasty

pytestmark = pytest.mark.timeout(120)

HOST, OTHER = "host-1", "host-2"
GATEWAYS = ("gateway-1", "gateway-2")


@dataclass
class Cluster:
    """Two gateways and an ipam, and an admin at each gateway."""

    secret: SecretFile
    urls: dict[str, str]
    admins: list[GantryClient]
    strangers: list[GantryClient]

    async def token(self, host: str = HOST) -> str:
        """A new token, from either gateway."""
        return (await self.admins[0].hosts.make_token(NewHostToken(host=host))).token

    async def as_host(self, files: HostFiles, host: str, path_of: str = "") -> int:
        """What ipam answers to a host that signs with its file's key, as hostd does."""
        keys = SecretFile(files.host_key)
        client = PeerClient(
            TokenSigner(Kind.HOST, host, keys, Hasty()), {"ipam": self.urls["ipam"]}
        )
        try:
            path = f"/v1/hosts/{path_of or host}/attachments"
            return (await client.call("ipam", "POST", path, body=b'{"live": []}')).status
        finally:
            await client.close()

    async def answers(self, files: HostFiles, status: int) -> None:
        """Wait until ipam answers the host so."""
        async with asyncio.timeout(30):
            while await self.as_host(files, HOST) != status:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """All of it."""
    names = (*GATEWAYS, "ipam")
    urls = {name: f"http://127.0.0.1:{free_ports(1)[0]}" for name in names}
    peers = {"ipam": urls["ipam"], "gateway": ",".join(urls[name] for name in GATEWAYS)}
    prepend_secret(tmp_path / "cluster.secret")
    secret, clock = SecretFile(tmp_path / "cluster.secret"), Hasty()
    credential = tmp_path / "agent_credential"
    credential.write_text('{"principal": "agent", "secret": "s3cret"}\n')
    settings = {
        "gateway": GatewayConfig(agent_credential_file=credential),
        "ipam": IpamConfig.model_validate({"networks": [NETWORK]}),
    }
    async with AsyncExitStack() as stack:
        running = []
        for name in names:
            service = name.partition("-")[0]
            bus = await open_bus(f"sqlite://{tmp_path}/bus.db", clock)
            stack.push_async_callback(bus.close)
            store = await open_store(f"sqlite://{tmp_path}/store.db")
            stack.push_async_callback(store.close)
            common = CommonConfig(
                data_dir=tmp_path,
                log_level="critical",
                listen={service: urls[name].removeprefix("http://")},
                peers=peers,
            )
            rng = random.Random(name)
            shared = Shared(common, settings, bus, store, clock, rng, RngIds(rng), secret=secret)
            main = run_gateway if service == "gateway" else run_ipam
            running.append((service, shared, main))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [
            group.create_task(run_services(shared, {service: main}))
            for service, shared, main in running
        ]
        await _ready(urls)
        key = (tmp_path / KEY_FILE).read_text().strip()
        clients = [
            [await stack.enter_async_context(GantryClient.open(urls[name], k)) for name in GATEWAYS]
            for k in (key, "")
        ]
        yield Cluster(secret, urls, *clients)
        for task in tasks:
            task.cancel()


async def _ready(urls: dict[str, str]) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        for url in urls.values():
            while True:
                try:
                    async with session.get(f"{url}/readyz") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)


async def test_a_host_enrols_works_is_removed_and_comes_back(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        files = HostFiles(tmp_path / "secrets")
        one, other = here.strangers
        await enrol(one.hosts, await here.token(), HOST, files)
        assert await here.as_host(files, HOST) == 200
        assert await here.as_host(files, HOST, path_of=OTHER) == 403  # it speaks for itself only
        assert await here.as_host(files, OTHER) == 401  # and under its own name
        assert "s3cret" in files.agent_credential.read_text()

        # The cluster's secret is replaced, and the host gets its new keys by itself.
        new, old = prepend_secret(here.secret.path)
        await _taken_up(here.secret, (new, old))
        done = await renew(other.hosts, HOST, files, Hasty())
        assert done.changed == (files.host_key,) and done.keys == 2
        assert await here.as_host(files, HOST) == 200
        await _taken_up(here.secret, retire_secret(here.secret.path))
        assert await here.as_host(files, HOST) == 200  # by the new one of its two
        await renew(other.hosts, HOST, files, Hasty())
        assert read_secrets(files.host_key) == (derive_key(new, Kind.HOST, HOST),)

        # Removed at one gateway; ipam asks either of them.
        assert await here.as_host(files, HOST) == 200
        await here.admins[1].hosts.remove(HOST)
        await here.answers(files, 401)
        with pytest.raises(Unauthenticated):
            await renew(one.hosts, HOST, files, Hasty())
        await enrol(other.hosts, await here.token(), HOST, files)
        assert await here.as_host(files, HOST) == 200
        assert read_secrets(files.host_key) == (derive_key(new, Kind.HOST, HOST, 1),)


async def _taken_up(secret: SecretFile, keys: tuple[bytes, ...]) -> None:
    async with asyncio.timeout(30):
        while secret.current() != keys:
            await asyncio.sleep(0.01)


async def test_twenty_hosts_with_one_token_at_two_gateways_and_one_wins(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        token = await here.token()

        async def attempt(n: int) -> Outcome | None:
            calls = here.strangers[n % len(GATEWAYS)].hosts
            try:
                return await enrol(calls, token, HOST, HostFiles(tmp_path / f"host-{n}"))
            except Unauthenticated:
                return None

        outcomes = await asyncio.gather(*map(attempt, range(20)))
        winners = [n for n, each in enumerate(outcomes) if each is not None]
        assert len(winners) == 1
        keys = [n for n in range(20) if (tmp_path / f"host-{n}" / "host_key").exists()]
        assert keys == winners
        # What the winner does again is no second use, at whichever gateway.
        for calls in here.strangers:
            again = HostFiles(tmp_path / f"host-{winners[0]}")
            await enrol(calls.hosts, token, HOST, again)
        listed = await here.admins[1].hosts.list()
        assert [each.state for each in listed.tokens] == ["used"]


async def test_a_removal_holds_while_the_gateways_are_away(tmp_path: Path) -> None:
    """An ipam that begins anew without any gateway knows from its store whom not to let in."""
    async with cluster(tmp_path) as here:
        files = HostFiles(tmp_path / "secrets")
        await enrol(here.strangers[0].hosts, await here.token(), HOST, files)
        assert await here.as_host(files, HOST) == 200
        await here.admins[0].hosts.remove(HOST)
        await here.answers(files, 401)
        key = read_secrets(files.host_key)[0]
        kept = await open_store(f"sqlite://{tmp_path}/store.db")
        async with asyncio.timeout(30):
            hosts = await kept.collection(HOSTS)
            while (found := await hosts.get(HOST)) is None or found.body != {"generation": 1}:
                await asyncio.sleep(0.01)
        await kept.close()
    clock = Hasty()
    secret, rng = SecretFile(tmp_path / "cluster.secret"), random.Random(7)
    store = await open_store(f"sqlite://{tmp_path}/store.db")
    bus = await open_bus(f"sqlite://{tmp_path}/bus.db", clock)
    common = CommonConfig(data_dir=tmp_path, log_level="critical")
    settings: Settings = {"ipam": IpamConfig.model_validate({"networks": [NETWORK]})}
    shared = Shared(common, settings, bus, store, clock, rng, RngIds(rng), secret=secret)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run_services(shared, {"ipam": run_ipam}))
            while "ipam" not in shared.local.apps:
                await asyncio.sleep(0.01)

            async def ask(host: str, generation_key: bytes) -> None:
                signer = TokenSigner(Kind.HOST, host, generation_key, clock)
                client = PeerClient(signer, {}, shared.local)
                path = f"/v1/hosts/{host}/attachments"
                raise_problem("ipam", await client.call("ipam", "POST", path, body=b'{"live": []}'))

            with pytest.raises(Unauthenticated):
                await ask(HOST, key)
            await ask(OTHER, derive_key(secret.current()[0], Kind.HOST, OTHER))
            task.cancel()
    finally:
        await bus.close()
        await store.close()
