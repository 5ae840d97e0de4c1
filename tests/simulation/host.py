"""One host of the world: its kernel, switch and engine, and the real hostd and executor on them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from libs.common.clock import RngIds
from libs.common.errors import GantryError, Unavailable
from libs.common.http import Kind, Response, ServiceClient
from libs.common.tokens import derive_key
from libs.mesos.environment import ExecutorEnvironment
from libs.mesos.errors import MesosError
from libs.minimesos.local import ExecutorLaunch
from services.executor.config import ExecutorConfig
from services.executor.hostd import HostdClient
from services.executor.janitor import Janitor
from services.executor.mesos import MesosDriver
from services.executor.model import ContainerName, Identity, Ref
from services.executor.ports import Network
from services.executor.service import ExecutorService
from services.hostd.api import SocketAuthenticator, socket_routes
from services.hostd.deployer import HttpDeliveries
from services.hostd.ipam import HttpIpam
from services.hostd.main import make_app
from services.hostd.ports import Ports
from services.hostd.service import HostdService
from services.hostd.settings import HostdConfig
from tests.fakes.disk import FakeDisk, MemoryLedger
from tests.fakes.docker import FakeDocker, FakeEngine, FakeImage
from tests.fakes.inits import FakeInits
from tests.fakes.journal import MemoryJournal
from tests.fakes.network import FakeHost, FakeNetns, FakeOutputs, FakeRegistry, FakeState
from tests.fakes.prober import FakeProber
from tests.fakes.switch import FakeSwitch
from tests.simulation.engine import HostdEngine, claim_on
from tests.simulation.faults import Point
from tests.simulation.journal import DyingJournal
from tests.simulation.life import Life, LifeClock
from tests.simulation.loop import VirtualClock
from tests.simulation.mesosnet import MesosNet, MesosTransport
from tests.simulation.process import (
    SECRET,
    Surroundings,
    client_of,
    described,
    leaves,
    make_telemetry,
    rng_of,
)

POOL_IDLE_S = 20.0
RESTART_S = (0.3, 3.0)  # of hostd and of the executor's worker
_STATE_CRASHES: Mapping[str, Point] = {
    "state.save": Point.HOSTD_CRASH_BEFORE,
    "state.saved": Point.HOSTD_CRASH_AFTER,
}


class HostWorld(Surroundings, Protocol):
    """What of the world a host needs."""

    mesos: MesosNet
    images: dict[str, FakeImage]

    def wrap_network(self, network: Network, host: Host) -> Network:
        """The executor's view of hostd; broken on purpose in some tests."""
        ...


class Host:
    """A machine by name. hostd and the executor's worker are processes that come and go on it, by its clock."""

    def __init__(self, world: HostWorld, index: int, skew_s: float = 0.0) -> None:
        self.world = world
        self.index = index
        self.name = f"host-{index}"
        self.skew_s = skew_s
        self.kernel = FakeHost(cluster=world.common.cluster, fault=self._kernel_fault)
        clock = VirtualClock(world.loop, self.skew_s)
        self.claimed: dict[str, int] = {}  # container → generation of the leave it was started with
        self.docker = FakeDocker(clock, world.faults.rng, claim=claim_on(self.kernel, self.claimed))
        self.docker.fault = self._docker_fault
        self.docker.images = world.images
        self.disk = FakeDisk(world.images)
        self.ledger = MemoryLedger()
        self.hostd: Life | None = None
        self.supervisors: dict[int, Supervisor] = {}
        self.ends = MemoryJournal()
        self.journals: list[MemoryJournal] = []  # of all executors that there ever were
        self.by_hand = ""  # the container that somebody is about to start
        self.barren = False  # does every executor end at once?
        self.fragile = False  # does a supervisor die with its worker, and that often (journal.py)?

    def life(self, what: str) -> Life:
        """A process on this host begins, and goes by its clock."""
        life = Life(self.world.loop, f"{what}@{self.name}", self.skew_s)
        life.on_skew = partial(self.world.faults.hit, Point.HOST_CLOCK_SKEW, life.name)
        return life

    # -- hostd

    def start_hostd(self) -> None:
        """Begin hostd's next life."""
        life = self.hostd = self.life("hostd")
        life.on_kill = self._hostd_killed
        self.world.trace.add(life.name, "starts")
        life.spawn(self._run_hostd(life))

    def _hostd_killed(self, life: Life) -> None:
        self.world.trace.add(life.name, "is killed")
        self._again(self.start_hostd)

    def _again(self, start: object) -> None:
        assert callable(start)
        self.world.loop.call_later(self.world.faults.rng.uniform(*RESTART_S), start)

    async def _run_hostd(self, life: Life) -> None:
        rng = rng_of(self.world, life)
        clock = LifeClock(life)
        peers = client_of(self.world, life, Kind.HOST, self.name)
        own_key = derive_key(SECRET, Kind.HOST, self.name)
        ports = Ports(
            network=FakeNetns(self.kernel),
            switch=FakeSwitch(self.kernel),
            registry=FakeRegistry(self.kernel),
            state=FakeState(self.kernel),
            ipam=HttpIpam(peers, self.name),
            engine=HostdEngine(self.docker, self.kernel.cluster),
            outputs=FakeOutputs(self.kernel),
            deliveries=HttpDeliveries(peers, self.name, own_key, rng),
            measure=self.disk.measure,
        )
        service = HostdService(
            self.kernel.cluster,
            ports,
            # Images are pulled within seconds here, and what is left must be gone by the end.
            HostdConfig(host=self.name, launch_grace_s=60.0),
            data_dir=self.world.common.data_dir,
            clock=clock,
            ids=RngIds(rng),
            rng=rng,
            telemetry=make_telemetry(self.world, "hostd", life.name),
        )
        app = make_app(service, socket_routes(service), SocketAuthenticator(self.name))
        try:
            serve = self.world.net.server(life)
            async with service.running(), serve(f"hostd@{self.name}", app):
                await asyncio.Event().wait()
        except Exception as error:
            if not life.dead:
                self._died(life, error)
                self._again(self.start_hostd)

    def _died(self, life: Life, error: Exception) -> None:
        self.world.trace.add(life.name, f"fails: {error!r:.300}")
        for each in leaves(error):
            if not isinstance(each, GantryError | MesosError | asyncio.CancelledError):
                self.world.bug(f"{life.name} died of {described(each)}")
        life.dead = True

    def _kernel_fault(self, step: str) -> None:
        faults, hostd = self.world.faults, self.hostd
        faults.dirty = True
        point = _STATE_CRASHES.get(step)
        if hostd is not None and point is not None and not hostd.dead and faults.strike(point):
            hostd.kill()
        if hostd is not None and hostd.dead:
            raise Unavailable("this hostd is dead")
        if faults.strike(Point.HOSTD_DISK):
            raise Unavailable(f"{step} failed")

    async def _docker_fault(self, step: str, name: str) -> None:
        """Before and after each call: it may fail, whether the deed is done or not."""
        faults = self.world.faults
        faults.dirty = True
        if step == "before:remove":
            self._check_revoked(name)
        if faults.strike(Point.DOCKER_FAILS):
            raise Unavailable(f"Docker: {step} {name}: connection reset")

    def _check_revoked(self, name: str) -> None:
        """The order at the end: nobody has leave to start what is about to be removed."""
        container = self.docker.by_name(name)
        if container is None:
            return
        for namespace, attachment in self.kernel.attachments.items():
            if attachment.container != container.name:
                continue
            generation = self.kernel.generations.get(namespace, 0)
            left = container.id in self.kernel.registrations
            if left or generation <= self.claimed.get(container.id, -1):
                self.world.bug(f"{name} is removed before its leave to start is revoked")

    async def start_by_hand(self, container_id: str) -> None:
        """Somebody types `docker start`."""
        self.by_hand = container_id
        try:
            await self.docker.launch(Ref(ContainerName(container_id), container_id), "")
        except GantryError as error:
            self.world.trace.add(self.name, f"docker start by hand: {error}")
        finally:
            self.by_hand = ""

    # -- the executor

    def launch(self, launch: ExecutorLaunch, pid: int) -> None:
        """The agent starts an executor: its supervisor is the process that the agent sees."""
        if self.barren:
            self.world.loop.call_later(0.1, self.world.mesos.exited, self.index, pid, 1)
            return
        self.supervisors[pid] = Supervisor(self, launch.environment, pid)
        self.supervisors[pid].start_worker()

    def kill_supervisor(self, pid: int) -> None:
        """kill -9 of the supervisor; the worker goes with it, containers stay."""
        supervisor = self.supervisors.pop(pid, None)
        if supervisor is not None:
            supervisor.end()
            self.world.mesos.exited(self.index, pid, 9)

    def lose_executor(self) -> None:
        """It dies, and no other lives as long as `barren` is true."""
        self.barren = True
        for pid in sorted(self.supervisors):
            self.kill_supervisor(pid)

    def workers(self) -> list[Life]:
        """The live workers on this host."""
        return [s.worker for s in self.supervisors.values() if s.worker and not s.worker.dead]


class Supervisor:
    """The tiny process that Mesos sees; here it does what `services/executor/supervisor` does: restart the worker."""

    def __init__(self, host: Host, environment: Mapping[str, str], pid: int) -> None:
        self.host = host
        self.pid = pid
        self.environment = environment
        self.journal = MemoryJournal()
        host.journals.append(self.journal)
        self.worker: Life | None = None
        self.ended = False

    def start_worker(self) -> None:
        """Begin the worker's next life."""
        if self.ended:
            return
        world = self.host.world
        life = self.worker = self.host.life("executor")
        life.on_kill = self._worker_killed
        world.trace.add(life.name, "starts")
        life.spawn(self._run(life))

    def _worker_killed(self, life: Life) -> None:
        if self.ended:
            return
        self.host.world.trace.add(life.name, "is killed")
        if self.host.fragile:
            self.host.world.loop.call_soon(self.host.kill_supervisor, self.pid)
        else:
            self.host._again(self.start_worker)

    def end(self) -> None:
        """The supervisor dies, and its worker with it."""
        self.ended = True
        self.host.world.trace.add(f"supervisor@{self.host.name}", "ends")
        if self.worker is not None:
            self.worker.kill()

    async def _run(self, life: Life) -> None:
        host, world = self.host, self.host.world
        clock, rng = LifeClock(life), rng_of(world, life)
        environment = ExecutorEnvironment.parse(self.environment)
        cluster = world.common.cluster
        hostd = HostdClient(_ClientOfHostd(client_of(world, life, Kind.HOST, host.name), host.name))
        config = ExecutorConfig(
            cluster=cluster,
            agent=host.name,
            orphan_grace_s=120.0,
            pool_idle_s=POOL_IDLE_S,
            pool_warm_s=60.0,
        )
        engine = FakeEngine(host.docker, cluster=cluster, agent=host.name)
        telemetry = make_telemetry(world, "executor", life.name)
        service = ExecutorService(
            driver=MesosDriver(
                MesosTransport(world.mesos, life),
                environment,
                clock=clock,
                rng=rng,
                ids=RngIds(rng),
            ),
            engine=engine,
            janitor=Janitor(
                engine,
                host.ledger,
                host.disk.measure,
                (host.docker.root,),
                clock=clock,
                log=telemetry.log,
                config=config,
            ),
            network=world.wrap_network(hostd, host),
            deliveries=hostd,
            prober=FakeProber(host.docker),
            inits=FakeInits(host.docker),
            journal=DyingJournal(self.journal, life, world.faults, fragile=host.fragile),
            ends=host.ends,  # who dies at it dies as after a line of the journal, which is before
            clock=clock,
            rng=rng,
            telemetry=telemetry,
            config=config,
            identity=Identity(cluster, host.name, f"run-{self.pid}"),
        )
        try:
            await service.run()
        except Exception as error:
            if not life.dead:
                host._died(life, error)
                host._again(self.start_worker)
            return
        world.trace.add(life.name, "is done")
        host.supervisors.pop(self.pid, None)
        self.ended = life.dead = True
        world.mesos.exited(host.index, self.pid, 0)


class _ClientOfHostd:
    """The executor calls `hostd`; which one is meant is a matter of the socket."""

    def __init__(self, client: ServiceClient, host: str) -> None:
        self._client = client
        self._host = host

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """See ServiceClient."""
        name = f"{service}@{self._host}"
        return await self._client.call(
            name, method, path, body=body, headers=headers, timeout_s=timeout_s
        )
