"""Documents of the release before, which had one range a network and knew neither pools nor quotas."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.errors import TooMany
from libs.common.store.base import CollectionSpec, Index, Write
from libs.common.store.schemas import SchemaStore
from libs.common.store.upkeep import sweep
from services.ipam.quota_rules import QuotaBody
from services.ipam.service import Ipam
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.ipam.test_service import claim, config, give, take

BEFORE = CollectionSpec("ipam_addresses", (Index("attachment", ("attachment",), unique=True),))


def before(number: int, state: str, **fields: Any) -> Write:
    """A document as it was written then."""
    address = f"10.0.0.{number}"
    body = {
        "network": "web",
        "address": address,
        "offset": number,
        "generation": 3,
        "instance": f"acme-old{number}",
        "attempt": f"acme-old{number}.1",
        "host": "h1",
        "sticky_key": "",
        "free_at": 0.0,
        "since": 0.0,
        "missing_since": None,
        "state": state,
        **fields,
    }
    return Write(f"web/{address}", 0, body)


@virtual
async def test_what_was_stored_goes_on(world: World) -> None:
    small = SmallWorld(world.loop)
    old = await small.store.collection(BEFORE)
    allocated = [before(n, "allocated", attachment=f"old{n}.eth0") for n in (1, 2, 6)]
    released = [before(3, "released"), before(5, "released", sticky_key="acme/db/0")]
    assert all(each.ok for each in await old.replace_many([*allocated, *released]))
    rt = small.runtime("ipam", "ipam-1")
    ipam = await Ipam.open(rt, config())

    held = await give(ipam, claim("old1"))
    assert (held.address, held.generation) == ("10.0.0.1", 3)
    assert (await give(ipam, claim("db", sticky_key="acme/db/0"))).address == "10.0.0.5"
    # The one that was never used, though others after it were; then the one that has rested.
    got = [await give(ipam, claim(f"new{n}")) for n in range(2)]
    assert [(each.address, each.generation) for each in got] == [("10.0.0.4", 1), ("10.0.0.3", 4)]
    with pytest.raises(TooMany, match="of 6 addresses 6 are allocated"):
        await give(ipam, claim("late"))
    assert await take(ipam, "old6", 3)
    assert await ipam.report("h1", frozenset()) == 0

    assert isinstance(rt.store, SchemaStore)
    addresses = rt.store.opened["ipam_addresses"]
    await sweep(rt.store, addresses, "test", rt.clock, rt.telemetry.log)
    assert all("place" in body for body in small.store.bodies("ipam_addresses").values())
    await ipam.quotas.rules.put("acme", QuotaBody(limit=5), "test", None)
    quota = (await ipam.quotas.rules.current())["acme"][0]
    assert await ipam.quotas.used(quota) == 5
