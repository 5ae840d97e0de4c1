"""ipam's documents: addresses that have been used, tombstones of attachments that are over, and the recovery."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from libs.common.events import Event, seal
from libs.common.events.base import Cause
from libs.common.generations import HOSTS_SCHEMA
from libs.common.store.base import (
    Collection,
    CollectionSpec,
    Index,
    Op,
    Query,
    Schema,
    Store,
    Where,
    Write,
    eq,
)
from libs.common.store.paging import documents
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
RECOVERY = CollectionSpec(
    "ipam_recovery",
    schema=Schema(known=fields("restored", "since", "why", "over", "expected", "reported")),
)
HOSTS = CollectionSpec("ipam_hosts", schema=HOSTS_SCHEMA)
_RECOVERY_DOC = "recovery"


@dataclass(frozen=True, slots=True)
class Recovery:
    """See recovery.py: what restore it is about, when it began and why, and which hosts are waited for."""

    restored: float = 0.0
    since: float = 0.0
    why: str = ""
    over: bool = True
    expected: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()
    version: int = 0


class IpamStore:
    """Typed access."""

    def __init__(
        self, addresses: Collection, tombstones: Collection, recoveries: Collection
    ) -> None:
        self.addresses = addresses
        self._tombstones = tombstones
        self._recoveries = recoveries

    @classmethod
    async def open(cls, store: Store) -> IpamStore:
        """Open the collections."""
        return cls(*[await store.collection(spec) for spec in (ADDRESSES, TOMBSTONES, RECOVERY)])

    async def of_attachment(self, attachment: str) -> Address | None:
        """The address that an attachment has."""
        found = await self._find(Query((eq("attachment", attachment),), limit=1))
        return found[0] if found else None

    async def get(self, network: str, address: str) -> Address | None:
        """An address that has been used."""
        doc = await self.addresses.get(f"{network}/{address}")
        return from_body(doc.version, doc.body) if doc else None

    async def get_many(self, ids: Sequence[str]) -> dict[str, Address]:
        """Those of the addresses (by document id) that have been used."""
        found = await self.addresses.get_many(ids)
        return {name: from_body(doc.version, doc.body) for name, doc in found.items()}

    async def quarantined(self, networks: Iterable[str]) -> list[Address]:
        """All addresses of these networks that are in quarantine."""
        state = eq("state", State.QUARANTINED.value)
        return [a for each in networks for a in await self._all((eq("network", each), state))]

    async def hosts(self) -> tuple[str, ...]:
        """All hosts that have addresses."""
        found = await self._all((eq("state", State.ALLOCATED.value),))
        return tuple(sorted({each.host for each in found}))

    async def sticky(self, network: str, key: str) -> list[Address]:
        """Released addresses that were last used under a sticky key, the one released last first."""
        where = (eq("network", network), eq("sticky_key", key))
        found = await self._find(Query(where, limit=10))
        free = [each for each in found if each.state is State.RELEASED]
        return sorted(free, key=lambda each: each.since, reverse=True)

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

    async def forget(self, before: float, limit: int = 500) -> int:
        """Drop tombstones older than any event that could still be on its way; how many of them now."""
        where, gone = (Where("at", Op.LT, before),), 0
        for doc in (await self._tombstones.find(Query(where, limit=limit))).docs:
            gone += (await self._tombstones.delete(doc.id, doc.version)).ok
        return gone

    async def recovery(self) -> Recovery:
        """What is being done about a restore; the empty one when there never was one."""
        doc = await self._recoveries.get(_RECOVERY_DOC)
        if doc is None:
            return Recovery()
        body = doc.body
        return Recovery(
            restored=body["restored"],
            since=body["since"],
            why=body["why"],
            over=body["over"],
            expected=tuple(body["expected"]),
            reported=tuple(body["reported"]),
            version=doc.version,
        )

    async def save_recovery(self, recovery: Recovery) -> bool:
        """Compare-and-set."""
        body = asdict(recovery)
        version = body.pop("version")
        (result,) = await self._recoveries.replace_many([Write(_RECOVERY_DOC, version, body)])
        return result.ok

    async def _find(self, query: Query) -> list[Address]:
        page = await self.addresses.find(query)
        return [from_body(doc.version, doc.body) for doc in page.docs]

    async def _all(self, where: tuple[Where, ...]) -> list[Address]:
        docs = documents(self.addresses, where)
        return [from_body(doc.version, doc.body) async for doc in docs]


def _grave(attachment: str, host: str) -> str:
    """A tombstone's id: what one host says is over must not keep another host's attachment out."""
    return f"{host}/{attachment}"
