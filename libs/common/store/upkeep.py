"""What a process does for the documents it works with: rewrite old ones, and notice that it has become too old itself.

The sweep finds documents of older shape by their index, so it needs no memory of where it was: whoever goes on begins
with what is left. It leaves versions alone, so neither leaders nor other replicas notice.
"""

from __future__ import annotations

from libs.common.clock import Clock
from libs.common.errors import Outdated, Unavailable
from libs.common.store.schemas import SchemaCollection, SchemaStore
from libs.common.telemetry import Log

LOOK_EVERY_S = 30.0
SWEEP_PAGE = 200
SWEEP_PAUSE_S = 0.2
LEASE_TTL_S = 60.0


async def keep_documents(store: SchemaStore, holder: str, clock: Clock, log: Log) -> None:
    """Look after what the store has opened until cancelled. Raises Outdated when newer code has shut this one out."""
    while True:
        await clock.sleep(LOOK_EVERY_S)
        for collection in list(store.opened.values()):
            try:
                await store.admit(collection.spec)
                if collection.spec.schema.upgrades:
                    await sweep(store, collection, holder, clock, log)
            except Outdated:
                raise
            except Exception as error:  # who works with these documents must not stop for it
                expected = isinstance(error, Unavailable)
                (log.warning if expected else log.exception)(
                    "documents wait", collection=collection.spec.name, error=str(error)
                )


async def sweep(
    store: SchemaStore, collection: SchemaCollection, holder: str, clock: Clock, log: Log
) -> int:
    """Rewrite all documents of older shape, slowly; how many. One replica does it at a time."""
    lease, done = f"schema:{collection.spec.name}", 0
    for where in collection.older():
        after = ""
        while await store.take_lease(lease, holder, clock.now(), LEASE_TTL_S) is not None:
            count, after = await collection.upgrade(where, after, SWEEP_PAGE)
            done += count
            if not after:
                break
            await clock.sleep(SWEEP_PAUSE_S)
    if done:
        log.info("documents rewritten", collection=collection.spec.name, count=done)
    return done


def is_outdated(error: BaseException) -> bool:
    """Is it, or does a group hold, an Outdated."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_outdated(each) for each in error.exceptions)
    return isinstance(error, Outdated)
