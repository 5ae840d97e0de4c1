"""Addresses kept for somebody, by name. What is reserved is the address' own document, under a unique name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, model_validator

from libs.common.clock import Clock
from libs.common.errors import Conflict, NotFound, Stale, Unavailable
from libs.common.events import model as ev
from libs.common.spec import Name
from libs.common.store.base import Outcome
from services.ipam.jobs import Resting
from services.ipam.model import NEVER, Address, Reserved, Shown, State
from services.ipam.pools import Network, Pool, canonical
from services.ipam.quotas import Quotas, Wish
from services.ipam.stock import Stock
from services.ipam.store import Change, IpamStore
from services.ipam.telling import Telling

TRIES = 64


class ReservationBody(BaseModel):
    """PUT …/reservations/{name}: this address, or any of a pool (the first one, if none is named).

    `bu` and `app` say who may have it; without them, whoever asks for it by name or address.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field("", max_length=64)
    pool: str = Field("", max_length=64)
    bu: Name | None = None
    app: Name | None = None
    note: str = Field("", max_length=500)

    @model_validator(mode="after")
    def _owner(self) -> ReservationBody:
        if self.app and not self.bu:
            raise ValueError("an app needs its bu")
        return self


class Reservations:
    """One replica's."""

    def __init__(
        self,
        store: IpamStore,
        stock_of: Callable[[Pool], Stock],
        quotas: Quotas,
        telling: Telling,
        clock: Clock,
        cooldown_s: float,
    ) -> None:
        self._store = store
        self._stock_of = stock_of
        self._quotas = quotas
        self._telling = telling
        self._clock = clock
        self._cooldown_s = cooldown_s

    async def get(self, network: Network, name: str) -> Address:
        """The reserved address. Raises NotFound."""
        found = await self._store.reserved(network.name, name)
        if found is None:
            raise NotFound(f"network {network.name} has no reservation {name!r}")
        return found

    async def all(self, network: Network) -> list[Address]:
        """All reserved addresses, by name."""
        found = await self._store.all_reserved(network.name)
        return sorted(found, key=lambda each: each.reserved.name if each.reserved else "")

    async def put(
        self,
        network: Network,
        name: str,
        body: ReservationBody,
        actor: str,
        must_be: frozenset[int] | None,
    ) -> tuple[Address, bool]:
        """Reserve, or change who it is for; True when there was none.

        Raises NotFound (no such pool), Conflict (the address is somebody else's, or it would be another one), TooMany
        (the quota, or the pool is used up, or the address is cooling down), Stale, Unavailable.
        """
        wanted = canonical(body.address)
        for _ in range(TRIES):
            now = self._clock.now()
            reserved = Reserved(name, body.bu or "", body.app or "", body.note, actor, now)
            before = await self._store.reserved(network.name, name)
            _check(must_be, before)
            if before is not None:
                if wanted and wanted != before.address:
                    raise Conflict(
                        f"{name} is {before.address}; delete the reservation, then make another"
                    )
                after = replace(before, reserved=reserved)
                if before.state is State.RELEASED:
                    after = replace(after, bu=reserved.bu)
                if await self._save(before, after, actor):
                    return replace(after, version=before.version + 1), False
                continue
            made = await self._reserve(network, reserved, wanted, body.pool, actor)
            if made is not None:
                return made, True
        raise Unavailable(f"reservation {name}: lost {TRIES} races")

    async def _reserve(
        self, network: Network, reserved: Reserved, wanted: str, pool: str, actor: str
    ) -> Address | None:
        if wanted:
            address = await self._this(network, reserved, wanted)
            return await self._take(address, reserved, actor)
        pools = [each for each in network.pools if pool in ("", each.name)]
        if not pools:
            raise NotFound(f"network {network.name} has no pool {pool!r}")
        stock = self._stock_of(pools[0])
        picked = await stock.pick(1)
        if not picked:
            raise await self._telling.used_up(pools[:1])
        (address,) = picked
        try:
            taken = await self._take(address, reserved, actor)
        except BaseException:
            stock.untried(picked)
            raise
        stock.tried(address, Outcome.OK if taken else Outcome.CONFLICT)
        return taken

    async def _this(self, network: Network, reserved: Reserved, wanted: str) -> Address:
        pool = network.pool_of(wanted)
        offset = pool.offset(wanted) if pool else None
        if pool is None or offset is None:
            raise Conflict(f"{wanted} is not an address that {network.name} gives out")
        address = await self._store.get(network.name, wanted)
        address = address or Address(network.name, wanted, offset, pool=pool.name)
        now = self._clock.now()
        shown = address.shown(now)
        if address.reserved is not None:
            raise Conflict(f"{wanted} is reserved already")
        own = reserved.bu != "" and reserved.owned_by(address.instance, address.app)
        if own and shown in (Shown.ALLOCATED, Shown.COOLING):
            return address
        if shown is Shown.COOLING:
            raise Resting(wanted, address.free_at - now)
        if shown not in (Shown.FREE, Shown.EXCLUDED):
            raise Conflict(f"{wanted} is {shown}")
        return address

    async def _take(self, address: Address, reserved: Reserved, actor: str) -> Address | None:
        after = replace(address, reserved=reserved)
        if address.state is State.ALLOCATED:
            saved = await self._save(address, after, actor)
            return replace(after, version=address.version + 1) if saved else None
        after = replace(after, bu=reserved.bu, free_at=NEVER, sticky_key="")
        wish = Wish(
            reserved.bu,
            address.network,
            f"reservation {reserved.name}",
            address.family,
            self._quotas.turn(),
        )
        wishes = [wish] if reserved.bu and not address.counts_for(reserved.bu, 0.0) else []
        refused = await self._quotas.admit(wishes)
        if wish in refused:
            raise refused[wish]
        saved = await self._save(address, after, actor)
        await self._quotas.settle((each, saved) for each in wishes)
        return replace(after, version=address.version + 1) if saved else None

    async def delete(
        self, network: Network, name: str, actor: str, must_be: frozenset[int] | None
    ) -> None:
        """Nobody's any more; who has the address keeps it. Raises NotFound, Stale, Unavailable."""
        for _ in range(TRIES):
            before = await self.get(network, name)
            _check(must_be, before)
            after = replace(before, reserved=None)
            if before.state is State.RELEASED:
                rested_at = max(before.since, self._clock.now()) + self._cooldown_s
                after = replace(after, free_at=rested_at, bu="", sticky_key="")
            if await self._save(before, after, actor):
                return
        raise Unavailable(f"reservation {name}: lost {TRIES} races")

    async def _save(self, before: Address, after: Address, actor: str) -> bool:
        reserved = after.reserved or before.reserved
        assert reserved is not None
        audit = ev.AuditRecorded(
            actor=actor,
            action="address.reserve" if after.reserved else "address.unreserve",
            target=after.id,
            allowed=True,
            detail=f"reservation {reserved.name}",
        )
        saved = await self._store.save(Change(after, (audit,)), self._clock.now())
        self._telling.kick()
        return saved


def _check(must_be: frozenset[int] | None, before: Address | None) -> None:
    if must_be is not None and (before is None or (must_be and before.version not in must_be)):
        raise Stale(f"it is at version {before.version if before else 0}")
