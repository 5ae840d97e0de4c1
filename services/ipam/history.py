"""Who had an address from when to when.

A stint's document is written before the address is taken from its attachment, under a name that is the same each time,
so none is lost whatever fails in between. One whose address is still allocated with that generation is not over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from libs.common.store.base import Collection, Op, Query, Where, Write
from services.ipam.model import Address, State


@dataclass(frozen=True, slots=True)
class Stint:
    """That an attachment had an address. Times are Unix seconds."""

    network: str
    address: str
    generation: int
    attachment: str
    instance: str
    attempt: str
    host: str
    since: float
    until: float
    why: str
    bu: str = ""

    @property
    def id(self) -> str:
        """By address, in order. Out of quarantine an address comes back to its holder with the same generation."""
        return f"{_prefix(self.network, self.address)}{self.generation:020d}.{1000 * self.since:015.0f}"


def ended(before: Address, after: Address, why: str, now: float) -> Stint | None:
    """The stint that a change ends, if it does."""
    if before.state is not State.ALLOCATED:
        return None
    if after.state is State.ALLOCATED and after.attachment == before.attachment:
        return None
    return Stint(
        before.network,
        before.address,
        before.generation,
        before.attachment,
        before.instance,
        before.attempt,
        before.host,
        before.since,
        now,
        why,
        before.bu,
    )


class History:
    """The documents of `ipam_history`."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    async def write(self, stints: Sequence[Stint]) -> None:
        """Note them; what is noted already stays. Raises Unavailable."""
        by_id = {each.id: each for each in stints}
        if by_id:
            await self._collection.replace_many(
                [Write(name, 0, asdict(each)) for name, each in by_id.items()]
            )

    async def of(self, network: str, address: str, limit: int) -> list[Stint]:
        """Stints of an address, the last one first."""
        prefix = _prefix(network, address)
        page = await self._collection.find(Query(after=f"{prefix}~", descending=True, limit=limit))
        return [_stint(doc.body) for doc in page.docs if doc.id.startswith(prefix)]

    async def forget(self, before: float, limit: int = 500) -> int:
        """Drop stints that ended earlier; how many of them now."""
        where, gone = (Where("until", Op.LT, before),), 0
        page = await self._collection.find(Query(where, order="until", limit=limit))
        for doc in page.docs:
            gone += (await self._collection.delete(doc.id, doc.version)).ok
        return gone


def _prefix(network: str, address: str) -> str:
    return f"{network}/{address}/"


def _stint(body: Any) -> Stint:
    return Stint(**{each.name: body[each.name] for each in fields(Stint)})
