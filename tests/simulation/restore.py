"""The drill: the store is restored to an older state under a running fleet, and a person does what the guide says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from libs.common.store.backup import back_up, restore
from services.executor.model import LABEL_ATTEMPT, LABEL_INSTANCE
from tests.simulation.cloud import Cloud
from tests.simulation.invariants import Invariants
from tests.simulation.loop import EPOCH_S
from tests.simulation.promises import Promises
from tests.simulation.workload import User

RECOVERY_S = 320.0  # ipam's patience, and a little


@dataclass
class Drill:
    """One backup, and its restore some time later."""

    cloud: Cloud
    invariants: Invariants
    promises: Promises
    file: Path
    unknown: dict[str, str] = field(default_factory=dict)  # what only hosts know: container → host
    later: dict[str, str] = field(default_factory=dict)  # attempts newer than stored, by instance

    def _now(self) -> float:
        return EPOCH_S + self.cloud.loop.time()

    async def back_up(self) -> None:
        """While all runs. What is promised from now on is lost by the restore."""
        self.promises.remember()
        await back_up(self.cloud.store, self.file, self._now())

    async def restore(self, down_s: float) -> None:
        """Stop the services, restore, start them."""
        cloud = self.cloud
        cloud.trace.add("drill", "the store is restored")
        for process in cloud.processes:
            process.stop()
        await asyncio.sleep(down_s)
        await restore(cloud.store, self.file, self._now(), replace_all=True)
        self.invariants.store_went_back()
        self.promises.store_went_back()
        self._compare(cloud.store.bodies("scheduler_instances"))
        for process in cloud.processes:
            process.stopped = False
            process.start()

    def _compare(self, stored: Mapping[str, Mapping[str, object]]) -> None:
        for name, (host, instance, attempt) in self.running().items():
            if instance not in stored:
                self.unknown[name] = host
            elif int(attempt.rpartition(".")[2]) > int(str(stored[instance]["generation"])):
                self.later[instance] = attempt

    def running(self) -> dict[str, tuple[str, str, str]]:
        """Host, instance and attempt of each container that runs, by its name."""
        return {
            each.name: (
                host.name,
                each.spec.labels[LABEL_INSTANCE],
                each.spec.labels[LABEL_ATTEMPT],
            )
            for host in self.cloud.hosts
            for each in host.docker.containers.values()
            if each.running
        }

    async def recover(self, user: User) -> None:
        """See that nothing was lost, then release the breaker, as a person would."""
        await asyncio.sleep(RECOVERY_S)
        running = self.running()
        for name, host in self.unknown.items():
            if name not in running:
                self.invariants.fail(f"{name} on {host} was ended, though nobody said so")
        held = (await user.call("GET", "/v1/breaker")).json()
        if bool(self.unknown) != held["open"]:
            self.invariants.fail(f"unknown run {sorted(self.unknown)}, but the breaker says {held}")
        if held["open"]:
            await user.call("POST", "/v1/breaker/release")
            self.cloud.balancer.inner.restart()  # endpoints of instances that nobody knows
        await asyncio.sleep(60.0)
        left = sorted(self.unknown.keys() & self.running().keys())
        if left:
            self.invariants.fail(f"released, but {left} run on")
        self.invariants.recovering = False
