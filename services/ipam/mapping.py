"""A pool as a map: runs of neighbouring addresses in the same state, so that a huge empty range is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from libs.common.actor import Actor
from services.ipam.model import Address, Shown
from services.ipam.pools import Pool, Span, without
from services.ipam.store import IpamStore
from services.ipam.views import sees

MAX_RUNS = 2000
PAGE = 1000
MAX_READ = 20 * PAGE


@dataclass(frozen=True, slots=True)
class Run:
    """So many addresses from an offset on."""

    first: int
    count: int
    state: Shown
    instance: str = ""
    since: float = 0.0  # of a single address that somebody has

    def view(self) -> dict[str, Any]:
        """For readers."""
        view: dict[str, Any] = {
            "first": self.first,
            "count": self.count,
            "state": self.state.value,
        }
        return {**view, "instance": self.instance, "since": self.since} if self.instance else view


async def runs(
    store: IpamStore, pool: Pool, span: Span, now: float, actor: Actor | None
) -> tuple[list[Run], int | None]:
    """The runs of a span of offsets, and where to go on; None: that is all. Without an actor nobody is named.

    It costs as much as addresses are used in there, up to MAX_READ.
    """
    found: list[Run] = []
    at, last = span
    read = 0
    while at <= last:
        page = await store.between(pool.network, pool.address(at), pool.address(last), PAGE)
        for each in page:
            offset = pool.place(each.address)
            assert offset is not None
            found = _with(found, _unused(pool, at, offset - 1))
            found = _with(found, iter([_run(pool, offset, each, now, actor)]))
            at = offset + 1
        read += len(page)
        if len(page) < PAGE:
            found = _with(found, _unused(pool, at, last))
            at = last + 1
        if len(found) > MAX_RUNS or read >= MAX_READ:
            break
    return _cut(found, at, last)


def _cut(found: list[Run], at: int, last: int) -> tuple[list[Run], int | None]:
    if len(found) > MAX_RUNS:
        return found[:MAX_RUNS], found[MAX_RUNS].first
    return found, (at if at <= last else None)


def _run(pool: Pool, offset: int, address: Address, now: float, actor: Actor | None) -> Run:
    state = address.shown(now)
    if state in (Shown.FREE, Shown.COOLING, Shown.EXCLUDED):
        excluded = pool.usable_from(offset) != offset
        return Run(offset, 1, Shown.EXCLUDED if excluded else state)
    if actor is None or not address.instance or not sees(actor, address):
        return Run(offset, 1, state)
    return Run(offset, 1, state, address.instance, address.since)


def _unused(pool: Pool, first: int, last: int) -> Iterator[Run]:
    """Addresses without documents."""
    if first > last:
        return
    at = first
    for start, end in without((first, last), pool.excluded):
        if start > at:
            yield Run(at, start - at, Shown.EXCLUDED)
        yield Run(start, end - start + 1, Shown.FREE)
        at = end + 1
    if at <= last:
        yield Run(at, last - at + 1, Shown.EXCLUDED)


def _with(found: list[Run], more: Iterator[Run]) -> list[Run]:
    """In place: joined to the last one where they are alike."""
    for each in more:
        before = found[-1] if found else None
        if before and replace(before, first=0, count=0) == replace(each, first=0, count=0):
            found[-1] = replace(before, count=before.count + each.count)
        else:
            found.append(each)
    return found
