"""Incidents: what goes wrong with a whole process, host or part of the network, drawn from the seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

from libs.common.errors import Unavailable
from libs.common.http import Kind
from tests.fakes.inits import FakeInits
from tests.simulation.cloud import Cloud
from tests.simulation.faults import Point
from tests.simulation.host import Host
from tests.simulation.life import Life
from tests.simulation.process import client_of

MEAN_PAUSE_S = 20.0


class Chaos:
    """Brings incidents about until it is told to stop, and mends everything then."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.rng = random.Random(f"{cloud.seed}:chaos")
        self._running: dict[asyncio.Task[None], None] = {}
        incidents: Mapping[Point, tuple[int, Callable[[], Awaitable[None]]]] = {
            Point.CRASH: (6, self._crash),
            Point.LEADER_PAUSED: (3, self._pause_scheduler),
            Point.MONITOR_PAUSED: (2, self._pause_monitor),
            Point.WORKER_KILLED: (4, self._kill_worker),
            Point.SUPERVISOR_KILLED: (2, self._kill_supervisor),
            Point.EXECUTOR_GONE: (1, self._executor_gone),
            Point.HOSTD_KILLED: (4, self._kill_hostd),
            Point.DOCKER_AWAY: (2, self._docker_away),
            Point.SWITCH_RESTART: (2, self._restart_switch),
            Point.CONTAINER_DIES: (5, self._container_dies),
            Point.RUN_DIES: (4, self._run_dies),
            Point.INIT_CUT: (2, self._cut_inits),
            Point.MANUAL_START: (3, self._start_by_hand),
            Point.STALE_RELEASE: (3, self._release_again),
            Point.MASTER_CRASH: (2, self._crash_master),
            Point.MASTER_FAILOVER: (2, self._fail_over),
            Point.AGENT_CRASH: (2, self._crash_agent),
            Point.AGENT_PARTITION_SHORT: (2, self._partition_short),
            Point.AGENT_PARTITION_LONG: (2, self._partition_long),
            Point.HTTP_PARTITION: (3, self._cut_off),
            Point.STORE_AWAY: (2, self._store_away),
            Point.BUS_AWAY: (2, self._bus_away),
        }
        self._incidents = incidents

    async def run(self, until: float) -> None:
        """Incidents until that time of the loop's; then all faults are over."""
        points = list(self._incidents)
        weights = [self._incidents[point][0] for point in points]
        while True:
            pause_s = self.rng.expovariate(1 / MEAN_PAUSE_S)
            if self.cloud.loop.time() + pause_s > until:
                break
            await asyncio.sleep(pause_s)
            (point,) = self.rng.choices(points, weights)
            task = self.cloud.loop.create_task(self._strike(point))
            self._running[task] = None
            task.add_done_callback(lambda done: self._running.pop(done, None))
        await asyncio.sleep(max(0.0, until - self.cloud.loop.time()))
        self.cloud.faults.on = False
        while self._running:
            await asyncio.wait(list(self._running))
        self.cloud.trace.add("chaos", "is over")

    async def _strike(self, point: Point) -> None:
        await self._incidents[point][1]()

    def _host(self) -> Host:
        return self.rng.choice(self.cloud.hosts)

    def _hit(self, point: Point, about: str) -> None:
        self.cloud.faults.hit(point, about)

    async def _for(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(least_s, most_s))

    # -- processes

    async def _crash(self) -> None:
        process = self.rng.choice(self.cloud.processes)
        self._hit(Point.CRASH, process.name)
        process.kill()

    async def _pause_scheduler(self) -> None:
        self._pause_leader("scheduler", Point.LEADER_PAUSED)

    async def _pause_monitor(self) -> None:
        self._pause_leader("monitor", Point.MONITOR_PAUSED)

    def _pause_leader(self, service: str, point: Point) -> None:
        leader = self.cloud.store.lease_holder(service).rpartition("-")[0]
        for process in self.cloud.service(service):
            life = process.life
            if process.name == leader and life is not None and not life.dead:
                self._hit(point, process.name)
                life.pause(self.rng.uniform(15, 40))

    async def _kill_worker(self) -> None:
        workers = self._host().workers()
        if workers:
            self._hit(Point.WORKER_KILLED, workers[0].name)
            workers[0].kill()

    async def _kill_supervisor(self) -> None:
        host = self._host()
        pids = sorted(host.supervisors)
        if pids:
            self._hit(Point.SUPERVISOR_KILLED, host.name)
            host.kill_supervisor(pids[0])

    async def _executor_gone(self) -> None:
        host = self._host()
        if host.barren:
            return
        self._hit(Point.EXECUTOR_GONE, host.name)
        host.lose_executor()
        await self._for(30, 150)
        host.barren = False

    async def _kill_hostd(self) -> None:
        host = self._host()
        if host.hostd is not None and not host.hostd.dead:
            self._hit(Point.HOSTD_KILLED, host.name)
            host.hostd.kill()

    # -- hosts

    async def _docker_away(self) -> None:
        host = self._host()
        if host.docker.down:
            return
        self._hit(Point.DOCKER_AWAY, host.name)
        for each in list(host.docker.containers.values()):
            host.docker.die_in_start(each.name)
        host.docker.stop()
        await self._for(2, 25)
        host.docker.start()

    async def _restart_switch(self) -> None:
        host = self._host()
        self._hit(Point.SWITCH_RESTART, host.name)
        host.kernel.switch_up = False
        await self._for(0.1, 10)
        host.kernel.restart_switch()

    async def _container_dies(self) -> None:
        host = self._host()
        names = [each.name for each in host.docker.containers.values() if each.running]
        if names:
            name = self.rng.choice(names)
            self._hit(Point.CONTAINER_DIES, name)
            host.docker.kill(name, self.rng.choice([0, 1, 137]))

    async def _run_dies(self) -> None:
        found = [
            (host, container, task)
            for host in self.cloud.hosts
            for container in host.docker.containers.values()
            for task, view in container.tasks.items()
            if view.running
        ]
        if found:
            host, container, task = self.rng.choice(found)
            self._hit(Point.RUN_DIES, task)
            FakeInits(host.docker).end(container, task, self.rng.choice([0, 1, 137]))

    async def _cut_inits(self) -> None:
        host = self._host()
        for container in host.docker.containers.values():
            for each in container.listeners:
                self._hit(Point.INIT_CUT, container.name)
                each.put_nowait(None)

    async def _start_by_hand(self) -> None:
        """`docker start` of whatever does not run, on and on for a while: the shim must refuse each."""
        host = self._host()
        for _ in range(20):
            for each in list(host.docker.containers.values()):
                if not each.running:
                    self._hit(Point.MANUAL_START, each.name)
                    await host.start_by_hand(each.id)
            await asyncio.sleep(0.25)

    async def _release_again(self) -> None:
        """A host's old word about an attachment, from before its address was given anew."""
        host = self._host()
        held = [each for each in host.kernel.attachments.values() if each.address is not None]
        if not held:
            return
        attachment = self.rng.choice(held)
        assert attachment.address is not None
        self._hit(Point.STALE_RELEASE, attachment.ipam_key)
        generation = attachment.address.generation - 1
        path = f"/v1/attachments/{attachment.ipam_key}?generation={generation}&reason=late"
        client = client_of(
            self.cloud, Life(self.cloud.loop, f"late@{host.name}"), Kind.HOST, host.name
        )
        try:
            await client.call("ipam", "DELETE", path)
        except Unavailable:
            pass  # then it did not arrive at all

    # -- Mesos

    async def _crash_master(self) -> None:
        mesos = self.cloud.mesos
        if not mesos.master_up:
            return
        self._hit(Point.MASTER_CRASH, "")
        mesos.crash_master()
        await self._for(1, 20)
        mesos.start_master()

    async def _fail_over(self) -> None:
        mesos = self.cloud.mesos
        if not mesos.master_up:
            return
        self._hit(Point.MASTER_FAILOVER, "")
        mesos.crash_master()
        await self._for(1, 20)
        mesos.take_over()

    async def _crash_agent(self) -> None:
        mesos, index = self.cloud.mesos, self._host().index
        if index in mesos.agents_down:
            return
        self._hit(Point.AGENT_CRASH, f"host-{index}")
        mesos.crash_agent(index)
        await self._for(1, 30)
        mesos.start_agent(index)

    async def _partition_short(self) -> None:
        await self._partition(Point.AGENT_PARTITION_SHORT, 2, 40)

    async def _partition_long(self) -> None:
        await self._partition(Point.AGENT_PARTITION_LONG, 100, 280)

    async def _partition(self, point: Point, least_s: float, most_s: float) -> None:
        mesos, index = self.cloud.mesos, self._host().index
        if index in mesos.agents_cut:
            return
        self._hit(point, f"host-{index}")
        mesos.partition(index, True)
        await self._for(least_s, most_s)
        mesos.partition(index, False)

    # -- what all share

    async def _cut_off(self) -> None:
        places = [each.name for each in self.cloud.hosts]
        places += [each.name for each in self.cloud.processes]
        place = self.rng.choice(places)
        self._hit(Point.HTTP_PARTITION, place)
        cut = self.cloud.net.cut_off
        cut[place] = cut.get(place, 0) + 1
        await self._for(3, 40)
        cut[place] -= 1

    async def _store_away(self) -> None:
        await self._away("store", Point.STORE_AWAY)

    async def _bus_away(self) -> None:
        await self._away("bus", Point.BUS_AWAY)

    async def _away(self, what: str, point: Point) -> None:
        self._hit(point, "")
        self.cloud.faults.away[what] += 1
        await self._for(1, 25)
        self.cloud.faults.away[what] -= 1
