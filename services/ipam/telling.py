"""What ipam tells the world beside its answers: metrics, the log, and that there are events to publish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from libs.common.errors import Conflict, GantryError, NotFound, TooMany, Unavailable
from libs.common.outbox import Relay
from libs.common.store.base import Outcome
from libs.common.telemetry import Telemetry
from services.ipam.jobs import Resting, UsedUp
from services.ipam.pools import Pool
from services.ipam.quotas import OverQuota
from services.ipam.tally import Tally

_REASONS: tuple[tuple[type[GantryError], str], ...] = (
    (NotFound, "no_pool"),
    (OverQuota, "quota"),
    (Resting, "cooling"),
    (TooMany, "used_up"),
    (Conflict, "refused"),
    (Unavailable, "unavailable"),
)

COUNT_S = 1.0
"""Who is told that a network is full waits so long for the numbers."""
OLD_S = 5.0


class Telling:
    """One replica's."""

    def __init__(self, telemetry: Telemetry, relay: Relay, tally: Tally) -> None:
        self.log = telemetry.log
        self._relay = relay
        self._tally = tally
        self._allocations = telemetry.counter("ipam_allocations", "Addresses given", "network")
        self._releases = telemetry.counter("ipam_releases", "Addresses given back", "network")
        self._failures = telemetry.counter(
            "ipam_failures", "Claims that got nothing", "network", "reason"
        )
        self._races = telemetry.counter("ipam_races_lost", "Lost compare-and-sets")
        self._stale = telemetry.counter("ipam_stale_releases", "Releases of old generations")
        self._collected = telemetry.counter(
            "ipam_leaks_collected", "Addresses taken back from attachments that are lost"
        )
        self._conflicts = telemetry.counter(
            "ipam_conflicts", "Addresses that somebody else answered for", "network"
        )
        self._expired = telemetry.counter(
            "ipam_quarantines_expired", "Addresses that were in quarantine for long enough"
        )
        self._quota = telemetry.gauge(
            "ipam_quota_used_ratio", "Of a quota, what is used", "bu", "network"
        )
        self._quotas: set[tuple[str, str]] = set()
        self.seconds = telemetry.histogram("ipam_allocation_seconds", "From a claim to its answer")
        self._addresses = telemetry.gauge(
            "ipam_addresses", "Addresses of a pool by state", "network", "pool", "state"
        )
        self._utilisation = telemetry.gauge(
            "ipam_pool_utilisation_ratio",
            "Of a pool's addresses, those that are not free",
            "network",
            "pool",
        )
        self._shown: set[tuple[str, str]] = set()

    def kick(self) -> None:
        """There are events."""
        self._relay.kick()

    def tried(self, outcome: Outcome) -> None:
        """A compare-and-set of an address."""
        if outcome is not Outcome.OK:
            self._races.inc()

    def settled(self, network: str, fresh: int, failure: GantryError | None) -> None:
        """A claim is done with."""
        if failure is not None:
            self.failed(network, failure)
        elif fresh:
            self._allocations.labels(network).inc(fresh)

    def failed(self, network: str, error: GantryError) -> None:
        """A claim gets nothing."""
        reason = next((name for kind, name in _REASONS if isinstance(error, kind)), "other")
        self._failures.labels("" if reason == "no_pool" else network, reason).inc()

    def released(self, network: str) -> None:
        """An address was given back."""
        self._releases.labels(network).inc()

    def stale(self) -> None:
        """A release came too late."""
        self._stale.inc()

    def collected(self, count: int) -> None:
        """Leaks."""
        self._collected.inc(count)

    def conflicted(self, network: str) -> None:
        """An address is in quarantine, for somebody else answers for it."""
        self._conflicts.labels(network).inc()

    def expired(self, count: int) -> None:
        """Quarantines are over."""
        self._expired.inc(count)

    def quotas(self, used: Mapping[tuple[str, str], float]) -> None:
        """By business unit and network, the part that is used."""
        for name, ratio in used.items():
            self._quota.labels(*name).set(ratio)
        for name in self._quotas - used.keys():
            self._quota.remove(*name)
        self._quotas = set(used)

    async def used_up(self, pools: Sequence[Pool]) -> TooMany:
        """That there is no address, and where they all are. Never where others wait: it may be counted now."""
        found = [await self._tally.soon(each, COUNT_S) for each in pools]
        known = [each for each in found if each is not None]
        if len(known) < len(pools):  # nobody has been able to count them all yet
            return UsedUp(pools)
        counts, ages = [count for count, _ in known], [age_s for _, age_s in known]
        sums = {
            state: sum(each.states[state] for each in counts)
            for state in ("allocated", "held", "cooling", "quarantined", "reserved")
        }
        more = "".join(
            f", {sums[state]} are {state}" for state in ("held", "reserved") if sums[state]
        )
        when = f", as counted {max(ages):.0f} s ago" if max(ages) >= OLD_S else ""
        return UsedUp(
            pools,
            f": of {sum(each.usable for each in counts)} addresses {sums['allocated']} are allocated,"
            f" {sums['cooling']} are cooling down, {sums['quarantined']} are in quarantine{more}{when}",
        )

    async def look(self, pools: Iterable[Pool]) -> None:
        """Bring the gauges up to date. Raises Unavailable."""
        shown = set()
        for pool in pools:
            count = await self._tally.of(pool)
            name = (pool.network, pool.name)
            shown.add(name)
            for state, value in (("free", count.free), *count.states.items()):
                self._addresses.labels(*name, state).set(value)
            self._addresses.labels(*name, "excluded").set(count.excluded)
            self._utilisation.labels(*name).set(count.used_ratio)
        for name in self._shown - shown:
            self._utilisation.remove(*name)
            for state in (
                *("free", "allocated", "quarantined", "held", "cooling", "reserved", "excluded"),
            ):
                self._addresses.remove(*name, state)
        self._shown = shown
