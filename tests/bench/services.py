"""service_start_s, service_stop_s, service_rss_mib: the worst service of an idle cluster of many processes.

A start is from the process' exec until /readyz says 200 (it leads, it reads, it writes); a stop from SIGTERM until the
process is gone. START_S, STOP_S and RSS_MIB are what was promised. The peer of a start is an interpreter that only
imports what all of them need: on a busy machine, where that takes long, a start may take START_RATIO times as long.
Kafka and the MongoDB-wire server are real; service_stop_kafka_frozen_s and service_stop_mongo_frozen_s are stops while
that one answers nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from infra.local.distributed import SERVICES, DistributedStack
from infra.local.layout import Layout
from infra.local.processes import alive
from infra.local.stack import answers
from tests.bench.containers import rss_mib
from tests.bench.report import Report

ROUNDS = 3
START_S, STOP_S, RSS_MIB = 2.0, 10.0, 120.0
START_RATIO = 3.0
IMPORTS = "import aiohttp, aiokafka, motor.motor_asyncio, pydantic, opentelemetry.sdk.trace"
IDLE_S = 10.0
FROZEN_S = 5.0  # so that calls to it hang already
PATIENCE_S = 60.0
POLL_S = 0.01


async def measure(report: Report) -> None:
    """All services, one after the other."""
    with tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp") as directory:
        cluster = f"bench-{directory[-4:].lower().replace('_', 'x')}"
        stack = DistributedStack(Layout(cluster, Path(directory), cooldown_s=0))
        try:
            await stack.start()
            await asyncio.sleep(IDLE_S)
            memory = {each: rss_mib(stack.service(f"{each}-1").pid()) for each in SERVICES}
            _worst(report, "service_rss_mib", memory, "MiB", RSS_MIB)
            bare = statistics.median([await _importing() for _ in range(ROUNDS)])
            stops, starts = {}, {}
            for service in SERVICES:
                rounds = [await _restart(stack, f"{service}-1") for _ in range(ROUNDS)]
                stops[service] = statistics.median(each[0] for each in rounds)
                starts[service] = statistics.median(each[1] for each in rounds)
            _worst(report, "service_stop_s", stops, "s", STOP_S)
            soon = max(START_S, START_RATIO * bare)
            _worst(report, "service_start_s", starts, "s", soon, peer=bare)
            for server in ("kafka", "mongo"):
                stops = await _without(stack, server)
                _worst(report, f"service_stop_{server}_frozen_s", stops, "s", STOP_S)
        finally:
            await stack.destroy()


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


async def _restart(stack: DistributedStack, name: str) -> tuple[float, float]:
    """Seconds from SIGTERM until it is gone, and from its new start until it is ready."""
    return await _stop(stack, name), await _start(stack, name)


async def _stop(stack: DistributedStack, name: str) -> float:
    pid = stack.service(name).pid()
    assert pid is not None
    began = time.perf_counter()
    os.kill(pid, signal.SIGTERM)
    while alive(pid):
        _within(began, f"{name} to stop")
        await asyncio.sleep(POLL_S)
    return time.perf_counter() - began


async def _start(stack: DistributedStack, name: str) -> float:
    began = time.perf_counter()
    stack.launch(name)
    while not await answers(f"{stack.url_of(name)}/readyz"):
        _within(began, f"{name} to be ready")
        await asyncio.sleep(POLL_S)
    return time.perf_counter() - began


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
