"""A host's disk that is full to the brim: state of agent, executor, hostd and runs are on it, and it is a real one.

The control plane's is `test_full_disk.py`; what the engine makes of its own disk, `tests/unit/executor/test_room.py`.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.provision import OvsServer, Server
from infra.provision.process import free_ports
from libs.common.spec import HealthCheck
from libs.common.task import TaskReport
from tests.disks import SmallDisk, small_disk
from tests.integration.executor_host import WORKER, Cloud, open_cloud
from tests.integration.hostd_host import PORT, open_host
from tests.integration.test_executor_runs import start

HTTP = HealthCheck(port=PORT, path="/health", interval_s=0.5, timeout_s=20, grace_s=60)
ENDS = {"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_LOST", "TASK_ERROR", "TASK_GONE"}
KEPT_MIB = 8
LITTLE = 2**20  # of room: less than KEPT_MIB, and enough for Mesos' agent to take a task


@dataclass
class SmallHost:
    """A host at work, all but its engine on a disk of its own."""

    cloud: Cloud
    disk: SmallDisk

    async def runs(self, attempt: str) -> bool:
        """Does its container run?"""
        return bool((await self.cloud.inspect(attempt))["State"]["Running"])

    async def stopped(self, attempt: str) -> None:
        """Wait until its container does not run any more."""

        async def over() -> bool:
            return not await self.runs(attempt)

        await self.cloud.host.until(over, f"{attempt} runs on")

    def ends(self, attempt: str) -> dict[str, tuple[str, int | None]]:
        """How it was told to have ended: state and exit code by the update's uuid."""
        found = {}
        for each in self.cloud.of(attempt):
            if each["state"] in ENDS:
                report = TaskReport.model_validate_json(b64decode(each["data"]))
                found[each["uuid"]] = each["state"], report.exit_code
        return found

    async def ended(self, attempt: str) -> tuple[str, int | None]:
        """Wait for its end: what is told first. A worker may be killed before it could save that, and tell again."""
        await self.cloud.until(lambda: bool(self.ends(attempt)), f"the end of {attempt} is lost")
        return next(iter(self.ends(attempt).values()))


@pytest.fixture
async def small(
    tmp_path: Path, docker_engine: Server, ovs: OvsServer, samples: dict[str, str]
) -> AsyncIterator[SmallHost]:
    """Nothing is launched yet, and there is room."""
    ipam, master, agent = free_ports(3)
    with small_disk(tmp_path / "disk", mib=64) as disk:
        async with open_host(disk.root, docker_engine, ovs, ipam, "f") as host, host.ipam():
            await host.start_hostd()
            settings = {"sweep_s": 2, "stray_grace_s": 2, "min_free_mib": KEPT_MIB}
            async with open_cloud(host, (master, agent), **settings) as cloud:
                yield SmallHost(cloud, disk)
                disk.free()


async def test_on_a_full_disk_nothing_begins_and_no_end_is_lost(small: SmallHost) -> None:
    cloud, disk = small.cloud, small.disk
    names = ("a.1", "b.1", "c.1")
    await cloud.launch(*names, health=(HTTP,))
    addresses = {each: (await cloud.healthy(each)).address for each in names}
    pid = (await cloud.inspect("c.1"))["State"]["Pid"]
    asks = f"nc -w 5 {addresses['a.1']} {PORT} </dev/null >/dev/null"
    await start(cloud, "r.1", f"echo before; while {asks}; do sleep 0.2; done; echo after; exit 3")
    await cloud.reaches("r.1", "TASK_RUNNING")

    # What comes is turned away, with the reason; what runs does not notice.
    disk.fill(LITTLE)
    await cloud.launch("more.1", health=(HTTP,))
    status = await cloud.reaches("more.1", "TASK_FAILED")
    assert "no room for a container" in status["message"]
    assert cloud.report("more.1").refused == "disk"
    assert {each: cloud.states(each)[-1] for each in (*names, "r.1")} == dict.fromkeys(
        (*names, "r.1"), "TASK_RUNNING"
    )

    # To the brim: one ends by itself, the run with it, one is stopped; and the worker is killed, and starts anew.
    disk.fill()
    await cloud.host.docker.containers.container(cloud.name("a.1")).kill(signal="KILL")
    await cloud.kill("b.1")
    await small.stopped("a.1")
    await small.stopped("b.1")
    worker = await cloud.kill9(WORKER)
    await cloud.until(lambda: cloud.pid_of(WORKER) not in (0, worker), "no new worker")
    namespace = (await cloud.host.attachments())[cloud.name("c.1")]["namespace"]
    await cloud.host.wait_served(namespace, addresses["c.1"])

    # With room again all is told that has happened, once, and all goes on.
    disk.free()
    for each in ("a.1", "b.1"):
        await cloud.gone(each)
    await cloud.launch("more.2", health=(HTTP,))
    await cloud.healthy("more.2")
    assert cloud.states("c.1")[-1] == "TASK_RUNNING"
    assert (await cloud.inspect("c.1"))["State"]["Pid"] == pid
    assert await small.ended("a.1") == ("TASK_FAILED", 137)
    assert await small.ended("b.1") == ("TASK_KILLED", 0)
    assert await small.ended("r.1") == ("TASK_FAILED", 3)
    assert {*small.ends("r.1").values()} == {("TASK_FAILED", 3)}, "its init forgot it unsaved"
    assert small.ends("c.1") == {}
