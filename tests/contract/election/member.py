"""`python -m tests.contract.election.member STORE ELECTION TTL_S NAME`: a candidate in a process of its own.

As the leader it acts as fast as it can: it writes with its fence, and, when it is certain to lead, tells so. A line of
JSON each: {"what": …, "at": monotonic seconds}, a clock that all processes share.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from libs.common.errors import Fenced, Unavailable
from libs.common.leader import Leadership, leadership
from libs.common.runtime import CommonConfig, Runtime, open_runtime, open_shared
from libs.common.store.base import CollectionSpec, Fence, Schema, Write
from services.main import until_stopped

ACTS = CollectionSpec("acts", schema=Schema(known=lambda body: body))


def tell(rt: Runtime, what: str, **more: Any) -> None:
    """A line; it is of now unless `at` says otherwise."""
    line = {"what": what, "at": rt.clock.monotonic(), **more}
    sys.stdout.buffer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


async def act(rt: Runtime, led: Leadership) -> None:
    """Write and tell, until fenced or cancelled."""
    acts = await rt.store.collection(ACTS)
    epoch = await rt.store.raise_epoch("tests")
    tell(rt, "leads", epoch=epoch)
    while True:
        at = rt.clock.monotonic()  # a pause may come between what is done and its line
        if led.certain():
            tell(rt, "acts", at=at, epoch=epoch)
        try:
            doc = await acts.get("last")
            write = Write("last", doc.version if doc else 0, {"epoch": epoch})
            at = rt.clock.monotonic()
            (result,) = await acts.replace_many([write], Fence("tests", epoch))
            if not result.ok:
                raise Fenced(result.outcome.value)
            tell(rt, "wrote", at=at, epoch=epoch)
        except Unavailable:
            pass
        await rt.clock.sleep(0.02)


async def run(rt: Runtime, ttl_s: float) -> None:
    while True:
        try:
            async with leadership(rt, "tests", ttl_s) as led, asyncio.TaskGroup() as group:
                group.create_task(led.hold())
                group.create_task(act(rt, led))
        except* (Fenced, Unavailable) as group_of:
            tell(rt, "lost", why=repr(group_of.exceptions[0]))


async def main(store: str, election: str, ttl_s: float, name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        common = CommonConfig(
            data_dir=Path(directory), bus="memory:", store=store, election=election, instance=name
        )
        async with open_shared(common, {}) as shared, open_runtime(shared, "tests") as rt:
            tell(rt, "stands")
            await until_stopped(run(rt, ttl_s))


if __name__ == "__main__":
    _store, _election, _ttl_s, _name = sys.argv[1:]
    asyncio.run(main(_store, _election, float(_ttl_s), _name))
