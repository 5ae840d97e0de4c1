"""A scheduler of few rules for the deployer's tests, on the bus, or without it by direct delivery."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from libs.common.bus.base import Record
from libs.common.bus.memory import MemoryBus
from libs.common.clock import Clock, Ids
from libs.common.direct import Courier, Parcel
from libs.common.errors import Unavailable
from libs.common.events import EVENT_TYPES, Event, seal, to_record
from libs.common.events import model as ev
from libs.common.proofs import ServiceProofs
from libs.common.store.base import OutboxEvent

SECRET = b"a secret of thirty-two bytes ...."
APP = "shop/web"


class World(Protocol):
    """Time and chance: the simulation's, or the machine's own."""

    @property
    def clock(self) -> Clock: ...

    @property
    def rng(self) -> random.Random: ...

    @property
    def ids(self) -> Ids: ...


@dataclass
class FakeScheduler:
    """Places what is requested and tells of it. `broken`: images (by last digit) whose containers crash."""

    bus: MemoryBus
    world: World
    tasks: asyncio.TaskGroup = field(init=False)
    running: dict[str, ev.InstanceRequested] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    requested: list[str] = field(default_factory=list)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    full: bool = False
    mute: bool = False  # its events are lost
    healthy: dict[str, bool] = field(default_factory=dict)
    deaf: bool = False  # hears nothing
    heard: set[str] = field(default_factory=set)
    courier: Courier | None = None  # its events go this way, while the bus is away
    stop_slowly_s: float = 0.0
    runs: list[dict[str, Any]] = field(default_factory=list)  # of jobs, as it tells them
    jobs: list[dict[str, Any]] = field(default_factory=list)

    async def run(self) -> None:
        topics = ["instance.requested", "instance.stop_requested"]
        async with self.bus.consumer("scheduler", topics) as consumer, asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            while True:
                try:
                    batch = await consumer.fetch(500, 1.0)
                except Unavailable:
                    await self.world.clock.sleep(1.0)
                    continue
                for each in batch:
                    if not self.deaf:
                        self.hear_soon(each.record)
                await consumer.commit({})

    def hear_soon(self, record: Record) -> None:
        """A copy of what was heard is no news."""
        event, envelope = EVENT_TYPES.open(record)
        if envelope.id not in self.heard:
            self.heard.add(envelope.id)
            self.tasks.create_task(self.hear(event))

    async def hear(self, event: Event) -> None:
        if isinstance(event, ev.InstanceRequested):
            self.requested.append(event.instance)
            if event.instance in self.running:
                return
            if self.full:
                await self.tell(
                    event.instance,
                    ev.PlacementDelayed,
                    agents=3,
                    failed={"mem": 3},
                    message="no agent has 128 MiB",
                )
                return
            self.running[event.instance] = event
            self.addresses[event.instance] = f"10.0.0.{len(self.addresses) + 1}"
            await self.start(event.instance)
        elif isinstance(event, ev.InstanceStopRequested):
            self.stopped.append((event.instance, event.reason))
            await self.world.clock.sleep(self.stop_slowly_s)
            self.running.pop(event.instance, None)
            await self.tell(
                event.instance, ev.ContainerExited, state="TASK_KILLED", wanted=True, final=True
            )

    def rows(self) -> list[dict[str, Any]]:
        """What it answers when it is asked."""
        return [
            {
                "instance": name,
                "app": APP,
                "state": "running" if self.attempts.get(name) else "pending",
                "healthy": self.healthy.get(name),
                "attempt": f"{name}.{self.attempts[name]}" if name in self.attempts else "",
                "address": self.addresses[name],
                "agent": "a1",
                "hostname": "h1",
                "version": self.sequences.get(name, 0),
            }
            for name in self.running
        ]

    async def start(self, instance: str) -> None:
        await self.world.clock.sleep(0.2)
        self.attempts[instance] = self.attempts.get(instance, 0) + 1
        if instance in self.running:
            await self.tell(instance, ev.ContainerStarted)
        await self.world.clock.sleep(0.3)
        if instance not in self.running:
            return
        if self.running[instance].spec.image[-1] in self.broken:
            await self.tell(instance, ev.ContainerExited, state="TASK_FAILED", exit_code=1)
            await self.start(instance)
        else:
            await self.tell(instance, ev.ContainerHealthy)

    async def tell(self, instance: str, kind: type[Event], **fields: object) -> None:
        attempt = self.attempts.get(instance, 0)
        self.sequences[instance] = self.sequences.get(instance, 0) + 1
        self.healthy[instance] = kind is ev.ContainerHealthy
        if self.mute:
            return
        event = kind.model_validate(
            {
                "instance": instance,
                "app": APP,
                "attempt": f"{instance}.{attempt}",
                "agent": "a1",
                "hostname": "h1",
                "address": self.addresses.get(instance, ""),
                "container": f"c-{instance}-{attempt}",
                **fields,
            }
        )
        sealed = sealed_now(event, "scheduler", self.sequences[instance], self.world)
        if self.courier is not None:
            await self.courier.deliver(sealed)
        else:
            await publish(self.bus, sealed)

    async def take(self, body: bytes) -> None:
        """What is handed over to it."""
        for each in Parcel.model_validate_json(body).records:
            self.hear_soon(each.record())


def sealed_now(event: Event, source: str, sequence: int, world: World) -> tuple[OutboxEvent, ...]:
    return seal([event], source=source, sequence=sequence, now=world.clock.now())


async def publish(bus: MemoryBus, sealed: Sequence[OutboxEvent]) -> None:
    await bus.publish([ServiceProofs(SECRET).sign(to_record(each)) for each in sealed])
