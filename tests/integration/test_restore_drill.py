"""The drill on a real store: back up beside running services, restore an older state, go on.

What a fleet of hosts makes of it is in `tests/simulation/test_restore.py`; here are the tool, the services' processes
and the stores as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from libs.client import GantryClient
from libs.common.clock import SystemClock
from libs.common.errors import Fenced, Unavailable
from libs.common.http import Kind, call_json
from libs.common.peers import LocalServices, PeerClient
from libs.common.runtime import open_bus, open_store
from libs.common.spec import AppSpec
from libs.common.store.backup import STEP
from libs.common.tokens import TokenSigner, derive_key
from services.scheduler.store import Framework, SchedulerStore
from tests.integration.replicas import SECRET, Cluster, all_as_wanted, deployed, played
from tests.integration.replicas import cluster as cluster
from tests.integration.test_gateway_deployer import DIGEST, OTHER

APP = "acme/web"
SERVICES = ("ipam", "deployer-1", "gateway")


def host(cluster: Cluster) -> PeerClient:
    """Host h1, as ipam sees it."""
    signer = TokenSigner(Kind.HOST, "h1", derive_key(SECRET, Kind.HOST, "h1"), SystemClock())
    return PeerClient(
        signer, {"ipam": f"http://127.0.0.1:{cluster.ports['ipam']}"}, LocalServices()
    )


async def add(peer: PeerClient, name: str) -> dict[str, Any]:
    """An attachment of h1 asks for an address."""
    content = {
        "network": "blue",
        "instance": f"acme-{name}",
        "attempt": f"acme-{name}.1",
        "host": "h1",
    }
    answer = await call_json(peer, "ipam", "PUT", f"/v1/attachments/{name}.eth0", content)
    return {each: answer[each] for each in ("attachment", "network", "address", "generation")}


async def report(peer: PeerClient, held: Sequence[dict[str, Any]]) -> None:
    """h1 says what it has."""
    content = {"live": [each["attachment"] for each in held], "held": list(held)}
    await call_json(peer, "ipam", "POST", "/v1/hosts/h1/attachments", content)


@pytest.mark.timeout(180)
async def test_back_up_restore_and_go_on(cluster: Cluster) -> None:
    file = str(cluster.directory / "backup.gz")
    for each in SERVICES:
        await cluster.start(each)
    key = (cluster.directory / "gateway/admin.key").read_text().strip()
    bus = await open_bus(cluster.bus_url, SystemClock())
    store = await open_store(cluster.store_url)
    scheduling = await SchedulerStore.open(store)
    framework = await scheduling.save_framework(Framework("f-0001", "exec executor"))
    url, peer = f"http://127.0.0.1:{cluster.ports['gateway']}", host(cluster)
    async with GantryClient.open(url, key) as client, played(bus) as scheduler:
        await client.put_app(APP, AppSpec(image=DIGEST, instances=2, network="blue"))
        await deployed(client, await client.deploy(APP))
        before = await add(peer, "before")
        said = await cluster.documents("backup", file)
        assert int(said.split()[0]) > 5
        since = await add(peer, "since")
        await deployed(client, await client.deploy(APP, image=OTHER))
        await deployed(client, await client.scale(APP, 4))

        for each in reversed(SERVICES):
            await cluster.stop(each)
        await cluster.documents("restore", "--replace", file)
        assert "ipam_addresses" in await cluster.documents("state")
        for each in SERVICES:
            await cluster.start(each)

        # The framework's id is there, and the leader from before can't write any more.
        after = await (await SchedulerStore.open(store)).framework()
        assert after == Framework(framework.id, "exec executor", framework.version + STEP)
        with pytest.raises(Fenced):
            await scheduling.save_framework(framework)

        # No address is given that may be in use; what the host has is taken up.
        assert await add(peer, "before") == before
        with pytest.raises(Unavailable, match="the store was restored"):
            await add(peer, "new")
        await report(peer, [before, since])
        assert await add(peer, "since") == since

        # Apps are as of the backup, and go on from there; nobody takes what is told now for old.
        assert [each.release for each in (await client.releases(APP)).releases] == [1]
        known = {each.instance for each in (await client.instances(APP)).instances}
        gone = set(scheduler.running) - known
        assert len(known) == 2 and gone
        for each in gone:  # as a person who releases the breaker
            del scheduler.running[each]
        await deployed(client, await client.deploy(APP, image=OTHER))
        await all_as_wanted(client, APP, scheduler, 2)
    await peer.close()
    await bus.close()
    await store.close()
