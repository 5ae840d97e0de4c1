"""Networks and pools made, changed and deleted over the API. Those of the configuration are read only here.

A pool is deleted in two steps, so that no replica can give out an address of it that is somebody else's by then: first
it is closing, and after as long as replicas may not have heard of that, it is looked at once more and goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from libs.common.clock import Clock
from libs.common.errors import Conflict, InvalidInput, NotFound, Stale, Unavailable
from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.problems import invalid
from services.ipam.catalogue import STALE_S, Catalogue, Entry, Made
from services.ipam.definition import NetworkConfig, PoolConfig, clashes, dumped
from services.ipam.pools import Network, Pool
from services.ipam.stock import Territories
from services.ipam.tally import Tally

MAX_NETWORKS = 1000
TRIES = 16
Versions = frozenset[int] | None
Change = Callable[[Made], tuple[Made, Event] | None]


class Editing:
    """One replica's."""

    def __init__(
        self, catalogue: Catalogue, territories: Territories, tally: Tally, clock: Clock
    ) -> None:
        self._catalogue = catalogue
        self._territories = territories
        self._tally = tally
        self._clock = clock

    async def put_network(
        self, name: str, body: Mapping[str, Any], actor: str, must_be: Versions
    ) -> tuple[Network, bool]:
        """Define a network; True when there was none.

        Raises InvalidInput, Conflict (it is the configuration's, clashes with others, or would lose a pool), Stale,
        Unavailable.
        """
        self._not_fixed(name)
        config = _network({**body, "name": name})
        before: Entry | None = None

        def change(made: Made) -> tuple[Made, Event] | None:
            nonlocal before
            before = made.entries.get(name)
            _check(must_be, before)
            if before is not None:
                if before.config == config:
                    return None
                _may_become(before.config, config)
            elif len(made.entries) >= MAX_NETWORKS:
                raise Conflict(f"there are {MAX_NETWORKS} networks already")
            after = Entry(config, before.version + 1 if before else 1)
            event = _audit(actor, "network.put", name, before, after)
            return self._with(made, name, after), event

        await self._change(change)
        return self._made(name), before is None

    async def put_pool(
        self, network: str, name: str, body: Mapping[str, Any], actor: str, must_be: Versions
    ) -> tuple[Network, bool]:
        """Add a pool to a network, or change it. Raises NotFound and as put_network."""
        self._not_fixed(network)
        try:
            pool = PoolConfig.model_validate({**body, "name": name})
        except ValidationError as error:
            raise invalid(error) from None
        created = False

        def change(made: Made) -> tuple[Made, Event] | None:
            nonlocal created
            before = _entry(made, network)
            _check(must_be, before)
            pools = [each for each in before.config.every_pool() if each.name != name]
            created = len(pools) == len(before.config.every_pool())
            config = _network(
                {**_written_out(before.config), "pools": [dumped(each) for each in (*pools, pool)]}
            )
            closing = tuple(each for each in before.closing if each != name)
            if config == before.config and closing == before.closing:
                return None
            _may_become(before.config, config)
            after = Entry(config, before.version + 1, closing)
            event = _audit(actor, "pool.put", f"{network}/{name}", before, after)
            return self._with(made, network, after), event

        await self._change(change)
        return self._made(network), created

    async def delete_pool(self, network: str, name: str, actor: str, must_be: Versions) -> None:
        """Take away a pool that is not used. Raises NotFound, Conflict (in use, the last one), Stale, Unavailable."""
        self._not_fixed(network)
        entry = _entry(await self._catalogue.refresh(), network)
        _check(must_be, entry)
        (pool,) = self._pools(network, [name])
        if len(entry.config.every_pool()) == 1:
            raise Conflict(f"{name} is the last pool of {network}; delete the network")

        def remove(before: Entry) -> Entry:
            pools = [each for each in before.config.every_pool() if each.name != name]
            config = _network({**_written_out(before.config), "pools": [dumped(e) for e in pools]})
            closing = tuple(each for each in before.closing if each != name)
            return Entry(config, before.version + 1, closing)

        await self._close(network, [pool], actor, "pool.delete", f"{network}/{name}", remove)

    async def delete_network(self, name: str, actor: str, must_be: Versions) -> None:
        """Take a network away that is not used. Raises NotFound, Conflict (in use), Stale, Unavailable."""
        self._not_fixed(name)
        entry = _entry(await self._catalogue.refresh(), name)
        _check(must_be, entry)
        pools = self._pools(name, [each.name for each in entry.config.every_pool()])
        await self._close(name, pools, actor, "network.delete", name, lambda _: None)

    async def _close(
        self,
        network: str,
        pools: list[Pool],
        actor: str,
        action: str,
        target: str,
        remove: Callable[[Entry], Entry | None],
    ) -> None:
        await self._unused(pools)
        names = {each.name for each in pools}

        def closing(made: Made) -> tuple[Made, Event] | None:
            before = _entry(made, network)
            after = replace(before, closing=tuple(sorted({*before.closing, *names})))
            if after == before:
                return None
            event = _audit(actor, f"{action}.begin", target, before, after)
            return self._with(made, network, after), event

        def open_again(made: Made) -> tuple[Made, Event] | None:
            before = _entry(made, network)
            after = replace(before, closing=tuple(sorted({*before.closing} - names)))
            event = _audit(actor, f"{action}.undo", target, before, after)
            return self._with(made, network, after), event

        def gone(made: Made) -> tuple[Made, Event] | None:
            before = _entry(made, network)
            if not names <= {*before.closing}:
                raise Conflict(f"{target} has been changed meanwhile")
            after = remove(before)
            event = _audit(actor, action, target, before, after)
            return self._with(made, network, after), event

        await self._change(closing)
        await self._clock.sleep(STALE_S)
        try:
            await self._unused(pools)
        except Conflict:
            await self._change(open_again)
            raise
        await self._change(gone)
        for pool in pools:
            await self._territories.forget(pool)

    async def _unused(self, pools: list[Pool]) -> None:
        for pool in pools:
            states = await self._tally.now(pool)
            used = ", ".join(f"{count} {state}" for state, count in states.items() if count)
            if used:
                raise Conflict(f"pool {pool.name} of {pool.network} is in use: {used}")

    def _pools(self, network: str, names: list[str]) -> list[Pool]:
        known = self._made(network)
        pools = [pool for pool in known.pools if pool.name in names]
        if len(pools) != len(names):
            raise NotFound(f"network {network} has no pool {', '.join(names)}")
        return pools

    def _made(self, name: str) -> Network:
        found = self._catalogue.get(name)
        if found is None:
            raise Conflict(f"network {name} clashes with the configuration, and is not used")
        return found

    def _not_fixed(self, name: str) -> None:
        if any(each.name == name for each in self._catalogue.fixed):
            raise Conflict(f"network {name} is defined by the configuration")

    def _with(self, made: Made, name: str, entry: Entry | None) -> Made:
        """All networks with one changed. Raises Conflict when they can't be side by side."""
        entries = {each: value for each, value in made.entries.items() if each != name}
        if entry is not None:
            entries[name] = entry
            others = [each.config for each in entries.values()]
            clash = clashes([*self._catalogue.fixed, *others])
            if clash:
                raise Conflict(clash)
        return replace(made, entries=entries)

    async def _change(self, change: Change) -> None:
        for _ in range(TRIES):
            changed = change(await self._catalogue.refresh())
            if changed is None or await self._catalogue.save(changed[0], (changed[1],)):
                return
        raise Unavailable("networks are being changed by too many")


def _network(body: Mapping[str, Any]) -> NetworkConfig:
    try:
        return NetworkConfig.model_validate(body)
    except ValidationError as error:
        raise invalid(error) from None


def _written_out(config: NetworkConfig) -> dict[str, Any]:
    """Without its short forms, whose pools then stand with the others."""
    short = ("cidr", "gateway", "cidr6", "gateway6", "excluded", "pools")
    return {name: value for name, value in dumped(config).items() if name not in short}


def _entry(made: Made, name: str) -> Entry:
    if name not in made.entries:
        raise NotFound(f"there is no network {name!r}")
    return made.entries[name]


def _check(must_be: Versions, before: Entry | None) -> None:
    if must_be is not None and (before is None or (must_be and before.version not in must_be)):
        raise Stale(f"it is at version {before.version if before else 0}")


def _may_become(before: NetworkConfig, after: NetworkConfig) -> None:
    """Raises Conflict, InvalidInput: what is used must stay what it is."""
    if before.vlan != after.vlan:
        raise InvalidInput.of("vlan", "can't change", f"{before.vlan}, or another network")
    pools = {each.name: each for each in after.every_pool()}
    for each in before.every_pool():
        new = pools.get(each.name)
        if new is None:
            raise Conflict(f"pool {each.name} is left out; delete it first")
        same = new.cidr.version == each.cidr.version
        if not same or not (new.cidr[0] <= each.cidr[0] and each.cidr[-1] <= new.cidr[-1]):  # type: ignore[operator]
            raise InvalidInput.of(
                f"pools.{each.name}.cidr",
                f"{new.cidr} does not hold {each.cidr}",
                "a range that holds the one before, or another pool",
            )


def _audit(
    actor: str, action: str, target: str, before: Entry | None, after: Entry | None
) -> Event:
    return ev.AuditRecorded(
        actor=actor,
        action=action,
        target=f"network {target}",
        allowed=True,
        before=dumped(before.config) if before else None,
        after=dumped(after.config) if after else None,
    )
