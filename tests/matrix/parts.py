"""What is broken: the parts of the cluster by the names of the matrix."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from infra.local.distributed import DistributedStack, Part
from infra.local.processes import alive, reap
from infra.local.stack import answers

# Of replicas and hosts one is broken; of leaders the one that leads.
PARTS = (
    *("kafka", "mongo", "zookeeper", "registry", "smtp"),
    *("mesos-master", "agent", "engine", "ovs", "hostd", "executor", "worker"),
    *("gateway", "deployer", "ipam", "scheduler", "monitor"),
)
HOST = "h1"


async def part_of(stack: DistributedStack, name: str, smtp: Part) -> Part:
    """The part that the matrix calls `name` now."""
    if name == "smtp":
        return smtp
    if name in ("executor", "worker"):
        return _executor(stack, name)
    if name in ("agent", "hostd", "engine"):
        return stack.parts[f"{name}-{HOST}"]
    replicas = [each for each in stack.names if each.startswith(f"{name}-")]
    for each in replicas:
        if await answers(f"{stack.url_of(each)}/readyz"):
            return stack.parts[each]
    return stack.parts[replicas[0] if replicas else name]


def _executor(stack: DistributedStack, name: str) -> Part:
    """Of the first host: the supervisor that Mesos sees, or the worker below it. Mesos, or that one, starts it anew."""

    def pids() -> list[int]:
        found = []
        for pid in stack.executors():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                of_host = f"/{HOST}/".encode() in Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            is_worker = b"services.executor.worker" in command
            if of_host and alive(pid) and is_worker == (name == "worker"):
                found.append(pid)
        return found

    async def signalled(number: int) -> None:
        for pid in pids():
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
