"""Which hosts a service lets in: what the gateway says, kept over its absence, a failing store, and a new start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from libs.common.errors import GantryError, Unavailable
from libs.common.generations import PATH, KnownHosts
from libs.common.http import Response, reply
from libs.common.store.base import CollectionSpec
from libs.common.store.faults import StoreFaults, StorePoint
from libs.common.store.memory import MemoryStore


@dataclass
class Gateway:
    """What a service is told."""

    answer: object = field(default_factory=dict)
    away: bool = False

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """See ServiceClient."""
        assert (service, method, path) == ("gateway", "GET", PATH)
        if self.away:
            raise Unavailable("away")
        return reply({"generations": self.answer})


class Away(StoreFaults):
    """A store that can't be reached, at times."""

    away = False

    def draw(self, point: StorePoint, what: str) -> float:
        """See StoreFaults."""
        return float(self.away and point is StorePoint.CALL_FAILS)


async def replica(gateway: Gateway, store: MemoryStore) -> KnownHosts:
    """What one replica of a service knows as it starts."""
    return await KnownHosts.open(gateway, store, CollectionSpec("hosts"))


async def kept(store: MemoryStore) -> Mapping[str, int]:
    """What a replica would know without the gateway."""
    return (await replica(Gateway(away=True), store)).generations.current()


async def test_what_was_told_is_kept_for_a_start_without_the_gateway() -> None:
    gateway, store = Gateway({"h1": 1}), MemoryStore()
    hosts = await replica(gateway, store)
    await hosts.ask("hosts")
    first = hosts.generations.current()
    await hosts.ask("hosts")
    assert hosts.generations.current() is first and first == {"h1": 1}
    gateway.answer = {"h1": 2, "h2": 1}
    await hosts.ask("hosts")
    assert await kept(store) == {"h1": 2, "h2": 1}


async def test_generations_never_go_back() -> None:
    gateway, store = Gateway({"h1": 3}), MemoryStore()
    hosts, other = await replica(gateway, store), await replica(gateway, store)
    await hosts.ask("hosts")
    gateway.answer = {"h1": 2}  # a gateway whose store was restored from a backup
    await hosts.ask("hosts")
    assert hosts.generations.current() == {"h1": 3}
    # A replica that has heard less writes nothing over what another has kept.
    await other.ask("hosts")
    assert await kept(store) == {"h1": 3}


async def test_a_removal_holds_though_it_could_not_be_kept_and_is_kept_later() -> None:
    faults = Away()
    gateway, store = Gateway({"h1": 1}), MemoryStore()
    hosts = await replica(gateway, store.share(faults))
    faults.away = True
    with pytest.raises(Unavailable):
        await hosts.ask("hosts")
    assert hosts.generations.current() == {"h1": 1}
    faults.away = False
    await hosts.ask("hosts")
    assert await kept(store) == {"h1": 1}


@pytest.mark.parametrize("answer", [None, [], {"h1": "x"}, {"h1": None}])
async def test_an_answer_that_says_nothing_changes_nothing(answer: object) -> None:
    store = MemoryStore()
    hosts = await replica(Gateway(answer), store)
    with pytest.raises(GantryError):
        await hosts.ask("hosts")
    assert hosts.generations.current() == await kept(store) == {}
