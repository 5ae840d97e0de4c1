"""burst_150, roll_150, release_latency_ms, control_plane_rss_mib: containers on a real local cluster.

"Done" for Gantry means: every instance's health event was saved and published, and every instance answers TCP at its
own VLAN address. Nothing is created ahead of time. The peer is a bare aiodocker loop on the same engine with the same
image and concurrency, network none; runs alternate (bare, Gantry, bare, Gantry, bare).
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

from infra.images.build import BuiltImage
from infra.local.layout import Layout
from infra.local.processes import run
from infra.local.stack import Stack
from libs.client.api import GantryClient
from libs.common.spec import AppSpec
from tests.bench.bare import BareDocker
from tests.bench.report import Report
from tests.bench.timeline import Timeline, show

COUNT = 150
BATCH = 15
ROUNDS = 2
LATENCY_ROUNDS = 5
PORT = 8080
DEADLINE_S = 300.0


async def measure(report: Report, count: int = COUNT) -> None:
    """All of them on one cluster."""
    with tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp") as directory:
        cluster = f"bench-{directory[-4:].lower().replace('_', 'x')}"
        layout = Layout(cluster, Path(directory), cooldown_s=0, traced=True, units=("bench",))
        stack = Stack(layout)
        try:
            await stack.start()
            images = await stack.push_samples()
            async with GantryClient.open(stack.layout.url, stack.admin_key()) as client:
                bench = ContainerBench(stack, client, images)
                await bench.latency(report)
                await bench.burst_and_roll(report, count)
                report.add("control_plane_rss_mib", rss_mib(stack.control_plane.pid()), "MiB")
        finally:
            await stack.destroy()


class ContainerBench:
    """The measurements."""

    def __init__(self, stack: Stack, client: GantryClient, images: dict[str, BuiltImage]) -> None:
        self._stack = stack
        self._client = client
        self._v1 = images["sample-web:v1"].reference
        self._v2 = images["sample-web:v2"].reference
        self._socket = stack.layout.root / "engine/docker.sock"

    async def burst_and_roll(self, report: Report, count: int) -> None:
        """Interleaved rounds of both."""
        bare: dict[str, list[float]] = {"burst": [], "roll": []}
        ours: dict[str, list[float]] = {"burst": [], "roll": []}
        async with BareDocker(self._socket, self._v1) as docker:
            await self._bare_round(docker, count, 0, bare)
            for n in range(ROUNDS):
                app = f"bench/round{n}"
                ours["burst"].append(await self._burst(app, count))
                ours["roll"].append(await self._roll(app, count))
                await self._stop(app)
                await self._bare_round(docker, count, n + 1, bare)
        for kind, key in (("burst", f"burst_{count}"), ("roll", f"roll_{count}")):
            between = zip(ours[kind], pairwise(bare[kind]), strict=True)
            ratios = [one / statistics.mean(around) for one, around in between]
            note = f"ours {_list(ours[kind])}; bare {_list(bare[kind])}; each {_list(ratios, 2)}"
            value, peer = statistics.median(ours[kind]), statistics.median(bare[kind])
            report.add(key, value, "s", peer, note)

    async def _bare_round(
        self, docker: BareDocker, count: int, n: int, into: dict[str, list[float]]
    ) -> None:
        docker.use(self._v1)
        into["burst"].append(await docker.create(count, f"bare{n}a"))
        docker.use(self._v2)
        into["roll"].append(await docker.replace(count, f"bare{n}b"))
        await docker.clear()

    def _spec(self, image: str, count: int) -> AppSpec:
        return AppSpec.model_validate(
            {
                "image": image,
                "instances": count,
                "network": "web",
                "resources": {"cpus": 0.02, "mem_mib": 16},
                "health": [{"type": "tcp", "port": PORT}],
                "strategy": {"max_surge": BATCH, "max_unavailable": 0, "deadline_s": 300},
                "stop_grace_s": 5.0,
            }
        )

    async def _burst(self, app: str, count: int) -> float:
        await self._client.put_app(app, self._spec(self._v1, count))
        async with self._told("container.healthy", app, count) as all_healthy:
            timeline = Timeline(self._stack.layout.trace_file)
            started = time.perf_counter()
            await self._client.deploy(app)
            await all_healthy
            async with asyncio.timeout(DEADLINE_S):
                addresses = await self._addresses(app, count)
            await self._answer(addresses)
            took_s = time.perf_counter() - started
        show(f"{app}: {count} in {took_s:.1f} s", timeline.rows(count))
        return took_s

    async def _roll(self, app: str, count: int) -> float:
        await self._client.put_app(app, self._spec(self._v2, count))
        started = time.perf_counter()
        accepted = await self._client.deploy(app)
        ended = await self._client.wait(accepted.deployment)
        async with asyncio.timeout(DEADLINE_S):
            addresses = await self._addresses(app, count)
        await self._answer(addresses)
        took_s = time.perf_counter() - started
        if ended.state != "succeeded":
            raise RuntimeError(f"the roll ended {ended.state}: {ended.reason}")
        return took_s

    async def _stop(self, app: str) -> None:
        accepted = await self._client.stop(app)
        await self._client.wait(accepted.deployment)

    @asynccontextmanager
    async def _told(self, topic: str, app: str, count: int) -> AsyncIterator[asyncio.Task[None]]:
        """A task that ends when events of this topic have come from `count` instances of the app."""
        topics = [topic]
        place = await self._client.place(topics)

        async def listen() -> None:
            seen: set[str] = set()
            async for event in self._client.events(topics, last_id=place):
                if event.data.get("app") == app:
                    seen.add(event.subject)
                if len(seen) >= count:
                    return

        async with asyncio.timeout(DEADLINE_S):
            task = asyncio.get_running_loop().create_task(listen())
            try:
                yield task
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _addresses(self, app: str, count: int) -> list[str]:
        """Addresses of the healthy instances, once the API shows them all."""
        while True:
            found = (await self._client.instances(app)).instances
            addresses = sorted({each.address for each in found if each.healthy})
            if len(addresses) == count:
                return addresses
            await asyncio.sleep(0.02)

    async def _answer(self, addresses: list[str]) -> None:
        enter = ("ip", "netns", "exec", self._stack.layout.edge)
        connect = f"socket.create_connection((a, {PORT}), 5).close()"
        script = f"import socket, sys\nfor a in sys.argv[1:]: {connect}"
        await run(*enter, "python3", "-IS", "-c", script, *addresses)

    async def latency(self, report: Report) -> None:
        """From the API call to container.started for one instance, beyond Docker's own create+start."""
        ours, bare = [], []
        async with BareDocker(self._socket, self._v1) as docker:
            for n in range(LATENCY_ROUNDS):
                app = f"bench/single{n}"
                await self._client.put_app(app, self._spec(self._v1, 1))
                timeline = Timeline(self._stack.layout.trace_file)
                async with self._told("container.started", app, 1) as started:
                    began = time.perf_counter()
                    await self._client.deploy(app)
                    await started
                    ours.append((time.perf_counter() - began) * 1000)
                await self._stop(app)
                bare.append(await docker.create(1, f"single{n}") * 1000)
                await docker.clear()
        show("the last of the single releases", timeline.rows(1))
        beyond = statistics.median(ours) - statistics.median(bare)
        note = f"API call to container.started {_list(ours)}; Docker alone {_list(bare)}"
        report.add("release_latency_ms", beyond, "ms", statistics.median(bare), note)


def rss_mib(pid: int | None) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def _list(values: list[float], digits: int = 1) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)
