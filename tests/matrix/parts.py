"""What is broken: the parts of the cluster by the names of the matrix."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.local.distributed import DistributedStack, Part
from infra.local.processes import Daemon, alive, reap
from infra.local.stack import answers
from tests.mail import MailSink

# Of replicas and hosts one is broken; of leaders the one that leads.
PARTS = (
    *("kafka", "mongo", "zookeeper", "registry", "smtp"),
    *("mesos-master", "agent", "engine", "ovs", "vswitchd", "hostd", "executor", "worker"),
    *("gateway", "deployer", "ipam", "scheduler", "monitor"),
)
HOST = "h1"
SEVERING = ("ovs", "vswitchd")
"""Without the switch nobody reaches anybody: a userspace datapath goes with its process."""
UNREACHED = ("agent",)
"""Without which Mesos can't reach HOST."""


@dataclass(frozen=True)
class Told:
    """How the alert begins that is raised or mailed when a part is away for longer than so many seconds."""

    begins: str
    after_s: float
    kinds: tuple[str, ...] = ("stop", "pause")

    def due(self, kind: str, outage_s: float) -> bool:
        """Was an outage of this kind that long."""
        return kind in self.kinds and outage_s >= self.after_s


TOLD: Mapping[str, tuple[Told, ...]] = {
    "kafka": (Told("component-down:bus", 10.0),),
    "mongo": (Told("monitoring-blind", 15.0),),
    "zookeeper": (Told("component-down:zookeeper", 20.0),),
    "registry": (Told("component-down:registry", 10.0),),
    "smtp": (Told("component-down:smtp", 12.0),),
    "mesos-master": (Told("component-down:mesos", 12.0),),
    "agent": (Told("node-lost:", 25.0),),
    "engine": (Told("component-down:host@h1", 20.0),),
    "ovs": (Told("component-down:host@", 20.0),),
    "vswitchd": (Told("component-down:host@", 20.0),),
    "hostd": (Told("component-down:host@h1", 12.0),),
    **{
        name: (Told(f"component-down:{name}@", 12.0),)
        for name in ("gateway", "deployer", "ipam", "scheduler")
    },
    "monitor": (Told("component-down:monitor@", 22.0),),  # by the other one, when it leads
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
MONITOR: Mapping[str, float] = {"probe_s": 1.0, "blind_after_s": 10.0}
"""What the monitor is set to for that, beside its defaults."""


async def part_of(stack: DistributedStack, name: str, mail: MailSink) -> Part:
    """The part that the matrix calls `name` now."""
    if name == "smtp":
        return mail.part()
    if name == "vswitchd":
        return _vswitchd(stack)
    if name in ("executor", "worker"):
        return executor(stack, name, HOST)
    if name in ("agent", "hostd", "engine"):
        return stack.parts[f"{name}-{HOST}"]
    replicas = [each for each in stack.names if each.startswith(f"{name}-")]
    for each in replicas:
        if await answers(f"{stack.url_of(each)}/readyz"):
            return stack.parts[each]
    return stack.parts[replicas[0] if replicas else name]


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
    """A host's supervisor, or the worker below it. Mesos, or that one, starts it anew."""

    async def signalled(number: int) -> None:
        found = executor_pids(stack, name, host)
        assert found, f"there is no {name} on {host} to be hit"
        for pid in found:
            os.kill(pid, number)
            reap(pid)

    async def nothing() -> None:
        """Whoever watches over it starts it."""

    return Part(
        name,
        nothing,
        lambda: signalled(signal.SIGTERM),
        lambda: signalled(signal.SIGKILL),
        lambda: signalled(signal.SIGSTOP),
        lambda: signalled(signal.SIGCONT),
    )
