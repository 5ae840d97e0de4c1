"""Generations of hosts' keys: which key of a host is good, by name; 0 for a host that was never removed.

The gateway decides them. Whoever lets hosts in asks it for all that are not 0, again and again, and keeps them in its
own store too: so a removal holds while the gateway is away, and over a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from libs.common.errors import Unavailable
from libs.common.http import ServiceClient, call_json
from libs.common.store.base import Collection, CollectionSpec, Schema, Store, Write
from libs.common.store.paging import documents
from libs.common.store.shapes import fields

HOSTS_SCHEMA = Schema(known=fields("generation"))
"""Of the collection that a service keeps them in."""
PATH = "/v1/host-generations"
ASK_EVERY_S = 5.0


class Generations:
    """What this process has heard."""

    def __init__(self) -> None:
        self._known: Mapping[str, int] = {}

    def current(self) -> Mapping[str, int]:
        """All of them; the very same mapping until one changes."""
        return self._known

    def learn(self, told: Mapping[str, int]) -> None:
        """Take up what is newer: generations only grow."""
        newer = {host: told[host] for host in told if told[host] > self._known.get(host, 0)}
        if newer:
            self._known = {**self._known, **newer}


async def ask_generations(peers: ServiceClient) -> dict[str, int]:
    """Those that the gateway knows. Raises Unavailable."""
    told = await call_json(peers, "gateway", "GET", PATH)
    try:
        return {str(host): int(generation) for host, generation in told["generations"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unavailable("the gateway did not tell of hosts' generations") from None


class KnownHosts:
    """Keeps `generations` as new as it can: asks the gateway, and has a collection for times without it."""

    def __init__(self, peers: ServiceClient, collection: Collection) -> None:
        self.generations = Generations()
        self._peers = peers
        self._collection = collection
        self._kept: dict[str, int] = {}

    @classmethod
    async def open(cls, peers: ServiceClient, store: Store, spec: CollectionSpec) -> KnownHosts:
        """One with what was known before this process began. Raises Unavailable."""
        known = cls(peers, await store.collection(spec))
        known._kept = await known._recall()
        known.generations.learn(known._kept)
        return known

    async def ask(self, _key: str) -> None:
        """Ask the gateway, and keep what is new. Raises Unavailable."""
        told = await ask_generations(self._peers)
        self.generations.learn(told)
        newer = {host: told[host] for host in told if told[host] > self._kept.get(host, 0)}
        if newer:
            self._kept |= await self._keep(newer)

    async def _recall(self) -> dict[str, int]:
        docs = documents(self._collection)
        return {doc.id: int(doc.body["generation"]) async for doc in docs}

    async def _keep(self, told: Mapping[str, int]) -> dict[str, int]:
        """Keep what is newer than what is kept; those that are kept now, by this replica or another."""
        known = await self._collection.get_many(sorted(told))
        writes = [
            Write(host, known[host].version if host in known else 0, {"generation": told[host]})
            for host in sorted(told)
            if host not in known or int(known[host].body["generation"]) < told[host]
        ]
        results = await self._collection.replace_many(writes) if writes else ()
        lost = {w.id for w, result in zip(writes, results, strict=True) if not result.ok}
        return {host: each for host, each in told.items() if host not in lost}


async def all_hosts() -> Iterable[str]:
    """The one key of the queue that asks: all hosts are told at once."""
    return ("hosts",)
