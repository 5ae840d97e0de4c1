"""A service in little, for a test to kill -9: STORE_URL BUS_URL SEED.

Several documents are written as fast as they go, each write with one event, and the relay publishes the outboxes.
"""

from __future__ import annotations

import asyncio
import random
import sys

from libs.common.clock import SystemClock
from libs.common.errors import GantryError
from libs.common.outbox import Relay
from libs.common.runtime import open_bus, open_store
from libs.common.store.base import Collection, CollectionSpec, OutboxEvent, Write
from libs.common.telemetry import make_log

SPEC = CollectionSpec("written")
TOPIC = "written.changed"
DOCS = tuple(f"doc-{n}" for n in range(5))


async def write(things: Collection, doc_id: str, relay: Relay, begun: asyncio.Barrier) -> None:
    """Count up for ever; event n goes with version n. The second one waits for the others' before it goes on."""
    done = 0
    while True:
        doc = await things.get(doc_id)
        version = doc.version if doc else 0
        event = OutboxEvent(f"{doc_id}:{version + 1}", TOPIC, doc_id, str(version + 1).encode())
        try:
            writes = [Write(doc_id, version, {"n": version + 1}, (event,))]
            (result,) = await things.replace_many(writes)
        except GantryError:
            continue  # look again what is stored
        relay.kick()
        done += result.ok
        if result.ok and done == 2:
            await begun.wait()


async def main(store_url: str, bus_url: str, seed: int) -> None:
    """Write and relay until killed."""
    clock = SystemClock()
    bus, store = await open_bus(bus_url, clock), await open_store(store_url)
    things = await store.collection(SPEC)
    log = make_log("writer")
    relay = Relay(
        "writer", "writer", store, [things], bus, clock=clock, rng=random.Random(seed), log=log
    )
    begun = asyncio.Barrier(len(DOCS) + 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.run())
        for doc_id in DOCS:
            group.create_task(write(things, doc_id, relay, begun))
        await begun.wait()
        print("running", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
