"""attach_ms, detach_ms: an ADD and a DEL at hostd, by its socket, with a real Open vSwitch and the real ipam.

`attach_ms` and `attach_p99_ms` are those of one caller, who waits for each answer; `_c8` and `_c32` those of so many
callers at a time; `_unbatched` the same with `hostd.batch` 1, where each port is a change of the switch of its own.
A namespace, its veth, address and route, the port and its rules are there when an ADD answers.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.bench.report import Report
from tests.network.site import NETWORKS, NetHost, Site, open_site

CALLERS = (1, 8, 32)
ADDS = 160  # attachments at a time
# A DEL waits for company, and a lone caller for each: the others are taken down together, untimed.
DELETES_OF_ONE = 25
ROUNDS = 2


@dataclass
class Times:
    """Milliseconds of each call, and seconds of all of them."""

    calls: list[float] = field(default_factory=list)
    took_s: float = 0.0

    def percentile(self, share: float) -> float:
        """By nearest rank."""
        ordered = sorted(self.calls)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def note(self) -> str:
        """What a figure leaves out."""
        rate = len(self.calls) / self.took_s
        return f"{len(self.calls)} calls, {rate:.0f}/s, p90 {self.percentile(0.9):.1f}, most {max(self.calls):.1f}"


@dataclass
class Variant:
    """A host with or without batches, and its times by what was called and how many callers there were."""

    suffix: str
    host: NetHost
    times: dict[tuple[str, int], Times] = field(default_factory=dict)

    def of(self, what: str, callers: int) -> Times:
        """The times of one figure."""
        return self.times.setdefault((what, callers), Times())


async def measure(report: Report) -> None:
    """With batches and without, in turns: what disturbs the machine disturbs both."""
    async with _site({}) as batched, _site({"batch": 1}) as unbatched:
        variants = (Variant("", batched.hosts[0]), Variant("_unbatched", unbatched.hosts[0]))
        for turn in range(-1, ROUNDS):  # the first one warms up
            for callers in CALLERS:
                for each in variants:
                    await _turn(each, callers, turn)
    for callers in CALLERS:
        for each in variants:
            _tell(report, each, callers)


def _site(settings: Mapping[str, Any]) -> AbstractAsyncContextManager[Site]:
    return open_site(1, hostd={"reconcile_s": 30, **settings})


def _tell(report: Report, variant: Variant, callers: int) -> None:
    at = "" if callers == 1 else f"_c{callers}"
    for what in ("attach", "detach"):
        times = variant.of(what, callers)
        middle = statistics.median(times.calls)
        report.add(f"{what}_ms{at}{variant.suffix}", middle, "ms", note=times.note)
        report.add(f"{what}_p99_ms{at}{variant.suffix}", times.percentile(0.99), "ms")


async def _turn(variant: Variant, callers: int, turn: int) -> None:
    host, kept = variant.host, variant if turn >= 0 else Variant("", variant.host)
    networks = [str(each["name"]) for each in NETWORKS]
    names = [f"bench-{callers}-{turn}-{n}" for n in range(ADDS if turn >= 0 else callers)]
    adds = [partial(host.add, name, networks[n % 3]) for n, name in enumerate(names)]
    await _all(callers, adds, kept.of("attach", callers))
    deletes = [partial(host.delete, name) for name in names]
    timed = DELETES_OF_ONE if callers == 1 else len(deletes)
    await _all(callers, deletes[:timed], kept.of("detach", callers))
    await _all(max(CALLERS), deletes[timed:], Times())


async def _all(callers: int, calls: Sequence[Callable[[], Awaitable[Any]]], times: Times) -> None:
    """All calls, `callers` at a time."""
    waiting = iter(calls)

    async def caller() -> None:
        for call in waiting:
            began = time.perf_counter()
            await call()
            times.calls.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    times.took_s += time.perf_counter() - began
