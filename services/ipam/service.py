"""ipam: one replica of any number, put together."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from libs.common.errors import GantryError, Refused, Unavailable
from libs.common.generations import ASK_EVERY_S, KnownHosts, all_hosts
from libs.common.runtime import Runtime
from libs.common.store.restores import restored_at
from libs.common.telemetry import current_traceparent
from libs.common.tokens import TokenVerifier
from libs.common.waiting import TaskGroup, lasting
from services.ipam import api
from services.ipam.allocation import Allocator
from services.ipam.batch import Batcher, Lanes
from services.ipam.catalogue import Catalogue
from services.ipam.editing import Editing
from services.ipam.jobs import Allocation, Asked, UsedUp
from services.ipam.model import Claim, IpamConfig, Reported
from services.ipam.pools import Pool
from services.ipam.quarantine import Quarantine
from services.ipam.quota_rules import Rules
from services.ipam.quotas import Quotas
from services.ipam.recovery import Recoveries
from services.ipam.releases import Ending, Releases
from services.ipam.reports import Reports
from services.ipam.reservations import Reservations
from services.ipam.stock import Stock, Territories
from services.ipam.store import HOSTS, POOLS, QUOTA_USE, QUOTAS, IpamStore
from services.ipam.tally import Tally
from services.ipam.telling import Telling

BATCH = 256
LANES = 16  # networks that are worked at side by side
FORGET_EVERY_S = 600.0
LOOK_EVERY_S = 15.0
PART = 20.0  # of the time, at most one part in so many goes into looking
GIVE_BACK_S = 1.0


class Ipam:
    """One replica."""

    def __init__(
        self,
        rt: Runtime,
        config: IpamConfig,
        store: IpamStore,
        catalogue: Catalogue,
        pools: Territories,
        quotas: Quotas,
    ) -> None:
        self.config = config
        self.store = store
        self.quotas = quotas
        self.catalogue = catalogue
        self._rt = rt
        clock = rt.clock
        self.tally = Tally(store, clock)
        self._relay = rt.relay([store.addresses, catalogue.collection, quotas.rules.collection])
        self.telling = Telling(rt.telemetry, self._relay, self.tally)
        self.recovery = Recoveries(store, config, clock, rt.telemetry.log)
        self._territories = pools
        self._stocks: dict[str, Stock] = {}
        self._allocator = Allocator(
            store,
            catalogue,
            self._stock_of,
            quotas,
            self.recovery,
            self.telling,
            clock,
            config.cooldown_s,
            config.hold_s,
        )
        self.releases = Releases(store, config, self.telling, clock)
        self._claims = Lanes(self._allocator.allocate_many, limit=BATCH, most=LANES)
        self._endings = Batcher(self.releases.release_many, limit=BATCH)
        self.editing = Editing(catalogue, pools, self.tally, clock)
        self.reservations = Reservations(
            store, self._stock_of, quotas, self.telling, clock, config.cooldown_s
        )
        self._quarantine = Quarantine(store, config, catalogue, self.telling, clock, self.allocate)
        self._reports = Reports(
            store, config, catalogue, self.recovery, self.telling, clock, self.release
        )

    @classmethod
    async def open(cls, rt: Runtime, config: IpamConfig) -> Ipam:
        """Open the collections."""
        store = await IpamStore.open(rt.store)
        rules = Rules(await rt.store.collection(QUOTAS), rt.clock)
        uses = await rt.store.collection(QUOTA_USE)
        return cls(
            rt,
            config,
            store,
            await Catalogue.open(rt.store, config, rt.clock, rt.telemetry.log),
            Territories(await rt.store.collection(POOLS)),
            Quotas(rules, uses, store, rt.clock, rt.instance),
        )

    async def run(self) -> None:
        """Publish events and tidy up until cancelled; then leave to others what was set aside."""
        try:
            async with TaskGroup() as group:
                group.create_task(lasting(self._relay.run()))
                group.create_task(lasting(self._forget()))
                group.create_task(lasting(self._look()))
                group.create_task(lasting(self.recovery.run()))
        finally:
            await self._give_back()

    def _stock_of(self, pool: Pool) -> Stock:
        known = self._stocks.get(pool.id)
        if known is None or known.pool != pool:
            known = Stock(
                pool,
                self.store,
                self._territories,
                self._rt.instance,
                self._rt.clock,
                self._rt.rng,
            )
            self._stocks[pool.id] = known
        return known

    async def allocate(self, claim: Claim) -> Allocation:
        """The claim's addresses: those it has, or new ones.

        Raises NotFound (no such network), Conflict (the attachment is over, or the requested address is taken),
        TooMany (the network is full, or a quota), Unavailable.
        """
        began = self._rt.clock.monotonic()
        result = await self._claims.submit(claim.network, Asked(claim, current_traceparent()))
        self.telling.seconds.observe(self._rt.clock.monotonic() - began)
        result = await self._explained(result)
        if isinstance(result, GantryError):
            raise result
        return result

    async def allocate_many(self, claims: Sequence[Claim]) -> list[Allocation | GantryError]:
        """Each claim's addresses, or why it gets none. The networks' are handled side by side."""
        traceparent = current_traceparent()
        began = self._rt.clock.monotonic()
        by_network: dict[str, list[int]] = defaultdict(list)
        for at, each in enumerate(claims):
            by_network[each.network].append(at)
        results: dict[int, Allocation | GantryError] = {}
        side_by_side = asyncio.Semaphore(LANES)

        async def burst(places: Sequence[int]) -> None:
            asked = [Asked(claims[at], traceparent) for at in places]
            async with side_by_side:
                try:
                    found = await self._allocator.allocate_many(asked)
                except Unavailable as error:
                    found = [error] * len(places)
            for at, result in zip(places, found, strict=True):
                results[at] = await self._explained(result)

        async with TaskGroup() as group:
            for places in by_network.values():
                group.create_task(burst(places))
        self.telling.seconds.observe(self._rt.clock.monotonic() - began)
        return [results[at] for at in range(len(claims))]

    async def _explained(self, result: Allocation | GantryError) -> Allocation | GantryError:
        """With where all the addresses are, if none is left. Counting takes its time: no other claim waits for it."""
        return await self.telling.used_up(result.pools) if isinstance(result, UsedUp) else result

    async def release(self, ending: Ending) -> bool:
        """See Releases."""
        return await self._endings.submit(ending)

    async def conflict(
        self, attachment: str, address: str, generation: int, seen_mac: str
    ) -> Allocation:
        """See Quarantine."""
        return await self._quarantine.conflict(attachment, address, generation, seen_mac)

    async def report(
        self, host: str, live: frozenset[str], held: Sequence[Reported] | None = None
    ) -> int:
        """See Reports."""
        return await self._reports.report(host, live, held)

    async def _look(self) -> None:
        """Follow what others define, and count."""
        clock = self._rt.clock
        while True:
            began = clock.monotonic()
            try:
                await self.catalogue.refresh()
                await self.telling.look(self.catalogue.pools())
                self.telling.expired(await self._quarantine.expire())
                await self._look_at_quotas()
                await self._tidy_stocks()
            except (Unavailable, Refused) as error:
                self.telling.log.warning("counts are old", error=str(error))
            await clock.sleep(max(LOOK_EVERY_S, PART * (clock.monotonic() - began)))

    async def _look_at_quotas(self) -> None:
        used: dict[tuple[str, str], float] = {}
        for bu, rule in (await self.quotas.rules.all()).items():
            for quota in rule.quotas(bu):
                ratio = await self.quotas.used(quota) / quota.limit if quota.limit else 1.0
                used[bu, quota.network] = ratio
        self.telling.quotas(used)

    async def _tidy_stocks(self) -> None:
        """Forget pools that are gone, and let in again what is no longer excluded."""
        pools = {each.id: each for each in self.catalogue.pools()}
        self._stocks = {name: each for name, each in self._stocks.items() if name in pools}
        for pool in pools.values():
            await self._stock_of(pool).readmit()

    async def _forget(self) -> None:
        store, config = self.store, self.config
        while True:
            await self._rt.clock.sleep(FORGET_EVERY_S)
            now = self._rt.clock.now()
            try:
                while await store.forget(now - config.tombstone_s):
                    pass
                while await store.history.forget(now - config.history_s):
                    pass
            except (Unavailable, Refused) as error:
                self.telling.log.warning("old documents are kept", error=str(error))

    async def _give_back(self) -> None:
        try:
            async with asyncio.timeout(GIVE_BACK_S):
                for stock in self._stocks.values():
                    await stock.give_back()
        except (Unavailable, TimeoutError) as error:  # its leases run out
            self.telling.log.warning("leases are left", error=str(error))


async def run(rt: Runtime) -> None:
    """The service."""
    ipam = await Ipam.open(rt, rt.section(IpamConfig))
    await ipam.recovery.start(await restored_at(rt.store))
    hosts = await KnownHosts.open(rt.peers, rt.store, HOSTS)
    verify = TokenVerifier(rt.secret, rt.clock, hosts.generations)
    asking = rt.queue("hosts", hosts.ask, workers=1)
    app = rt.http_app(api.routes(ipam, rt.clock), authenticate=verify)
    async with rt.serve(app), TaskGroup() as group:
        group.create_task(ipam.run())
        group.create_task(asking.run(all_hosts, ASK_EVERY_S))
