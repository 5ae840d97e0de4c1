"""storm_*: 2,000 runs in a minute on one host leave nothing behind. Raises when something has grown beyond its bound.

First all in one shared container, which stays; then with the usual settings and several users' runs, so that containers
are made, used up and replaced in the middle of it.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from services.executor.config import ExecutorConfig
from tests.bench.executor import Host, fds, own_cpu_s, percentile, pool_cpu_s, rss_kib
from tests.bench.report import Report

RUNS, PER_S = 2000, 2000 / 60
USERS_RUNS = 3000
USERS = (None, None, None, None, None, None, None, None, "1001", "1002")
"""Whose runs follow each other, over and over: so many of one user's use up a container on the way."""
SETTLE_S = 30.0
# What may have grown when the storm is over: (at most, for each container more, unit). This process has the executor,
# and what drives and measures it; an engine that makes and removes containers grows at first, whatever is left of them.
BOUNDS = {
    "namespaces": (0.0, 1.0, ""),
    "fds": (8.0, 48.0, ""),
    "left": (4.0, 2.0, "files"),
    "rss": (32.0, 1.0, "MiB"),
    "engine_rss": (48.0, 16.0, "MiB"),
    "pool_rss": (512.0, 1024.0, "KiB"),
}


class Grown(AssertionError):
    """More is left of a storm than there may be."""


async def one_container(report: Report, host: Host) -> None:
    """What a run in a storm costs, and what is left of all of them."""
    await host.run(20)
    (shown,) = await host.containers()
    before = await state(host)
    cpu = (own_cpu_s(), host.meter.cpu_s(), pool_cpu_s(shown))
    took_s, tasks, _ = await _storm(host, RUNS, (None,))
    after_cpu = (own_cpu_s(), host.meter.cpu_s(), pool_cpu_s(shown))
    parts = [(b - a) * 1000 / RUNS for a, b in zip(cpu, after_cpu, strict=True)]
    start = host.agent.start_ms(tasks)
    add = report.add
    add("storm_start_ms", percentile(start, 0.5), "ms", None, f"{RUNS} in {took_s:.0f} s")
    add("storm_start_p99_ms", percentile(start, 0.99), "ms", None, f"most {start[-1]:.0f}")
    note = "a run: executor {:.2f}, engine {:.2f}, container {:.2f}".format(*parts)
    add("storm_cpu_ms", sum(parts), "ms", None, note)
    add("storm_engine_cpu_share", parts[1] * RUNS / took_s / 1000, "cores")
    await _judge(report, host, before, "storm", 0)


async def many_containers(report: Report, host: Host) -> None:
    """The same with the usual settings, and one container used up."""
    users = dict.fromkeys(USERS)
    for user in users:
        await host.run(5, user=user)
    before, made = await state(host), host.namespaces.made
    took_s, tasks, most = await _storm(host, USERS_RUNS, USERS)
    start = host.agent.start_ms(tasks)
    note = f"{USERS_RUNS} in {took_s:.0f} s; {len(users)} users"
    add = report.add
    add("storm_users_start_ms", percentile(start, 0.5), "ms", None, note)
    add("storm_users_start_p99_ms", percentile(start, 0.99), "ms", None, f"most {start[-1]:.0f}")
    # While a new container is made, more runs come to wait than it has room for; what is made for them stays a while.
    more = math.ceil(most / _usual("pool_tasks"))
    await _judge(report, host, before, "storm_users", more)
    came = host.namespaces.made - made
    went = before["containers"] + came - len(await host.containers())
    note = f"{came:g} came; {host.namespaces.most} at a time"
    add("storm_users_replaced", went, "containers", None, note)
    if went < 1:
        uses = _usual("pool_uses")
        raise RuntimeError(f"no container was used up by {uses} runs: nothing was tried")


def _usual(setting: str) -> int:
    return int(ExecutorConfig.model_fields[setting].default)


async def _storm(
    host: Host, runs: int, users: Sequence[str | None]
) -> tuple[float, list[str], int]:
    """So many, evenly, PER_S; how many seconds until the last had ended, their tasks, and the most at a time."""
    agent, most = host.agent, 0
    began, tasks = time.perf_counter(), []
    for n in range(runs):
        tasks.append(agent.launch(users[n % len(users)]))
        most = max(most, len(agent.asked) - len(agent.ended))
        due = began + (n + 1) / PER_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await agent.until_ended()
    return time.perf_counter() - began, tasks, most


async def _judge(
    report: Report, host: Host, before: Mapping[str, float], key: str, more: int
) -> None:
    """Wait until no more is left than there may be with `more` containers; tell how much it is. Raises Grown."""
    deadline = time.perf_counter() + SETTLE_S
    while True:
        after = await state(host)
        beyond = grown(before, after, more)
        if not beyond or time.perf_counter() > deadline:
            break
        await asyncio.sleep(0.5)
    for each, value in after.items():
        note = f"before {before[each]:.1f}, after {value:.1f}"
        unit = BOUNDS[each][2] if each in BOUNDS else ""
        report.add(f"{key}_{each}_growth", value - before[each], unit, None, note)
    if beyond:
        raise Grown("; ".join(beyond))


def grown(before: Mapping[str, float], after: Mapping[str, float], more: int) -> list[str]:
    """What has grown beyond its bound, in words. There may be `more` containers, with what each of them has."""
    containers = after["containers"] - before["containers"]
    bounds = {"containers": (float(more), "")}
    for key, (bound, each, unit) in BOUNDS.items():
        bounds[key] = (bound + each * max(0.0, containers), unit)
    return [
        f"{key}: from {before[key]:g} to {after[key]:g} {unit}".rstrip()
        + f", {bound:g} more at most"
        for key, (bound, unit) in bounds.items()
        if after[key] - before[key] > bound
    ]


async def state(host: Host) -> dict[str, float]:
    """What may not grow."""
    shown = await host.containers()
    inits = [pid for each in shown if (pid := _pid(each))]
    engine = host.meter.pids()
    files = (
        file
        for kind in ("out", "scratch")
        for place in host.places.glob(f"*/{kind}")
        for file in place.iterdir()
    )
    return {
        "containers": len(await host.docker.containers.list(all=True)),
        "namespaces": host.namespaces.now,
        "fds": fds(os.getpid()) + sum(fds(pid) for pid in (*inits, *engine)),
        "left": sum(1 for _ in files),
        "rss": rss_kib(os.getpid()) / 1024,
        "engine_rss": sum(rss_kib(pid) for pid in engine) / 1024,
        "pool_rss": sum(rss_kib(pid) for pid in inits),
    }


def _pid(shown: Mapping[str, Any]) -> int:
    return int(shown["State"]["Pid"])
