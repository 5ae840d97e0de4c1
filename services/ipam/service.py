"""Allocation and release by compare-and-set: any number of replicas, no locks.

An attachment's claim is idempotent (a unique index on the attachment), an address is one document, so two replicas
can't give the same one twice: the loser of a race tries the next. Never-used addresses come first, then the longest
rested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from libs.common.errors import Conflict, NotFound, Refused, TooMany, Unavailable
from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.generations import ASK_EVERY_S, KnownHosts, all_hosts
from libs.common.runtime import Runtime
from libs.common.store.restores import restored_at
from libs.common.telemetry import current_traceparent
from libs.common.tokens import TokenVerifier
from libs.common.waiting import lasting
from services.ipam import api, core
from services.ipam.model import Address, Claim, IpamConfig, Network, Reported, State, allocated
from services.ipam.recovery import Recoveries
from services.ipam.store import HOSTS, IpamStore

MAX_TRIES = 64
CANDIDATES = 64
RACES = 4
FORGET_EVERY_S = 600.0
QUARANTINE_LOOK_S = 30.0


class Ipam:
    """One replica."""

    def __init__(self, rt: Runtime, config: IpamConfig, store: IpamStore) -> None:
        self.config = config
        self.networks: Mapping[str, Network] = {
            each.name: Network.of(each) for each in config.networks
        }
        self.store = store
        self._rt = rt
        self.recovery = Recoveries(store, config, rt.clock, rt.telemetry.log)
        self._relay = rt.relay([store.addresses])
        # Offsets below the frontier have been used; each replica guesses it and is corrected by the store.
        self._frontier: dict[str, int] = {}
        self._in_flight: set[str] = set()
        self._quarantine: dict[str, None] = {}  # as of the last look
        self._looked_at = float("-inf")
        self._allocations = rt.telemetry.counter("ipam_allocations", "Addresses given", "network")
        self._releases = rt.telemetry.counter("ipam_releases", "Addresses given back", "network")
        self._conflicts = rt.telemetry.counter("ipam_races_lost", "Lost compare-and-sets")
        self._stale = rt.telemetry.counter("ipam_stale_releases", "Releases of old generations")

    async def run(self) -> None:
        """Publish events and tidy up until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(lasting(self._relay.run()))
            group.create_task(lasting(self._forget()))
            group.create_task(lasting(self.recovery.run()))

    # -- allocation

    async def allocate(self, claim: Claim) -> tuple[Network, Address]:
        """The claim's address: the one it has, or a new one.

        Raises NotFound (no such network), Conflict (the attachment is over, or the requested address is taken),
        TooMany (the network is full), Unavailable.
        """
        network = self.networks.get(claim.network)
        if network is None or not network.admits(claim.instance):
            known = ", ".join(sorted(self.networks)) or "none"
            raise NotFound(f"there is no network {claim.network!r}; there are: {known}")
        held = await self.store.of_attachment(claim.attachment)
        if held is not None:
            return network, _own(held, claim)
        if await self.store.buried(claim.attachment, claim.host):
            raise Conflict(f"attachment {claim.attachment} is over; it gets no address any more")
        if why := self.recovery.waiting():
            raise Unavailable(why)
        address = _own(await self._allocate(network, claim), claim)
        if await self.store.buried(claim.attachment, claim.host):
            # It was released while we were at it; that release found nothing to free.
            await self.release(
                claim.attachment, address.generation, "over", "service:ipam", claim.host
            )
            raise Conflict(f"attachment {claim.attachment} is over; it gets no address any more")
        self._allocations.labels(network.name).inc()
        return network, address

    async def _allocate(self, network: Network, claim: Claim) -> Address:
        if claim.requested:
            return await self._allocate_this(network, claim)
        if claim.sticky_key:
            for address in await self.store.sticky(network.name, claim.sticky_key):
                taken = await self._take(address, claim)
                if taken is not None:
                    return taken
        for _ in range(MAX_TRIES):
            candidate = await self._next(network)
            if candidate is None:
                raise TooMany(await self._full(network), retry_after_s=5.0)
            try:
                taken = await self._take(candidate, claim)
            finally:
                self._in_flight.discard(candidate.id)
            if taken is not None:
                return taken
            held = await self.store.of_attachment(claim.attachment)
            if held is not None:
                return held  # the same claim raced with itself, and one of the two won
        raise Unavailable(f"network {network.name}: lost {MAX_TRIES} races for an address")

    async def _allocate_this(self, network: Network, claim: Claim) -> Address:
        offset = network.offset(claim.requested)
        if offset is None:
            raise Conflict(f"{claim.requested} is not an address that {network.name} gives out")
        current = await self.store.get(network.name, claim.requested)
        current = current or Address(network.name, claim.requested, offset)
        if current.state is not State.RELEASED:
            raise Conflict(f"{claim.requested} is {current.state} ({current.instance})")
        taken = await self._take(current, claim)
        if taken is None:
            raise Conflict(f"{claim.requested} has just been taken")
        return taken

    async def _next(self, network: Network) -> Address | None:
        """A candidate that nobody in this process is trying: never used before, or the longest rested."""
        name = network.name
        if name not in self._frontier:
            found = await self.store.frontier(name)
            self._frontier[name] = max(found, self._frontier.get(name, 0))
        offset = network.usable_from(self._frontier[name])
        if offset is not None:
            self._frontier[name] = offset + 1
            return Address(name, network.address(offset), offset)
        for address in await self.store.free(name, self._rt.clock.now(), CANDIDATES):
            # Whatever the store says: what is not free is nobody's to give.
            if address.state is State.RELEASED and address.id not in self._in_flight:
                self._in_flight.add(address.id)
                return address
        return await self._skipped(network)

    async def _skipped(self, network: Network) -> Address | None:
        """An address below the frontier that no document knows: whoever was to write it failed or died."""
        if await self.store.used(network.name) >= network.usable:
            return None
        used = {each.offset for each in await self.store.in_network(network.name)}
        offset = network.usable_from(0)
        while offset is not None:
            address = Address(network.name, network.address(offset), offset)
            if offset not in used and address.id not in self._in_flight:
                self._in_flight.add(address.id)
                return address
            offset = network.usable_from(offset + 1)
        return None

    async def _take(self, address: Address, claim: Claim) -> Address | None:
        now = self._rt.clock.now()
        taken = allocated(address, claim, now)
        event = ev.IpAllocated(
            network=taken.network,
            address=taken.address,
            generation=taken.generation,
            attachment=claim.attachment,
            instance=claim.instance,
            host=claim.host,
        )
        if not await self.store.save(taken, (event,), now, current_traceparent()):
            self._conflicts.inc()
            return None
        self._relay.kick()
        return taken

    async def _full(self, network: Network) -> str:
        counts = await self.store.counts(network.name, self._rt.clock.now())
        return (
            f"network {network.name} is full: of {network.usable} addresses {counts['allocated']} are allocated, "
            f"{counts['cooling']} are cooling down, {counts['quarantined']} are in quarantine"
        )

    # -- release

    async def release(
        self, attachment: str, generation: int, reason: str, actor: str, host: str = ""
    ) -> bool:
        """Free the attachment's address if it is of that generation; the attachment is over then.

        `host` says whose attachment is over, "" that of every host. False: there was nothing to free, or it is of
        another generation, which is audited and changes nothing.
        """
        buried = False
        for _ in range(MAX_TRIES):
            current = await self.store.of_attachment(attachment)
            now = self._rt.clock.now()
            decision = core.release(
                current,
                generation,
                now,
                reason=reason,
                actor=actor,
                cooldown_s=self.config.cooldown_s,
                hold_s=self.config.hold_s,
            )
            if decision.address is None and decision.events:
                self._stale.inc()
                assert current is not None
                await self._audit(current, decision.events)
                return False
            if not buried:
                # First the tombstone, then another look: a claim under way sees the one or is seen by the other.
                await self.store.bury(attachment, host, now)
                buried = True
                if decision.address is None:
                    continue
            if decision.address is None:
                return False
            if await self.store.save(decision.address, decision.events, now, current_traceparent()):
                self._releases.labels(decision.address.network).inc()
                self._relay.kick()
                return True
            self._conflicts.inc()
        raise Unavailable(f"attachment {attachment}: lost {MAX_TRIES} races")

    async def _audit(self, current: Address, events: tuple[Event, ...]) -> None:
        """The address does not change, but what was tried is told (lost if the address changes just now)."""
        if await self.store.save(current, events, self._rt.clock.now()):
            self._relay.kick()

    async def report(
        self, host: str, live: frozenset[str], held: Sequence[Reported] | None = None
    ) -> int:
        """A host says which attachments it has; returns how many leaked addresses were released.

        `held` are those that have an address; None: the host does not say.
        """
        await self._hear(host, live, held or ())
        await self._end_claims(host, live)
        if held is not None:
            await self.recovery.reported(host)
        now = self._rt.clock.now()
        found = core.leaks(await self.store.on_host(host), live, now, self.config.leak_grace_s)
        for address in (*found.missing, *found.found):
            await self.store.save(address, (), now)
        released = 0
        for address in found.leaked:
            released += await self.release(
                address.attachment, address.generation, "leaked", f"host:{host}", host
            )
        return released

    async def _hear(self, host: str, live: frozenset[str], held: Sequence[Reported]) -> None:
        """What a host says it has is not free, whatever the store says."""
        told = {f"{each.network}/{each.address}": each for each in held}
        for tries in range(MAX_TRIES):
            stored = await self.store.get_many(list(told))
            again: dict[str, Reported] = {}
            for name, each in told.items():
                known = stored.get(name) or self._unused(each)
                if known is None:
                    self._rt.telemetry.log.warning("no address of ours", host=host, address=name)
                    continue
                now, grace_s = self._rt.clock.now(), self.config.leak_grace_s
                verdict = core.heard(known, each, host, live, now, grace_s)
                if tries >= RACES and verdict.address is not None:
                    # No race any more: by the store the attachment has another address.
                    verdict = core.quarantined(known, each, host, now)
                if not await self._settle(verdict):
                    again[name] = each
            if not again:
                return
            told = again
        raise Unavailable(f"report of {host}: lost {MAX_TRIES} races")

    def _unused(self, told: Reported) -> Address | None:
        network = self.networks.get(told.network)
        offset = network.offset(told.address) if network else None
        return None if offset is None else Address(told.network, told.address, offset)

    async def _end_claims(self, host: str, live: frozenset[str]) -> None:
        """Claims of this host's on addresses in quarantine, as far as they are over."""
        config, now = self.config, self._rt.clock.now()
        if now - self._looked_at >= QUARANTINE_LOOK_S:
            self._looked_at = now
            found = await self.store.quarantined(self.networks)
            self._quarantine = {each.id: None for each in found}
        for address in (await self.store.get_many(list(self._quarantine))).values():
            if address.state is not State.QUARANTINED:
                continue
            now = self._rt.clock.now()
            verdict = core.unclaimed(
                address, host, live, now, config.leak_grace_s, config.cooldown_s
            )
            await self._settle(verdict)  # one that is being changed waits for the next report

    async def _settle(self, verdict: core.Verdict) -> bool:
        """Make it true; False when the address was changed meanwhile."""
        if verdict.gone_back:
            await self.recovery.gone_back()
        address = verdict.address
        if address is None:
            return True
        now = self._rt.clock.now()
        if not await self.store.save(address, verdict.events, now, current_traceparent()):
            return False
        if address.state is State.QUARANTINED:
            self._quarantine[address.id] = None
        if verdict.events:
            self._rt.telemetry.log.warning(
                "an address is not as stored",
                address=address.id,
                state=address.state.value,
                attachment=address.attachment,
            )
            self._relay.kick()
        return True

    async def _forget(self) -> None:
        while True:
            await self._rt.clock.sleep(FORGET_EVERY_S)
            try:
                while await self.store.forget(self._rt.clock.now() - self.config.tombstone_s):
                    pass
            except (Unavailable, Refused) as error:
                self._rt.telemetry.log.warning("tombstones are kept", error=str(error))


def _own(held: Address, claim: Claim) -> Address:
    """The address, if the claim is its attachment's. Raises Conflict: one name, two attachments."""
    for field in ("network", "host"):
        if getattr(held, field) != getattr(claim, field):
            raise Conflict(f"there is another attachment {claim.attachment}, of another {field}")
    return held


async def run(rt: Runtime) -> None:
    """The service."""
    config = rt.section(IpamConfig)
    ipam = Ipam(rt, config, await IpamStore.open(rt.store))
    await ipam.recovery.start(await restored_at(rt.store))
    hosts = await KnownHosts.open(rt.peers, rt.store, HOSTS)
    verify = TokenVerifier(rt.secret, rt.clock, hosts.generations)
    asking = rt.queue("hosts", hosts.ask, workers=1)
    app = rt.http_app(api.routes(ipam, rt.clock), authenticate=verify)
    async with rt.serve(app), asyncio.TaskGroup() as group:
        group.create_task(ipam.run())
        group.create_task(asking.run(all_hosts, ASK_EVERY_S))
