"""The whole cloud in one loop: five services with their replicas, Mesos, hosts with hostd and executor, a network.

What is real is imported from `services` and `libs`; what is not is the outside: Docker, kernel, switch, registry,
load balancer and mail, each a fake that passes its real adapter's contract suite.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from libs.common.bus.base import TopicSpec
from libs.common.bus.memory import MemoryBus
from libs.common.clock import RngIds
from libs.common.config import Settings
from libs.common.events import TOPICS
from libs.common.runtime import CommonConfig
from libs.common.store.base import Write
from libs.minimesos.config import AgentConfig, MasterConfig
from libs.minimesos.local import ExecutorLaunch, LocalCluster
from services.deployer.model import DeployerConfig
from services.executor.ports import Network
from services.gateway.model import GatewayConfig
from services.ipam.definition import NetworkConfig
from services.ipam.model import IpamConfig
from services.monitor.model import MonitorConfig
from services.scheduler.settings import JobsConfig, SchedulerConfig
from tests.fakes.docker import FakeImage
from tests.simulation import parts
from tests.simulation.balancer import Balancer
from tests.simulation.faults import Faults
from tests.simulation.host import Host
from tests.simulation.loop import EPOCH_S, VirtualClock, World
from tests.simulation.mesosnet import FIRST_AGENT_PORT, MASTERS, MesosNet
from tests.simulation.process import Main, Process
from tests.simulation.tap import TapStore
from tests.simulation.trace import Trace
from tests.simulation.wire import Net

HOSTS = 3
ZONES = {f"host-{n}": "ab"[n % 2] for n in range(HOSTS)}
ONE_KIND = ("cpus:8;mem:8192;disk:20000",) * HOSTS
RESERVED = (
    ONE_KIND[0],
    "cpus:0.5;mem:256;disk:20000;cpus(gantry-fat):7.5;mem(gantry-fat):7936",
    "cpus:4;mem:4096;disk:20000;cpus(gantry):4;mem(gantry):4096",
)
ROLES = ("gantry", "gantry-fat")
"""What hosts have in the third of the seeds in which the scheduler has two roles."""
SKEW_S = 2.0
PARTITIONS = 3  # a topic; more would only take time
REPLICAS = {"gateway": 1, "deployer": 2, "scheduler": 2, "ipam": 2, "monitor": 2}
SETTINGS: Settings = {
    "gateway": GatewayConfig(),
    "deployer": DeployerConfig(keep_gone_s=600.0),
    "scheduler": SchedulerConfig(
        masters=MASTERS,
        executor_command="executor",
        leader_lease_s=12.0,
        unreachable_after_s=90.0,
        restart_backoff_max_s=20.0,
        reconcile_interval_s=60.0,
        tick_s=1.0,
        jobs=JobsConfig(warm_after_s=45.0),
    ),
    "ipam": IpamConfig(
        networks=(
            NetworkConfig.model_validate(
                {"name": "web", "cidr": "10.1.0.0/26", "vlan": 100, "gateway": "10.1.0.1"}
            ),
            NetworkConfig.model_validate(
                {"name": "work", "cidr": "10.2.0.0/26", "vlan": 200, "environments": ["lab"]}
            ),
        ),
        cooldown_s=30.0,
        leak_grace_s=60.0,
    ),
    "monitor": MonitorConfig(
        masters=MASTERS, node_poll_s=10.0, sweep_s=10.0, lag_s=60.0, leader_lease_s=12.0
    ),
}


class SimulationFailed(AssertionError):
    """An invariant does not hold."""


class Cloud:
    """See the module. Subclasses break one thing on purpose (`broken.py`)."""

    def __init__(self, world: World, settings: Settings | None = None) -> None:
        self.loop = world.loop
        self.seed = world.seed
        self.settings = {**SETTINGS, **(settings or {})}
        self.reserved = random.Random(f"{world.seed}:roles").random() < 1 / 3
        if self.reserved:
            known = self.settings["scheduler"]
            self.settings["scheduler"] = known.model_copy(update={"roles": ROLES})
        self.common = CommonConfig(cluster="sim")
        self.trace = Trace(world.loop.time)
        self.faults = Faults(random.Random(f"{world.seed}:faults"), self.trace)
        self.rng = random.Random(f"{world.seed}:world")
        self.net = Net(self.faults, self.trace)
        clock = VirtualClock(world.loop)
        self.bus = MemoryBus(clock)
        for topic in TOPICS:
            self.bus.log.ensure(TopicSpec(topic.name, PARTITIONS))
        self.on_write: list[Callable[[str, Write], None]] = []
        self.store = TapStore(self._written)
        self.images: dict[str, FakeImage] = {}
        self.mailbox = parts.Mailbox(self.faults)
        self.keys = parts.KeyBox()
        self.registry = parts.FakeResolver(self.faults, {})
        self.balancer = Balancer(clock, self.faults)
        self.failed: list[str] = []
        self._pids = 100
        self.hosts = [Host(self, index, self._skew_s()) for index in range(HOSTS)]
        self.mesos = MesosNet(self._mesos(), world.loop, self.faults, self.trace)
        self.processes = self._processes()

    # -- the parts

    def _mesos(self) -> LocalCluster:
        agents = [
            AgentConfig(
                port=FIRST_AGENT_PORT + index,
                hostname=f"host-{index}",
                resources=(RESERVED if self.reserved else ONE_KIND)[index],
                attributes=f"zone:{ZONES[f'host-{index}']}",
                recovery_timeout_s=900.0,
            )
            for index in range(HOSTS)
        ]
        return LocalCluster(
            RngIds(random.Random(f"{self.seed}:mesos")),
            EPOCH_S + self.loop.time(),
            MasterConfig(),
            agents,
            launch=self._launch,
            kill=self._kill,
        )

    def _launch(self, launch: ExecutorLaunch) -> int:
        self._pids += 1
        self.loop.call_soon(self.hosts[launch.agent].launch, launch, self._pids)
        return self._pids

    def _kill(self, agent: int, pid: int, _signal: int) -> None:
        self.loop.call_soon(self.hosts[agent].kill_supervisor, pid)

    def _processes(self) -> list[Process]:
        made = []
        for service, count in REPLICAS.items():
            for number in range(1, count + 1):
                name = f"{service}-{number}"
                made.append(Process(self, name, service, self.main_of(service), self._skew_s()))
        return made

    def _skew_s(self) -> float:
        """How wrong a clock is."""
        return self.rng.uniform(-SKEW_S, SKEW_S)

    def main_of(self, service: str) -> Main:
        """What a service runs."""
        main: Main = partial(getattr(parts, service), self)
        return main

    def wrap_network(self, network: Network, _host: Host) -> Network:
        """See HostWorld."""
        return network

    def service(self, name: str) -> list[Process]:
        """A service's replicas."""
        return [each for each in self.processes if each.service == name]

    def start(self) -> None:
        """Start everything."""
        self.loop.create_task(self.mesos.run(), name="mesos")
        for host in self.hosts:
            host.start_hostd()
        for process in self.processes:
            process.start()

    # -- what happens

    def bug(self, what: str) -> None:
        """Something that must never happen has happened."""
        self.failed.append(what)
        self.trace.add("BUG", what)

    def check(self) -> None:
        """Raise SimulationFailed when something has failed."""
        if self.failed:
            raise SimulationFailed(self.failed[0])

    def _written(self, collection: str, write: Write) -> None:
        self.faults.dirty = True
        if str(write.body.get("message", "")).startswith("ExecutorInfo is not compatible"):
            self.bug(f"{write.id} was launched in another role than its host's executor")
        state = write.body.get("state", "")
        events = " ".join(each.topic for each in write.events)
        self.trace.add(collection, f"{write.id}:{write.version + 1} {state} {events}")
        for listener in self.on_write:
            listener(collection, write)
