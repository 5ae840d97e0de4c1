"""Claims on their way to addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from libs.common.errors import Conflict, GantryError, TooMany
from services.ipam.model import Address, Claim
from services.ipam.pools import Network, Pool
from services.ipam.stock import Stock


@dataclass(frozen=True, slots=True)
class Asked:
    """A claim, and the trace that it belongs to."""

    claim: Claim
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What an attachment has: an address of each family, IPv4 first."""

    network: Network
    addresses: tuple[Address, ...]

    @property
    def primary(self) -> Address:
        """The one that answers are about where one is meant."""
        return self.addresses[0]


@dataclass(eq=False)
class Job:
    """A claim on its way. `only`: a family's candidates, when not any address will do."""

    asked: Asked
    network: Network
    bu: str
    needs: tuple[int, ...] = ()
    have: dict[int, Address] = field(default_factory=dict)
    fresh: list[Address] = field(default_factory=list)  # of `have`: allocated by this very job
    pools: dict[int, list[Pool]] = field(default_factory=dict)
    rather: dict[int, list[Address]] = field(default_factory=dict)  # tried first
    only: frozenset[int] = frozenset()  # families in which nothing else will do
    failure: GantryError | None = None

    @property
    def claim(self) -> Claim:
        """Without the trace."""
        return self.asked.claim

    def missing(self) -> list[int]:
        """Families that it still needs an address of."""
        if self.failure is not None:
            return []
        return [family for family in self.needs if family not in self.have]

    def fail(self, error: GantryError) -> None:
        """It gets nothing; the first reason counts."""
        self.failure = self.failure or error


@dataclass(frozen=True, slots=True, eq=False)
class Try:
    """An address that a job is about to take."""

    job: Job
    family: int
    address: Address
    stock: Stock | None  # None: not a candidate of the stock's


def untried(tries: Sequence[Try]) -> None:
    """Their candidates are free for others again."""
    for each in reversed(tries):
        if each.stock is not None:
            each.stock.untried([each.address])


class Resting(TooMany):
    """The very address that is asked for was somebody else's until a moment ago."""

    def __init__(self, address: str, for_s: float) -> None:
        super().__init__(f"{address} is cooling down, and free in {for_s:.0f} s", for_s)


class UsedUp(TooMany):
    """None of these pools, of one network and family, has an address left; `more` says what has become of them."""

    def __init__(self, pools: Sequence[Pool], more: str = "") -> None:
        self.pools = tuple(pools)
        which = "" if len(pools) == 1 else f" (IPv{pools[0].family})"
        super().__init__(f"network {pools[0].network}{which} is full{more}", retry_after_s=5.0)


def wanted(claim: Claim) -> str:
    """What a claim asks for by name."""
    return claim.requested or f"reservation {claim.reservation}"


def same_job(known: Job, asked: Asked) -> Job:
    """A claim that is in the batch twice. Raises Conflict when the two differ."""
    for name in ("network", "host"):
        if getattr(known.claim, name) != getattr(asked.claim, name):
            raise _another(asked.claim, name)
    return known


def answer(job: Job) -> Allocation | GantryError:
    """What came of it."""
    if job.failure is not None:
        return job.failure
    addresses = tuple(job.have[family] for family in sorted(job.have))
    return Allocation(job.network, addresses)


def own(held: Address, claim: Claim) -> Address:
    """The address, if the claim is its attachment's. Raises Conflict: one name, two attachments."""
    for name in ("network", "host"):
        if getattr(held, name) != getattr(claim, name):
            raise _another(claim, name)
    return held


def _another(claim: Claim, name: str) -> Conflict:
    return Conflict(f"there is another attachment {claim.attachment}, of another {name}")
