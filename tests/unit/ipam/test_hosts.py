"""Which hosts ipam lets in: what the gateway says, kept over its absence, a failing store, and a new start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from libs.common.errors import GantryError, Unavailable
from libs.common.generations import PATH, Generations
from libs.common.http import Response, reply
from libs.common.store.memory import MemoryStore
from services.ipam.hosts import Hosts
from services.ipam.store import IpamStore


@dataclass
class Gateway:
    """What ipam is told."""

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


async def replica(gateway: Gateway, store: MemoryStore) -> tuple[Hosts, Generations, IpamStore]:
    """One ipam's, as it starts."""
    opened, generations = await IpamStore.open(store), Generations()
    hosts = Hosts(gateway, opened, generations)
    await hosts.recall()
    return hosts, generations, opened


async def test_what_was_told_is_kept_for_a_start_without_the_gateway() -> None:
    gateway, store = Gateway({"h1": 1}), MemoryStore()
    hosts, generations, _ = await replica(gateway, store)
    await hosts.ask("hosts")
    first = generations.current()
    await hosts.ask("hosts")
    assert generations.current() is first and first == {"h1": 1}
    gateway.answer = {"h1": 2, "h2": 1}
    await hosts.ask("hosts")
    gateway.away = True
    _, again, _ = await replica(gateway, store)
    assert again.current() == {"h1": 2, "h2": 1}


async def test_generations_never_go_back() -> None:
    gateway, store = Gateway({"h1": 3}), MemoryStore()
    hosts, generations, opened = await replica(gateway, store)
    await hosts.ask("hosts")
    gateway.answer = {"h1": 2}  # a gateway whose store was restored from a backup
    await hosts.ask("hosts")
    assert generations.current() == {"h1": 3}
    # A replica that has heard less writes nothing over what another has kept.
    assert await opened.keep_generations({"h1": 2}) == {"h1": 2}
    assert await opened.generations() == {"h1": 3}


async def test_a_removal_holds_though_it_could_not_be_kept_and_is_kept_later() -> None:
    gateway, store = Gateway({"h1": 1}), MemoryStore()
    hosts, generations, opened = await replica(gateway, store)
    keep, failing = opened.keep_generations, True

    async def fails(told: Mapping[str, int]) -> dict[str, int]:
        if failing:
            raise Unavailable("the store is away")
        return await keep(told)

    opened.keep_generations = fails  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await hosts.ask("hosts")
    assert generations.current() == {"h1": 1}
    failing = False
    await hosts.ask("hosts")
    assert await opened.generations() == {"h1": 1}


@pytest.mark.parametrize("answer", [None, [], {"h1": "x"}, {"h1": None}])
async def test_an_answer_that_says_nothing_changes_nothing(answer: object) -> None:
    hosts, generations, opened = await replica(Gateway(answer), MemoryStore())
    with pytest.raises(GantryError):
        await hosts.ask("hosts")
    assert generations.current() == await opened.generations() == {}
