"""storm_*: 2,000 runs in a minute on one host leave nothing behind, and cost the engine nothing; all of it has bounds.

First all in one shared container, which stays, and the same again (`storm_again_*`): what is not there before the first
storm has grown by the second, which may add little, and costs the engine as much. Then with the usual settings and
several users' runs, so that containers are made, used up and replaced in the middle of it.
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
Bounds = Mapping[str, tuple[float, float, str]]
# What may have grown when the storm is over: (at most, for each container more, unit). This process has the executor,
# and what drives and measures it; an engine that makes and removes containers grows at first, whatever is left of them.
BOUNDS: Bounds = {
    "namespaces": (0.0, 1.0, ""),
    "fds": (8.0, 48.0, ""),
    "left": (4.0, 2.0, "files"),
    "rss": (32.0, 1.0, "MiB"),
    "engine_rss": (48.0, 16.0, "MiB"),
    "pool_rss": (512.0, 1024.0, "KiB"),
}
AGAIN = {**BOUNDS, "rss": (4.0, 1.0, "MiB")}  # 2 KiB a run
ENGINE_CORES = 0.02
"""It has no part in a run; at rest it takes 0.002 by itself, and for a container's life 0.2 s."""
ENGINE_RATIO = 1.3


async def one_container(report: Report, host: Host) -> None:
    """What a run in a storm costs, and what is left of all of them; and whether a second storm is like the first."""
    await host.run(20)
    first_s = await _in_one(report, host, "storm", BOUNDS)
    again_s = await _in_one(report, host, "storm_again", AGAIN)
    note = f"CPU of the second storm by that of the first: {again_s:.3f} s, {first_s:.3f} s"
    report.add("storm_again_engine_cpu_ratio", again_s / first_s, "", None, note, ENGINE_RATIO)


async def _in_one(report: Report, host: Host, key: str, bounds: Bounds) -> float:
    """One storm in the container that there is; the engine's CPU, seconds."""
    shown = await host.containers()  # one, unless a storm has missed its bound already

    def cpu_s() -> tuple[float, float, float]:
        return own_cpu_s(), host.meter.cpu_s(), sum(map(pool_cpu_s, shown))

    before, cpu = await state(host), cpu_s()
    took_s, tasks, _ = await _storm(host, RUNS, (None,))
    spent = [b - a for a, b in zip(cpu, cpu_s(), strict=True)]
    parts = [each * 1000 / RUNS for each in spent]
    start = host.agent.start_ms(tasks)
    add = report.add
    add(f"{key}_start_ms", percentile(start, 0.5), "ms", None, f"{RUNS} in {took_s:.0f} s")
    add(f"{key}_start_p99_ms", percentile(start, 0.99), "ms", None, f"most {start[-1]:.0f}")
    note = "a run: executor {:.2f}, engine {:.2f}, container {:.2f}".format(*parts)
    add(f"{key}_cpu_ms", sum(parts), "ms", None, note)
    add(f"{key}_engine_cpu_share", spent[1] / took_s, "cores", most=ENGINE_CORES)
    await _judge(report, host, before, key, 0, bounds)
    return spent[1]


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
    report: Report,
    host: Host,
    before: Mapping[str, float],
    key: str,
    more: int,
    bounds: Bounds = BOUNDS,
) -> None:
    """Wait until no more is left than there may be with `more` containers; tell how much it is."""
    deadline = time.perf_counter() + SETTLE_S
    while True:
        after = await state(host)
        if not grown(before, after, more, bounds) or time.perf_counter() > deadline:
            break
        await asyncio.sleep(0.5)
    allowed = allowance(before, after, more, bounds)
    for each, value in after.items():
        note = f"before {before[each]:.1f}, after {value:.1f}"
        unit = bounds[each][2] if each in bounds else ""
        growth = value - before[each]
        report.add(f"{key}_{each}_growth", growth, unit, None, note, most=allowed[each])


def allowance(
    before: Mapping[str, float], after: Mapping[str, float], more: int, bounds: Bounds = BOUNDS
) -> dict[str, float]:
    """By how much each may have grown. There may be `more` containers, with what each of those that came has."""
    came = max(0.0, after["containers"] - before["containers"])
    most = {key: bound + each * came for key, (bound, each, _) in bounds.items()}
    return {"containers": float(more), **most}


def grown(
    before: Mapping[str, float], after: Mapping[str, float], more: int, bounds: Bounds = BOUNDS
) -> list[str]:
    """What has grown beyond its bound."""
    allowed = allowance(before, after, more, bounds)
    return [key for key, most in allowed.items() if after[key] - before[key] > most]


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
