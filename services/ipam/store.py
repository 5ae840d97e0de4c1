"""ipam's documents: addresses that have been used, and tombstones of attachments that are over."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.events import Event, seal
from libs.common.events.base import Cause
from libs.common.store.base import (
    Collection,
    CollectionSpec,
    Index,
    Op,
    Outcome,
    Query,
    Schema,
    Store,
    Where,
    Write,
    eq,
)
from libs.common.store.shapes import fields
from services.ipam.model import Address, State, from_body, to_body

ADDRESSES = CollectionSpec(
    "ipam_addresses",
    (
        Index("attachment", ("attachment",), unique=True),
        Index("free", ("network", "state", "free_at")),
        Index("frontier", ("network", "offset")),
        Index("sticky", ("network", "sticky_key")),
        Index("host", ("host", "state")),
    ),
    Schema(known=lambda body: to_body(from_body(0, body))),
)
TOMBSTONES = CollectionSpec("ipam_tombstones", (Index("at", ("at",)),), Schema(known=fields("at")))
_PAGE = 1000


class IpamStore:
    """Typed access to both collections."""

    def __init__(self, addresses: Collection, tombstones: Collection) -> None:
        self.addresses = addresses
        self._tombstones = tombstones

    @classmethod
    async def open(cls, store: Store) -> IpamStore:
        """Open both collections."""
        return cls(await store.collection(ADDRESSES), await store.collection(TOMBSTONES))

    async def of_attachment(self, attachment: str) -> Address | None:
        """The address that an attachment has."""
        found = await self._find(Query((eq("attachment", attachment),), limit=1))
        return found[0] if found else None

    async def get(self, network: str, address: str) -> Address | None:
        """An address that has been used."""
        doc = await self.addresses.get(f"{network}/{address}")
        return from_body(doc.version, doc.body) if doc else None

    async def sticky(self, network: str, key: str) -> list[Address]:
        """Released addresses that were last used under a sticky key."""
        where = (eq("network", network), eq("sticky_key", key))
        found = await self._find(Query(where, limit=10))
        return [each for each in found if each.state is State.RELEASED]

    async def free(self, network: str, now: float, limit: int) -> list[Address]:
        """Released addresses that have rested, the longest rested first."""
        where = (
            eq("network", network),
            eq("state", State.RELEASED.value),
            Where("free_at", Op.LE, now),
        )
        return await self._find(Query(where, order="free_at", limit=limit))

    async def frontier(self, network: str) -> int:
        """One more than the highest offset that has ever been used; 0 when none has."""
        query = Query((eq("network", network),), order="offset", descending=True, limit=1)
        found = await self._find(query)
        return found[0].offset + 1 if found else 0

    async def on_host(self, host: str) -> list[Address]:
        """All addresses allocated to attachments of a host."""
        return await self._all((eq("host", host), eq("state", State.ALLOCATED.value)))

    async def in_network(self, network: str) -> list[Address]:
        """All addresses of a network that have been used."""
        return await self._all((eq("network", network),))

    async def counts(self, network: str, now: float) -> dict[str, int]:
        """Used addresses by state; `cooling` and `rested` are the two halves of released."""
        by_state = {}
        for state in State:
            where = (eq("network", network), eq("state", state.value))
            by_state[state.value] = await self.addresses.count(where)
        cooling = await self.addresses.count(
            (
                eq("network", network),
                eq("state", State.RELEASED.value),
                Where("free_at", Op.GT, now),
            )
        )
        by_state["cooling"] = cooling
        by_state["rested"] = by_state.pop(State.RELEASED.value) - cooling
        return by_state

    async def save(
        self, address: Address, events: Sequence[Event], now: float, traceparent: str = ""
    ) -> bool:
        """Compare-and-set; False when somebody else was first (at the address or the attachment)."""
        sealed = seal(
            events,
            source="ipam",
            sequence=address.version + 1,
            now=now,
            cause=Cause(traceparent=traceparent),
        )
        write = Write(address.id, address.version, to_body(address), sealed)
        (result,) = await self.addresses.replace_many([write])
        return result.ok

    async def used(self, network: str) -> int:
        """How many addresses of a network have been used."""
        return await self.addresses.count((eq("network", network),))

    async def bury(self, attachment: str, host: str, now: float) -> None:
        """From now on the attachment of that host ("": of every host) gets no address any more."""
        await self._tombstones.replace_many([Write(_grave(attachment, host), 0, {"at": now})])

    async def buried(self, attachment: str, host: str) -> bool:
        """Is the host's attachment over."""
        graves = [_grave(attachment, host), _grave(attachment, "")]
        return bool(await self._tombstones.get_many(graves))

    async def forget(self, before: float, limit: int = 500) -> None:
        """Drop tombstones older than any event that could still be on its way."""
        where = (Where("at", Op.LT, before),)
        for doc in (await self._tombstones.find(Query(where, limit=limit))).docs:
            result = await self._tombstones.delete(doc.id, doc.version)
            if result.outcome not in (Outcome.OK, Outcome.CONFLICT):
                return

    async def _find(self, query: Query) -> list[Address]:
        page = await self.addresses.find(query)
        return [from_body(doc.version, doc.body) for doc in page.docs]

    async def _all(self, where: tuple[Where, ...]) -> list[Address]:
        found: list[Address] = []
        after = ""
        while True:
            page = await self.addresses.find(Query(where, after=after, limit=_PAGE))
            found.extend(from_body(doc.version, doc.body) for doc in page.docs)
            if not page.more:
                return found
            after = page.docs[-1].id


def _grave(attachment: str, host: str) -> str:
    """A tombstone's id: what one host says is over must not keep another host's attachment out."""
    return f"{host}/{attachment}"
