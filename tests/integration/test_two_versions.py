"""Two releases at work at once, each in processes of its own: deployers of today and of the next release take turns on
one app, behind a gateway of today, and nothing is lost.

The next release is `tests/versions/next.py`. The scheduler is played, by today's code on today's events, and tells what
it does as the next one would.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from libs.client import GantryClient
from libs.common.bus.base import Bus
from libs.common.clock import SystemClock
from libs.common.runtime import open_bus, open_store
from libs.common.spec import AppSpec
from libs.common.store.base import Store
from libs.common.store.bodies import SCHEMA
from tests.integration.replicas import Cluster, all_as_wanted, deployed, played
from tests.integration.replicas import cluster as cluster
from tests.integration.test_gateway_deployer import DIGEST, OTHER
from tests.versions.next import LATER

APP = "acme/web"
COLLECTIONS = ("deployer_apps", "deployer_instances", "deployer_releases", "deployer_deployments")


async def stamps(store: Store) -> dict[str, Any]:
    """Of every document that the next release has written: its stamp, and those of its parts."""
    found: dict[str, Any] = {}
    archive = store.archive()
    for name in COLLECTIONS:
        for doc in await archive.page(name, "", 1000):
            if SCHEMA in doc.body:
                assert doc.body[SCHEMA] == {"version": 2, "readable": 1}
                inner = {key: doc.body[key]["stamp"] for key in ("hook",) if key in doc.body}
                found[f"{name}/{doc.id}"] = (doc.body["stamp"], inner)
    return found


async def topic(bus: Bus, name: str) -> list[bytes]:
    """All that a topic has."""
    ends = await bus.end_offsets([name])
    left, values = sum(ends.values()), list[bytes]()
    if left:
        async with asyncio.timeout(20), aclosing(bus.read([name], dict.fromkeys(ends, 0))) as log:
            async for each in log:
                values.append(each.record.value)
                if len(values) == left:
                    break
    return values


@pytest.mark.timeout(180)
async def test_replicas_of_two_releases_share_an_app_and_lose_nothing(cluster: Cluster) -> None:
    await cluster.start("deployer-1")
    await cluster.start("deployer-2")
    await cluster.start("gateway")
    key = (cluster.directory / "gateway/admin.key").read_text().strip()
    bus = await open_bus(cluster.bus_url, SystemClock())
    store = await open_store(cluster.store_url)
    url = f"http://127.0.0.1:{cluster.ports['gateway']}"
    async with GantryClient.open(url, key) as client, played(bus) as scheduler:
        await client.put_app(APP, AppSpec(image=DIGEST, instances=3, network="blue"))
        await deployed(client, await client.deploy(APP))
        assert await stamps(store) == {}

        # One replica is upgraded; both work on a release, and the older one stops in the middle of it.
        await cluster.stop("deployer-1")
        await cluster.start("deployer-1", newer=True)
        rolling = await client.deploy(APP, image=OTHER)
        await cluster.stop("deployer-2")
        await deployed(client, rolling)
        await deployed(client, await client.scale(APP, 5))
        await all_as_wanted(client, APP, scheduler, 5)
        made = await stamps(store)
        assert any(stamp != LATER for stamp, _ in made.values())
        assert f"deployer_apps/{APP}" in made
        view, _ = await client.app(APP)
        assert (view.model_extra or {})["since_next"] == "yes"  # through today's gateway

        # The upgrade is taken back: code of today works alone, and writes over the newer documents.
        await cluster.start("deployer-2")
        await cluster.stop("deployer-1")
        await deployed(client, await client.scale(APP, 6))
        await deployed(client, await client.restart(APP))
        await all_as_wanted(client, APP, scheduler, 6)
        kept = await stamps(store)
        assert {name: kept[name] for name in made} == made
        versions = {d.id: d.version for d in await store.archive().page("deployer_apps", "", 9)}

        # And on to the next release for good, while a deployment is under way.
        rolling = await client.deploy(APP, image=DIGEST)
        await cluster.start("deployer-1", newer=True)
        await cluster.stop("deployer-2")
        await cluster.start("deployer-2", newer=True)
        await deployed(client, rolling)
        await all_as_wanted(client, APP, scheduler, 6)
        kept = await stamps(store)
        assert {name: kept[name] for name in made} == made
        assert versions[APP] < (await store.archive().page("deployer_apps", "", 9))[0].version
        asked = await topic(bus, "instance.requested")
        newer = sum(b"since_next" in each for each in asked)
        assert 0 < newer < len(asked)  # today's code has consumed both
        for group in ("deployer", "scheduler", "gateway"):
            assert await topic(bus, f"dead.{group}") == []
    await bus.close()
    await store.close()
