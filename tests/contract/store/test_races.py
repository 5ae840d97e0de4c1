"""Replicas that look for what is free and take it: what a query finds meets it, and nobody takes what another has."""

from __future__ import annotations

import asyncio

from libs.common.store.base import Collection, CollectionSpec, Index, Query, Write, eq
from tests.contract.store.worlds import World

SPEC = CollectionSpec(
    "slots", (Index("owner", ("owner",), unique=True), Index("state", ("state",)))
)
SLOTS, TAKERS, ROUNDS = 20, 12, 40


async def test_what_is_taken_is_found_no_more(world: World) -> None:
    """A server may choose documents by what they were and hand out what they have become."""
    replicas = [await (await world.open()).collection(SPEC) for _ in range(3)]
    free = [Write(f"s{n:02}", 0, {"state": "free", "owner": f"nobody-{n}"}) for n in range(SLOTS)]
    assert all(each.ok for each in await replicas[0].replace_many(free))
    for number in range(ROUNDS):
        taken: list[str] = []

        async def take(slots: Collection, owner: str, taken: list[str] = taken) -> None:
            for doc in (await slots.find(Query((eq("state", "free"),)))).docs:
                assert doc.body["state"] == "free", f"{doc.id} belongs to {doc.body['owner']}"
                write = Write(doc.id, doc.version, {"state": "taken", "owner": owner})
                if (await slots.replace_many([write]))[0].ok:
                    taken.append(doc.id)
                    return

        await asyncio.gather(*(take(replicas[n % 3], f"{number}-{n}") for n in range(TAKERS)))
        assert len(taken) == len(set(taken)) == TAKERS
        docs = (await replicas[1].find(Query((eq("state", "taken"),)))).docs
        assert sorted(each.id for each in docs) == sorted(taken)
        back = [Write(d.id, d.version, {"state": "free", "owner": f"nobody-{d.id}"}) for d in docs]
        assert all(each.ok for each in await replicas[2].replace_many(back))
