"""Schedulers in processes of their own on one real store and bus, on a minimesos whose tasks are virtual."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from infra.provision.process import free_ports
from libs.common.bus.base import TopicSpec
from libs.common.clock import SystemClock, system_rng
from libs.common.consume import Handlers, Subscription
from libs.common.errors import Refused, Unavailable
from libs.common.events import TOPICS, Envelope, Event, seal, to_record
from libs.common.events import model as ev
from libs.common.http import Kind, call_json
from libs.common.keys import SecretFile, open_secret
from libs.common.peers import PeerClient
from libs.common.runtime import CommonConfig, Shared, open_shared
from libs.common.spec import InstanceSpec, Resources
from libs.common.telemetry import Telemetry, make_log
from libs.common.tokens import TokenSigner, party_keys
from tests.contract.mesos.cluster import Mesos

APP = "acme/web"
LEASE_S = 8.0  # a busy machine must not have the leader doubt itself
SPEC = InstanceSpec(
    image="web@sha256:" + "a" * 64, network="blue", resources=Resources(cpus=0.1, mem_mib=32)
)
VIRTUAL = {
    "virtual": "true",
    "resources": "cpus:100;mem:64000;disk:64000",
    "attributes": "class:thin",
}
"""Flags of an agent with room for a thousand."""


@dataclass
class Schedulers:
    """Replicas by number, and what they tell."""

    directory: Path
    mesos: Mesos
    shared: Shared
    peers: PeerClient
    settings: Mapping[str, str]
    ports: Sequence[int]
    masters: Sequence[str] = ()
    running: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)
    started: Counter[tuple[str, str]] = field(default_factory=Counter)  # instance, attempt
    exited: Counter[str] = field(default_factory=Counter)

    async def start(self, number: int, *, newer: bool = False) -> None:
        """Start a replica, of this release or the next; does not wait."""
        module = ["tests.versions.next", "services.scheduler"] if newer else ["services.scheduler"]
        settings = {
            **self.settings,
            "GANTRY_COMMON__LISTEN": orjson.dumps(
                {"scheduler": f"127.0.0.1:{self.ports[number]}"}
            ).decode(),
            "GANTRY_SCHEDULER__MASTERS": orjson.dumps(
                list(self.masters or [self.mesos.master_url])
            ).decode(),
        }
        with self.log_of(number).open("ab") as log:
            self.running[number] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *module),
                env={**os.environ, **settings},
                stderr=log,
            )

    def signal(self, number: int, which: signal.Signals) -> None:
        """To a replica."""
        self.running[number].send_signal(which)

    def log_of(self, number: int) -> Path:
        """What a replica said."""
        return self.directory / f"scheduler-{number}.log"

    async def status(self) -> Mapping[str, Any]:
        """The leader's; empty while nobody leads."""
        try:
            return dict(await call_json(self.peers, "scheduler", "GET", "/v1/status", timeout_s=2))
        except (Unavailable, Refused):
            return {}

    async def told(self) -> Mapping[str, Any]:
        """The status, by a leader that answers."""
        async with asyncio.timeout(60):
            while not (found := await self.status()):
                await asyncio.sleep(0.1)
        return found

    async def instances(self) -> dict[str, Mapping[str, Any]]:
        """The leader's, by name."""
        found = await call_json(self.peers, "scheduler", "GET", "/v1/instances", timeout_s=30)
        return {each["instance"]: each for each in found["instances"]}

    async def subscribed(self) -> None:
        """Wait for a leader that is subscribed."""

        async def holds() -> bool:
            return bool((await self.status()).get("subscribed"))

        await until(holds, 60)

    async def stand_by(self, number: int, *, newer: bool = False) -> None:
        """Start a replica, of this release or the next, beside the leader; it has read what there is."""
        log, warm = self.log_of(number), "a standby is warm"
        already = log.read_text().count(warm) if log.exists() else 0
        await self.start(number, newer=newer)

        async def holds() -> bool:
            return log.read_text().count(warm) > already

        await until(holds, 60)

    async def publish(self, events: Sequence[Event], sequence: int) -> None:
        """As the deployer."""
        sealed = seal(events, source="deployer", sequence=sequence, now=self.shared.clock.now())
        await self.shared.bus.publish([to_record(each) for each in sealed])

    async def want(self, count: int) -> list[str]:
        """Ask for so many instances; returns their names."""
        names = [f"acme-web-{n}" for n in range(count)]
        wanted = [
            ev.InstanceRequested(instance=each, app=APP, release=1, deployment="d1", spec=SPEC)
            for each in names
        ]
        await self.publish(wanted, 1)
        return names

    async def running_states(self, count: int) -> None:
        """Wait until the leader has so many that run, and nothing else."""

        async def holds() -> bool:
            status = await self.status()
            return status.get("instances") == {"running": count}

        await until(holds, 150)

    async def tasks_launched(self) -> int:
        """How many tasks the master has that have not ended."""
        _, found = await self.mesos.get("master", "/metrics/snapshot")
        states = ("staging", "starting", "running")
        return int(sum(found[f"master/tasks_{each}"] for each in states))

    async def tasks(self) -> tuple[list[str], list[str]]:
        """Tasks that run, and those that ended in whatever way, of all frameworks that there ever were."""
        _, state = await self.mesos.get("master", "/state")
        runs: list[str] = []
        ended: list[str] = []
        for framework in (*state["frameworks"], *state["completed_frameworks"]):
            for task in framework["tasks"]:
                (runs if task["state"] == "TASK_RUNNING" else ended).append(task["id"])
            ended += [task["id"] for task in framework["completed_tasks"]]
            ended += [task["id"] for task in framework["unreachable_tasks"]]
        return runs, ended

    # -- what is told

    def handlers(self) -> Handlers:
        """Count the events."""

        async def on_started(event: ev.ContainerStarted, _envelope: Envelope) -> None:
            self.started[event.instance, event.attempt] += 1

        async def on_exited(event: ev.ContainerExited, _envelope: Envelope) -> None:
            self.exited[event.instance] += 1

        return {ev.ContainerStarted: on_started, ev.ContainerExited: on_exited}


async def until(holds: Callable[[], Awaitable[bool]], within_s: float) -> None:
    """Wait for it."""
    async with asyncio.timeout(within_s):
        while not await holds():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def schedulers(
    directory: Path,
    mesos: Mesos,
    bus_url: str,
    store_url: str,
    *,
    election: str = "store",
    masters: Sequence[str] = (),
    driver: str = "libs",
) -> AsyncIterator[Schedulers]:
    """Nothing runs yet; at the end nothing is left."""
    secret_file = directory / "cluster.secret"
    common = CommonConfig(
        data_dir=directory / "tests", bus=bus_url, store=store_url, secret_file=secret_file
    )
    settings = {
        "GANTRY_COMMON__BUS": bus_url,
        "GANTRY_COMMON__STORE": store_url,
        "GANTRY_COMMON__ELECTION": election,
        "GANTRY_COMMON__DATA_DIR": str(directory / "scheduler"),
        "GANTRY_COMMON__SECRET_FILE": str(secret_file),
        "GANTRY_SCHEDULER__LEADER_LEASE_S": str(LEASE_S),
        "GANTRY_SCHEDULER__DRIVER": driver,
        "GANTRY_SCHEDULER__PLACE_SLICE": "25",
        "GANTRY_SCHEDULER__TICK_S": "0.2",
    }
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(open_shared(common, {}))
        await shared.bus.ensure_topics([TopicSpec(each.name, 4) for each in TOPICS])
        secret = open_secret(secret_file)
        assert isinstance(secret, SecretFile)
        keys = party_keys(secret, Kind.SERVICE, "gateway")
        signer = TokenSigner(Kind.SERVICE, "gateway", keys, SystemClock())
        ports = free_ports(2)
        urls = ",".join(f"http://127.0.0.1:{each}" for each in ports)
        peers = PeerClient(signer, {"scheduler": urls})
        stack.push_async_callback(peers.close)
        made = Schedulers(directory, mesos, shared, peers, settings, ports, masters)
        telemetry = Telemetry("watch", make_log("watch", level="error"))
        watch = Subscription(
            "watch", made.handlers(), shared.bus, shared.clock, system_rng(), telemetry
        )
        watching = asyncio.create_task(watch.run())
        try:
            yield made
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            for each in made.running.values():
                if each.returncode is None:
                    each.kill()
                await each.wait()
