"""ipam's documents: addresses that have been used, and what goes with them."""

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
    Outcome,
    Query,
    Schema,
    Store,
    Where,
    Write,
    eq,
    is_in,
)
from libs.common.store.paging import documents
from libs.common.store.shapes import fields
from services.ipam.definition import DEFAULT, known_networks
from services.ipam.history import History, Stint, ended
from services.ipam.model import (
    ATTACHMENT,
    NEVER,
    Address,
    State,
    from_body,
    from_first,
    place_key,
    to_body,
)
from services.ipam.pools import Pool
from services.ipam.quota_rules import known_quotas

ADDRESSES = CollectionSpec(
    "ipam_addresses",
    (
        Index("attachment", ("attachment",), unique=True),
        Index("attachment6", ("attachment6",), unique=True),
        Index("reservation", ("network", "reserved.name"), unique=True),
        Index("rested", ("network", "pool", "state", "free_at"), by_id=True),
        Index("place", ("network", "place"), by_id=True),
        Index("sticky", ("network", "sticky_key")),
        Index("holder", ("state", "host"), by_id=True),
        Index("counted", ("bu", "state", "free_at")),
    ),
    Schema(version=2, upgrades=(from_first,), known=lambda body: to_body(from_body(0, body))),
)
HISTORY = CollectionSpec(
    "ipam_history",
    (Index("until", ("until",), by_id=True),),
    Schema(known=fields(*Stint.__dataclass_fields__)),
)
TOMBSTONES = CollectionSpec("ipam_tombstones", (Index("at", ("at",)),), Schema(known=fields("at")))
RECOVERY = CollectionSpec(
    "ipam_recovery",
    schema=Schema(known=fields("restored", "since", "why", "over", "expected", "reported")),
)
NETWORKS = CollectionSpec("ipam_networks", schema=Schema(known=known_networks))
POOLS = CollectionSpec(
    "ipam_pools", schema=Schema(known=fields("cidr", "excluded", "frontier", "holes", "blocks"))
)
QUOTAS = CollectionSpec("ipam_quotas", schema=Schema(known=known_quotas))
QUOTA_USE = CollectionSpec("ipam_quota_use", schema=Schema(known=fields("bound", "tickets")))
HOSTS = CollectionSpec("ipam_hosts", schema=HOSTS_SCHEMA)
_RECOVERY_DOC = "recovery"
_STICKY = 10  # addresses that one sticky key has had and nobody else since


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


@dataclass(frozen=True, slots=True)
class Change:
    """An address as it is to be from now on; its version is the one it replaces.

    `before` is what it is now, where an attachment may lose it, and `why` the reason for the history.
    """

    address: Address
    events: tuple[Event, ...] = ()
    traceparent: str = ""
    before: Address | None = None
    why: str = ""


def _pool(name: str) -> Where:
    """Documents of before there were pools have no name of one."""
    return eq("pool", None if name == DEFAULT else name)


class IpamStore:
    """Typed access to addresses with their history, tombstones and the recovery."""

    def __init__(
        self,
        addresses: Collection,
        history: Collection,
        tombstones: Collection,
        recoveries: Collection,
    ) -> None:
        self.addresses = addresses
        self.history = History(history)
        self._tombstones = tombstones
        self._recoveries = recoveries

    @classmethod
    async def open(cls, store: Store) -> IpamStore:
        """Open the collections."""
        specs = (ADDRESSES, HISTORY, TOMBSTONES, RECOVERY)
        return cls(*[await store.collection(spec) for spec in specs])

    # -- attachments

    async def of_attachments(
        self, attachments: Sequence[str], families: Sequence[int] = (4, 6)
    ) -> dict[str, list[Address]]:
        """The addresses that attachments have, IPv4 first; those that have none are left out."""
        found: dict[str, list[Address]] = {}
        for family in families:
            where = (is_in(ATTACHMENT[family], attachments),)
            for address in await self._find(Query(where, limit=len(attachments))):
                found.setdefault(address.attachment, []).append(address)
        return found

    async def of_attachment(self, attachment: str) -> list[Address]:
        """The addresses that an attachment has, IPv4 first."""
        return (await self.of_attachments([attachment])).get(attachment, [])

    async def on_host(self, host: str) -> list[Address]:
        """All addresses allocated to attachments of a host."""
        return await self._all((eq("host", host), eq("state", State.ALLOCATED.value)))

    async def hosts(self) -> tuple[str, ...]:
        """All hosts that have addresses; a round trip each, whatever they have."""
        found: list[str] = []
        while True:
            where = (
                eq("state", State.ALLOCATED.value),
                Where("host", Op.GT, found[-1] if found else ""),
            )
            page = await self._find(Query(where, order="host", limit=1))
            if not page:
                return tuple(found)
            found.append(page[0].host)

    # -- addresses

    async def get_many(self, ids: Sequence[str]) -> dict[str, Address]:
        """Those of the addresses (by document id) that have been used."""
        found = await self.addresses.get_many(ids)
        return {name: from_body(doc.version, doc.body) for name, doc in found.items()}

    async def get(self, network: str, address: str) -> Address | None:
        """An address that has been used."""
        name = f"{network}/{address}"
        return (await self.get_many([name])).get(name)

    async def sticky(self, network: str, keys: Sequence[str]) -> list[Address]:
        """Released addresses that were last used under one of these sticky keys, the one released last first."""
        where = (eq("network", network), is_in("sticky_key", keys))
        found = await self._find(Query(where, limit=_STICKY * len(keys)))
        free = [each for each in found if each.state is State.RELEASED]
        return sorted(free, key=lambda each: each.since, reverse=True)

    async def rested(self, pool: Pool, now: float, limit: int) -> list[Address]:
        """Released addresses of a pool that have rested, the longest rested first."""
        where = (
            eq("network", pool.network),
            _pool(pool.name),
            eq("state", State.RELEASED.value),
            Where("free_at", Op.LE, now),
        )
        return await self._find(Query(where, order="free_at", limit=limit))

    async def kept_back(self, pool: Pool, limit: int) -> list[Address]:
        """Released ones that are not to be given out by chance: reserved, or excluded when somebody looked."""
        where = (
            eq("network", pool.network),
            _pool(pool.name),
            eq("state", State.RELEASED.value),
            Where("free_at", Op.GE, NEVER),
        )
        return await self._find(Query(where, order="free_at", limit=limit))

    async def quarantined(self, pools: Sequence[Pool]) -> list[Address]:
        """All addresses of these pools that are in quarantine."""
        state = eq("state", State.QUARANTINED.value)
        return [
            address
            for pool in pools
            for address in await self._all((eq("network", pool.network), _pool(pool.name), state))
        ]

    async def between(
        self, network: str, first: str, last: str, limit: int, *, after: bool = False
    ) -> list[Address]:
        """Used addresses from one to another (of one family), by number; `after`: the first itself is not meant."""
        where = (
            eq("network", network),
            Where("place", Op.GT if after else Op.GE, place_key(first)),
            Where("place", Op.LE, place_key(last)),
        )
        return await self._find(Query(where, order="place", limit=limit))

    async def reserved(self, network: str, name: str) -> Address | None:
        """The address that is reserved under a name."""
        where = (eq("network", network), eq("reserved.name", name))
        found = await self._find(Query(where, limit=1))
        return found[0] if found else None

    async def all_reserved(self, network: str) -> list[Address]:
        """All reserved addresses of a network."""
        return await self._all((eq("network", network), Where("reserved.name", Op.GT, "")))

    async def count(self, where: Sequence[Where]) -> int:
        """How many documents of addresses match."""
        return await self.addresses.count(where)

    async def counts(self, pool: Pool, now: float) -> dict[str, int]:
        """A pool's used addresses by state; takes time for each of them."""
        own = (eq("network", pool.network), _pool(pool.name))
        released = (*own, eq("state", State.RELEASED.value))
        sticky = Where("sticky_key", Op.GT, "")
        late = Where("free_at", Op.GT, now)
        kept = (*released, Where("free_at", Op.GE, NEVER))
        reserved = await self.count((*kept, Where("reserved.name", Op.GT, "")))
        kept_back = await self.count(kept)
        resting = await self.count((*released, late)) - kept_back
        held = await self.count((*released, late, Where("free_at", Op.LT, NEVER), sticky))
        return {
            **{
                state.value: await self.count((*own, eq("state", state.value)))
                for state in (State.ALLOCATED, State.QUARANTINED)
            },
            "held": held,
            "cooling": max(0, resting - held),
            "reserved": reserved,
        }

    async def save_many(self, changes: Sequence[Change], now: float) -> list[Outcome]:
        """Compare-and-set of each; not OK when somebody else was first (at the address, or the attachment)."""
        stints = [
            ended(each.before, each.address, each.why, now)
            for each in changes
            if each.before is not None
        ]
        await self.history.write([each for each in stints if each is not None])
        writes = [
            Write(
                each.address.id,
                each.address.version,
                to_body(each.address),
                tuple(
                    seal(
                        each.events,
                        source="ipam",
                        sequence=each.address.version + 1,
                        now=now,
                        cause=Cause(traceparent=each.traceparent),
                    )
                ),
            )
            for each in changes
        ]
        return [each.outcome for each in await self.addresses.replace_many(writes)]

    async def save(self, change: Change, now: float) -> bool:
        """Compare-and-set; False when somebody else was first."""
        (outcome,) = await self.save_many([change], now)
        return outcome is Outcome.OK

    # -- tombstones

    async def bury(self, attachments: Iterable[tuple[str, str]], now: float) -> None:
        """From now on these attachments of these hosts ("": of every host) get no address any more."""
        graves = sorted({_grave(attachment, host) for attachment, host in attachments})
        await self._tombstones.replace_many([Write(each, 0, {"at": now}) for each in graves])

    async def buried(self, attachments: Sequence[tuple[str, str]]) -> set[str]:
        """Those of the attachments (with their hosts) that are over."""
        graves = {
            grave: attachment
            for attachment, host in attachments
            for grave in (_grave(attachment, host), _grave(attachment, ""))
        }
        return {graves[each] for each in await self._tombstones.get_many(list(graves))}

    async def forget(self, before: float, limit: int = 500) -> int:
        """Drop tombstones older than any event that could still be on its way; how many of them now."""
        where, gone = (Where("at", Op.LT, before),), 0
        for doc in (await self._tombstones.find(Query(where, limit=limit))).docs:
            gone += (await self._tombstones.delete(doc.id, doc.version)).ok
        return gone

    # -- recovery

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
