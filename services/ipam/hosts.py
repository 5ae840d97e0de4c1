"""Which hosts' keys are good: asked of the gateway, and kept for times without it."""

from __future__ import annotations

from collections.abc import Iterable

from libs.common.generations import Generations, ask_generations
from libs.common.http import ServiceClient
from services.ipam.store import IpamStore

ASK_EVERY_S = 5.0


class Hosts:
    """Keeps `generations` as new as it can."""

    def __init__(self, peers: ServiceClient, store: IpamStore, generations: Generations) -> None:
        self._peers = peers
        self._store = store
        self._generations = generations
        self._kept: dict[str, int] = {}

    async def recall(self) -> None:
        """Take up what was known before this process began. Raises Unavailable."""
        self._kept = await self._store.generations()
        self._generations.learn(self._kept)

    async def ask(self, _key: str) -> None:
        """Ask the gateway, and keep what is new. Raises Unavailable."""
        told = await ask_generations(self._peers)
        self._generations.learn(told)
        newer = {host: told[host] for host in told if told[host] > self._kept.get(host, 0)}
        if newer:
            self._kept |= await self._store.keep_generations(newer)


async def all_hosts() -> Iterable[str]:
    """The one key of the queue that asks: all hosts are told at once."""
    return ("hosts",)
