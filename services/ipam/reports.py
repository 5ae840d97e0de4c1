"""Hosts' reports: which attachments they have, and with which addresses.

They find leaks (in two observations), end quarantines of addresses that two have claimed, and put right a store that
has gone back in time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.telemetry import current_traceparent
from services.ipam import core
from services.ipam.catalogue import Catalogue
from services.ipam.model import Address, IpamConfig, Reported, State
from services.ipam.recovery import Recoveries
from services.ipam.releases import Ending
from services.ipam.store import Change, IpamStore
from services.ipam.telling import Telling

MAX_TRIES = 64
RACES = 4
QUARANTINE_LOOK_S = 30.0

Release = Callable[[Ending], Awaitable[bool]]


class Reports:
    """One replica's."""

    def __init__(
        self,
        store: IpamStore,
        config: IpamConfig,
        catalogue: Catalogue,
        recovery: Recoveries,
        telling: Telling,
        clock: Clock,
        release: Release,
    ) -> None:
        self._store = store
        self._config = config
        self._catalogue = catalogue
        self._recovery = recovery
        self._telling = telling
        self._clock = clock
        self._release = release
        self._quarantine: dict[str, None] = {}  # as of the last look
        self._looked_at = float("-inf")

    async def report(
        self, host: str, live: frozenset[str], held: Sequence[Reported] | None = None
    ) -> int:
        """A host says which attachments it has; returns how many leaked addresses were released.

        `held` are those that have an address, once for each; None: the host does not say.
        """
        await self._hear(host, live, held or ())
        await self._end_claims(host, live)
        if held is not None:
            await self._recovery.reported(host)
        now = self._clock.now()
        found = core.leaks(await self._store.on_host(host), live, now, self._config.leak_grace_s)
        noticed = [Change(address) for address in (*found.missing, *found.found)]
        if noticed:
            await self._store.save_many(noticed, now)
        return await self._collect(host, found.leaked)

    async def _collect(self, host: str, leaked: Sequence[Address]) -> int:
        """Each attachment once: its release frees the addresses of both families."""
        whole: dict[str, list[Address]] = {}
        for address in sorted(leaked, key=lambda each: each.family):
            whole.setdefault(address.attachment, []).append(address)
        collected = 0
        for attachment, addresses in whole.items():
            sixth = next((each.generation for each in addresses if each.family == 6), None)
            # An attachment that asked for its address since this report was made has it for good.
            seen = tuple((each.id, each.version) for each in addresses)
            ending = Ending(
                attachment,
                addresses[0].generation,
                "leaked",
                f"host:{host}",
                host,
                sixth,
                seen=seen,
            )
            if await self._release(ending):
                collected += len(addresses)
        self._telling.collected(collected)
        return collected

    async def _hear(self, host: str, live: frozenset[str], held: Sequence[Reported]) -> None:
        """What a host says it has is not free, whatever the store says."""
        told = {each.id: each for each in held}
        for tries in range(MAX_TRIES):
            stored = await self._store.get_many(list(told))
            again: dict[str, Reported] = {}
            for name, each in told.items():
                known = stored.get(name) or await self._unused(each)
                if known is None:
                    self._telling.log.warning("no address of ours", host=host, address=name)
                    continue
                now, grace_s = self._clock.now(), self._config.leak_grace_s
                verdict = core.heard(known, each, host, live, now, grace_s)
                if tries >= RACES and verdict.address is not None:
                    # No race any more: by the store the attachment has another address.
                    verdict = core.quarantined(known, each, host, now)
                if not await self._settle(verdict, known):
                    again[name] = each
            if not again:
                return
            told = again
        raise Unavailable(f"report of {host}: lost {MAX_TRIES} races")

    async def _unused(self, told: Reported) -> Address | None:
        network = await self._catalogue.find(told.network)
        pool = network.pool_of(told.address) if network else None
        offset = pool.offset(told.address) if pool else None
        if pool is None or offset is None:
            return None
        return Address(told.network, pool.address(offset), offset, pool=pool.name)

    async def _end_claims(self, host: str, live: frozenset[str]) -> None:
        """Claims of this host's on addresses in quarantine, as far as they are over."""
        config, now = self._config, self._clock.now()
        if now - self._looked_at >= QUARANTINE_LOOK_S:
            self._looked_at = now
            found = await self._store.quarantined(self._catalogue.pools())
            self._quarantine = {each.id: None for each in found}
        for address in (await self._store.get_many(list(self._quarantine))).values():
            if address.state is not State.QUARANTINED:
                continue
            now = self._clock.now()
            verdict = core.unclaimed(
                address, host, live, now, config.leak_grace_s, config.cooldown_s
            )
            # One that is being changed waits for the next report.
            await self._settle(verdict, address)

    async def _settle(self, verdict: core.Verdict, stored: Address) -> bool:
        """Make it true; False when the address was changed meanwhile."""
        if verdict.gone_back:
            await self._recovery.gone_back()
        address = verdict.address
        if address is None:
            return True
        change = Change(address, verdict.events, current_traceparent(), stored, "not as stored")
        if not await self._store.save(change, self._clock.now()):
            return False
        if address.state is State.QUARANTINED:
            self._quarantine[address.id] = None
        if verdict.events:
            self._telling.log.warning(
                "an address is not as stored",
                address=address.id,
                state=address.state.value,
                attachment=address.attachment,
            )
            self._telling.kick()
        return True
