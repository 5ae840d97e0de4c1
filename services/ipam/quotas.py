"""Quotas of addresses: a business unit's allocated, held and reserved ones, over all networks or in one.

Never exceeded by any number of replicas, and without counting at each allocation: a document a quota has an upper
bound of what is used, and who is about to allocate raises it first, by compare-and-set, with a ticket that says for
what. Releases lower nothing; when the bound reaches the limit it is counted anew, and tickets of addresses that are not
there yet are added. What fails in between makes the bound too high at worst, until then. See docs/adr/0022.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from libs.common.clock import Clock
from libs.common.errors import TooMany, Unavailable
from libs.common.store.base import Body, Collection, Op, Where, Write, eq
from services.ipam.model import State
from services.ipam.quota_rules import Quota, Rules
from services.ipam.store import IpamStore

TICKET_S = 120.0  # longer than a call to the store may hang
RECOUNT_S = 0.2
PART = 20.0  # of the time, at most one part in so many goes into counting
TRIES = 32


@dataclass(frozen=True, slots=True)
class Wish:
    """An address that is about to count for a business unit."""

    bu: str
    network: str
    attachment: str  # or what else it is for
    family: int
    turn: str  # of the replica that wishes it: others may wish the same

    @property
    def ticket(self) -> str:
        """Its name."""
        return f"{self.family}|{self.turn}|{self.attachment}"


@dataclass(frozen=True, slots=True)
class Use:
    """A quota's document. `bound` is None until it has been counted; tickets are included in it."""

    bound: int | None = None
    tickets: Mapping[str, float] = field(default_factory=dict)  # with when they run out
    version: int = 0


@dataclass(slots=True)
class _Recounted:
    """When a replica may count again."""

    again_at: float = float("-inf")


class OverQuota(TooMany):
    """There is room in the network, but not for this business unit."""


class Quotas:
    """One replica's."""

    def __init__(
        self, rules: Rules, uses: Collection, store: IpamStore, clock: Clock, holder: str
    ) -> None:
        self.rules = rules
        self._uses = uses
        self._store = store
        self._clock = clock
        self._holder = holder
        self._turns = 0
        self._recounted: dict[str, _Recounted] = defaultdict(_Recounted)
        self._settled: dict[str, dict[str, bool]] = defaultdict(dict)  # scope → ticket → came about

    def turn(self) -> str:
        """What tells these wishes from all others."""
        self._turns += 1
        return f"{self._holder}.{self._turns}"

    async def admit(self, wishes: Sequence[Wish]) -> dict[Wish, TooMany]:
        """Set room aside for these; those of them for which there is none, and why. Raises Unavailable.

        All that are admitted must be handed to `settle`.
        """
        rules = await self.rules.current()
        refused: dict[Wish, TooMany] = {}
        if not rules:
            return refused
        admitted: dict[str, list[Wish]] = {}
        for scope, quota, those in _scopes(rules, wishes):
            still = [each for each in those if each not in refused]
            room = await self._set_aside(scope, quota, still)
            admitted[scope] = still[:room]
            for each in still[room:]:
                refused[each] = OverQuota(
                    f"business unit {quota.bu} has used up its quota of {quota.limit} addresses{quota.where}",
                    retry_after_s=5.0,
                )
        for scope, those in admitted.items():
            # What another scope has refused needs no room here.
            self._note(scope, {each.ticket: False for each in those if each in refused})
        return refused

    async def settle(self, wishes: Iterable[tuple[Wish, bool]]) -> None:
        """What became of admitted ones: True when the address counts now. Raises nothing: it is tidied up later."""
        came = dict(wishes)
        failed = False
        for scope, _, those in _scopes(self.rules.known, list(came)):
            self._note(scope, {each.ticket: came[each] for each in those})
            failed = failed or not all(came[each] for each in those)
        if failed:
            try:
                for scope in list(self._settled):
                    await self._tidy(scope)
            except Unavailable:
                return

    def _note(self, scope: str, tickets: Mapping[str, bool]) -> None:
        if tickets:
            self._settled[scope].update(tickets)

    async def used(self, quota: Quota) -> int:
        """How much of a quota is used, counted now."""
        return await self._count(quota)

    # -- one quota

    async def _set_aside(self, scope: str, quota: Quota, wishes: Sequence[Wish]) -> int:
        """Room for as many of the wishes as possible, the first ones first."""
        if not wishes:
            return 0
        for _ in range(TRIES):
            use = self._tidied(scope, await self._get(scope))
            bound = use.bound
            if bound is None or bound + len(wishes) > quota.limit:
                fresh = await self._recount(scope, quota, use)
                if fresh is None:
                    continue
                use, bound = fresh, fresh.bound
            assert bound is not None
            room = max(0, min(len(wishes), quota.limit - bound))
            until = self._clock.now() + TICKET_S
            tickets = {**use.tickets, **{each.ticket: until for each in wishes[:room]}}
            if not room or await self._save(
                scope, replace(use, bound=bound + room, tickets=tickets)
            ):
                return room
        raise Unavailable(f"the quota of {scope} is being changed by too many")

    async def _recount(self, scope: str, quota: Quota, use: Use) -> Use | None:
        """The use with its bound counted and saved; as it is when that was done just now; None after a lost race."""
        began = self._clock.monotonic()
        if use.bound is not None and began < self._recounted[scope].again_at:
            return use
        now = self._clock.now()
        open_tickets = {name: until for name, until in use.tickets.items() if until > now}
        # First what is there, then the count: what is found here is in it, what comes in between counts twice.
        names = sorted({name.split("|", 2)[2] for name in open_tickets})
        there = await self._store.of_attachments(names) if names else {}
        for name in list(open_tickets):
            family, _, attachment = name.split("|", 2)
            if any(str(each.family) == family for each in there.get(attachment, ())):
                del open_tickets[name]
        bound = await self._count(quota) + len(open_tickets)
        fresh = Use(bound, open_tickets, use.version)
        if not await self._save(scope, fresh):
            return None
        ended = self._clock.monotonic()
        self._recounted[scope].again_at = ended + max(RECOUNT_S, PART * (ended - began))
        return replace(fresh, version=use.version + 1)

    async def _count(self, quota: Quota) -> int:
        own = [eq("bu", quota.bu)]
        if quota.network:
            own.append(eq("network", quota.network))
        over = (
            *own,
            eq("state", State.RELEASED.value),
            Where("free_at", Op.LE, self._clock.now()),
        )
        return max(0, await self._store.count(own) - await self._store.count(over))

    def _tidied(self, scope: str, use: Use) -> Use:
        """Without the tickets that are settled."""
        settled = self._settled.get(scope)
        if not settled or use.bound is None:
            return use
        here = {name: came for name, came in settled.items() if name in use.tickets}
        failed = sum(not came for came in here.values())
        tickets = {name: until for name, until in use.tickets.items() if name not in here}
        return replace(use, bound=use.bound - failed, tickets=tickets)

    async def _tidy(self, scope: str) -> None:
        for _ in range(TRIES):
            stored = await self._get(scope)
            use = self._tidied(scope, stored)
            if use == stored or await self._save(scope, use):
                return

    async def _get(self, scope: str) -> Use:
        doc = await self._uses.get(scope)
        return from_body(doc.version, doc.body) if doc else Use()

    async def _save(self, scope: str, use: Use) -> bool:
        settled = dict(self._settled.get(scope, {}))
        (result,) = await self._uses.replace_many([Write(scope, use.version, to_body(use))])
        if result.ok:
            for name in settled:
                if name not in use.tickets:
                    self._settled[scope].pop(name, None)
        return result.ok


def _scopes(
    rules: Mapping[str, Sequence[Quota]], wishes: Sequence[Wish]
) -> list[tuple[str, Quota, list[Wish]]]:
    """The quotas that wishes count for, with theirs."""
    found: dict[str, tuple[Quota, list[Wish]]] = {}
    for wish in wishes:
        for quota in rules.get(wish.bu, ()):
            if quota.network in ("", wish.network):
                found.setdefault(quota.scope, (quota, []))[1].append(wish)
    return [(scope, quota, those) for scope, (quota, those) in sorted(found.items())]


def to_body(use: Use) -> dict[str, Any]:
    """The document's body; tickets as a list, since their names may be anything."""
    return {"bound": use.bound, "tickets": [[name, until] for name, until in use.tickets.items()]}


def from_body(version: int, body: Body) -> Use:
    """The use of a document."""
    return Use(body["bound"], dict(body["tickets"]), version)
