"""What is broken: the parts of the cluster by the names of the matrix."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from infra.local.distributed import DistributedStack, Part
from infra.local.processes import Daemon, LocalError, alive, end, reap
from infra.local.stack import answers
from tests.mail import MailSink

# Of replicas and hosts one is broken; of leaders the one that leads. `-all`: all replicas at once.
WHOLE = tuple(f"{name}-all" for name in ("gateway", "deployer", "ipam", "scheduler"))
PARTS = (
    *("kafka", "mongo", "zookeeper", "registry", "smtp"),
    *("mesos-master", "agent", "engine", "ovs", "vswitchd", "hostd", "executor", "worker"),
    *("gateway", "deployer", "ipam", "scheduler", "monitor"),
    *WHOLE,
)
HOST = "h1"
SEVERING = ("ovs", "vswitchd")
"""Without the switch nobody reaches anybody: a userspace datapath goes with its process."""
UNREACHED = ("agent",)
"""Without which Mesos can't reach HOST."""
KEPT_UP = ("executor", "worker")
"""Whoever watches over these starts the next one at once; they are away for longer only when they are frozen."""
BACK_S = 120.0


@dataclass(frozen=True)
class Told:
    """The alert that is raised or mailed when a part is away for longer than so many seconds.

    `{agent}` stands for HOST's in Mesos, `{replica}` for the address of each process of a service that is broken.
    """

    alert: str
    after_s: float
    kinds: tuple[str, ...] = ("stop", "pause")

    def due(self, kind: str, outage_s: float) -> bool:
        """Was an outage of this kind that long."""
        return kind in self.kinds and outage_s >= self.after_s

    def alerts(self, agent: str, replicas: Iterable[str]) -> list[str]:
        """Their names."""
        return names_of(self.alert, agent, replicas)


def names_of(alert: str, agent: str, replicas: Iterable[str]) -> list[str]:
    """See Told."""
    if "{replica}" not in alert:
        return [alert.format(agent=agent)]
    return [alert.format(replica=each) for each in replicas]


TOLD: Mapping[str, tuple[Told, ...]] = {
    "kafka": (Told("component-down:bus", 10.0),),
    "mongo": (Told("monitoring-blind", 15.0),),
    "zookeeper": (Told("component-down:zookeeper", 20.0),),
    "registry": (Told("component-down:registry", 10.0),),
    "smtp": (Told("component-down:smtp", 12.0),),
    "mesos-master": (Told("component-down:mesos", 12.0),),
    "agent": (Told("node-lost:{agent}", 25.0),),
    "engine": (Told("component-down:host@h1", 20.0),),
    "ovs": tuple(Told(f"component-down:host@{each}", 20.0) for each in ("h1", "h2")),
    "vswitchd": tuple(Told(f"component-down:host@{each}", 20.0) for each in ("h1", "h2")),
    "hostd": (Told("component-down:host@h1", 12.0),),
    **{
        name: (
            Told(f"component-down:{name.removesuffix('-all')}@{{replica}}", 12.0),
            Told(f"component-restarted:{name.removesuffix('-all')}@{{replica}}", 0.0, ("kill9",)),
        )
        for name in ("gateway", "deployer", "ipam", "scheduler", *WHOLE)
    },
    "monitor": (Told("component-down:monitor@{replica}", 22.0),),  # by the other one, when it leads
    # What ends in order is nobody's loss: Mesos, or the supervisor, starts the next one.
    **{
        name: (
            Told("executor-silent:h1", 22.0, ("pause",)),
            Told("executor-restarted:h1", 0.0, ("kill9",)),
        )
        for name in ("executor", "worker")
    },
}
"""Of each part, what there is to be told."""
UNTOLD: Mapping[tuple[str, str], tuple[str, ...]] = {
    **{(name, "stop"): ("executor-restarted:h1", "executor-silent:h1") for name in KEPT_UP},
    **{
        (name, "stop"): (f"component-restarted:{name.removesuffix('-all')}@{{replica}}",)
        for name in ("gateway", "deployer", "ipam", "scheduler", *WHOLE)
    },
}
"""Of part and kind, what must not be told: what ended in order was not lost."""
MONITOR: Mapping[str, float] = {"probe_s": 1.0, "blind_after_s": 10.0}
"""What the monitor is set to for that, beside its defaults."""


async def part_of(stack: DistributedStack, name: str, mail: MailSink) -> Part:
    """The part that the matrix calls `name` now."""
    if name == "smtp":
        return mail.part()
    if name == "vswitchd":
        return _vswitchd(stack)
    if name in KEPT_UP:
        return executor(stack, name, HOST)
    if name in WHOLE:
        return together(name, [stack.parts[each] for each in replicas_of(stack, name)])
    if name in ("agent", "hostd", "engine"):
        return stack.parts[f"{name}-{HOST}"]
    replicas = [each for each in stack.names if each.startswith(f"{name}-")]
    for each in replicas:
        if await answers(f"{stack.url_of(each)}/readyz"):
            return stack.parts[each]
    return stack.parts[replicas[0] if replicas else name]


def replicas_of(stack: DistributedStack, name: str) -> list[str]:
    """The processes of a part, or of one of its replicas (`deployer-all`, `deployer-2`); none of what is no service."""
    service = name.removesuffix("-all")
    whole = name in WHOLE
    return [each for each in stack.names if each == name or (whole and _service(each) == service)]


def _service(replica: str) -> str:
    return replica.rpartition("-")[0]


def together(name: str, parts: Sequence[Part]) -> Part:
    """Several that fail as one."""

    def each(
        what: Callable[[Part], Callable[[], Awaitable[object]]],
    ) -> Callable[[], Awaitable[None]]:
        async def all_at_once() -> None:
            await asyncio.gather(*(what(part)() for part in parts))

        return all_at_once

    return Part(
        name,
        each(attrgetter("start")),
        each(attrgetter("stop")),
        each(attrgetter("kill9")),
        each(attrgetter("pause")),
        each(attrgetter("resume")),
    )


def _vswitchd(stack: DistributedStack) -> Part:
    """The switch alone: its database goes on."""
    daemon = Daemon("vswitchd", stack.layout.ovs_dir / "ovs-vswitchd.pid", stack.layout.logs / "-")
    return Part.of(daemon, stack.parts["ovs"].start, daemon.stop)


def executor_pids(stack: DistributedStack, name: str, host: str) -> list[int]:
    """Of a host: of the supervisor that Mesos sees (`executor`), or of the `worker` below it."""
    found = []
    for pid in stack.executors():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            of_host = f"/{host}/".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        is_worker = b"services.executor.worker" in command
        if of_host and alive(pid) and is_worker == (name == "worker"):
            found.append(pid)
    return found


def executor(stack: DistributedStack, name: str, host: str) -> Part:
    """A host's supervisor, or the worker below it. Mesos, or that one, starts it anew: `start` waits for that."""
    hit: set[int] = set()

    def signalled(number: int) -> list[int]:
        found = executor_pids(stack, name, host)
        assert found, f"there is no {name} on {host} to be hit"
        for pid in found:
            os.kill(pid, number)
        hit.update(found)
        return found

    async def stop() -> None:
        stack.overruns += await end(signalled(signal.SIGTERM))

    async def kill9() -> None:
        for pid in signalled(signal.SIGKILL):
            reap(pid)

    async def pause() -> None:
        signalled(signal.SIGSTOP)

    async def resume() -> None:
        signalled(signal.SIGCONT)

    async def start() -> None:
        deadline = time.monotonic() + BACK_S
        while not set(executor_pids(stack, name, host)) - hit:
            if time.monotonic() > deadline:
                raise LocalError(f"{host} has no {name} any more")
            await asyncio.sleep(0.1)

    return Part(name, start, stop, kill9, pause, resume)
