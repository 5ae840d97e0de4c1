"""service_start_s, service_start_cpu_s, service_stop_s, service_rss_mib: the worst service of an idle cluster of many
processes, hostd with them.

A start is from the process' exec until /readyz says 200 (it leads, it reads, it writes); a stop from SIGTERM until the
process is gone. START_S, STOP_S and RSS_MIB are what was promised. Of a start both are bound: the clock, which sees
what a service waits for, and its CPU, which a busy machine hardly changes: where only the first is missed, look at what
else runs. Each is the median of ROUNDS. The peer is an interpreter that only imports what all of them need. Kafka and
the MongoDB-wire server are real; service_stop_kafka_frozen_s and service_stop_mongo_frozen_s are stops while that one
answers nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from infra.local.distributed import SERVICES, DistributedStack
from infra.local.layout import Layout
from infra.local.processes import Daemon, alive
from infra.local.stack import answers
from tests.bench.containers import rss_mib
from tests.bench.path import cpu_s
from tests.bench.report import Report

ROUNDS = 5
START_S, STOP_S, RSS_MIB = 2.0, 10.0, 120.0
HOSTD = "hostd-h1"
IMPORTS = "import aiohttp, aiokafka, motor.motor_asyncio, pydantic, opentelemetry.sdk.trace"
IDLE_S = 10.0
FROZEN_S = 5.0  # so that calls to it hang already
PATIENCE_S = 60.0
POLL_S = 0.01


@dataclass(frozen=True)
class Started:
    """Seconds of a start: of the clock, and of the process' CPU."""

    clock_s: float
    cpu_s: float


async def measure(report: Report) -> None:
    """All services, one after the other."""
    with tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp") as directory:
        cluster = f"bench-{directory[-4:].lower().replace('_', 'x')}"
        stack = DistributedStack(Layout(cluster, Path(directory), cooldown_s=0))
        try:
            await stack.start()
            await asyncio.sleep(IDLE_S)
            await _at_rest(report, stack)
            for server in ("kafka", "mongo"):
                stops = await _without(stack, server)
                _worst(report, f"service_stop_{server}_frozen_s", stops, "s", STOP_S)
        finally:
            await stack.destroy()


async def _at_rest(report: Report, stack: DistributedStack) -> None:
    """Memory, stops and starts while everything answers."""
    names = {**{each: f"{each}-1" for each in SERVICES}, "hostd": HOSTD}
    memory = {each: rss_mib(_daemon(stack, name).pid()) for each, name in names.items()}
    _worst(report, "service_rss_mib", memory, "MiB", RSS_MIB)
    bare = statistics.median([await _importing() for _ in range(ROUNDS)])
    stops, clock, cpu = {}, {}, {}
    for each, name in names.items():
        rounds = [(await _stop(stack, name), await _start(stack, name)) for _ in range(ROUNDS)]
        stops[each] = statistics.median(stop for stop, _ in rounds)
        clock[each] = statistics.median(start.clock_s for _, start in rounds)
        cpu[each] = statistics.median(start.cpu_s for _, start in rounds)
    _worst(report, "service_stop_s", stops, "s", STOP_S)
    _worst(report, "service_start_s", clock, "s", START_S, peer=bare)
    _worst(report, "service_start_cpu_s", cpu, "s", START_S)


def _worst(
    report: Report,
    key: str,
    values: dict[str, float],
    unit: str,
    most: float,
    peer: float | None = None,
) -> None:
    note = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    report.add(key, max(values.values()), unit, peer, note, most)


async def _importing() -> float:
    began = time.perf_counter()
    bare = await asyncio.create_subprocess_exec(sys.executable, "-c", IMPORTS)
    assert await bare.wait() == 0
    return time.perf_counter() - began


def _daemon(stack: DistributedStack, name: str) -> Daemon:
    return stack.hosts[0].hostd if name == HOSTD else stack.service(name)


async def _stop(stack: DistributedStack, name: str) -> float:
    pid = _daemon(stack, name).pid()
    assert pid is not None
    began = time.perf_counter()
    os.kill(pid, signal.SIGTERM)
    while alive(pid):
        _within(began, f"{name} to stop")
        await asyncio.sleep(POLL_S)
    return time.perf_counter() - began


async def _start(stack: DistributedStack, name: str) -> Started:
    began = time.perf_counter()
    stack.launch(name)
    while not await _ready(stack, name):
        _within(began, f"{name} to be ready")
        await asyncio.sleep(POLL_S)
    pid = _daemon(stack, name).pid()
    assert pid is not None
    return Started(time.perf_counter() - began, cpu_s(pid))


async def _ready(stack: DistributedStack, name: str) -> bool:
    if name == HOSTD:
        connector = aiohttp.UnixConnector(str(stack.hosts[0].run_dir / "hostd.sock"))
        return await answers("http://localhost/readyz", connector)
    return await answers(f"{stack.url_of(name)}/readyz")


async def _without(stack: DistributedStack, server: str) -> dict[str, float]:
    """Seconds that each service takes to stop while a server is frozen; all run again afterwards."""
    await stack.servers[server].pause()
    try:
        await asyncio.sleep(FROZEN_S)
        stops = {each: await _stop(stack, f"{each}-1") for each in SERVICES}
    finally:
        await stack.servers[server].resume()
    for each in SERVICES:
        await _start(stack, f"{each}-1")
    return stops


def _within(since: float, what: str) -> None:
    if time.perf_counter() - since > PATIENCE_S:
        raise TimeoutError(f"{PATIENCE_S:g} s are not enough for {what}")
