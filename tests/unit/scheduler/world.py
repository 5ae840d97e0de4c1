"""A scheduler's memory without its surroundings: inputs in, drafts committed as if saved, actions kept."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from libs.common.events import Event
from libs.common.spec import Constraint, HealthCheck, InstanceSpec, Resources
from libs.common.task import TaskReport
from libs.mesos import events as mesos
from libs.mesos.messages import TaskStatus
from services.scheduler.cluster import Cluster
from services.scheduler.core import Input, decide
from services.scheduler.model import Action, Instance, InstanceId, Kill, Launch, Tick, Unwant, Want
from services.scheduler.networks import AddressPool, Network, Pools
from services.scheduler.settings import SchedulerConfig
from services.scheduler.tasks import TaskFactory

CONFIG = SchedulerConfig()
FACTORY = TaskFactory("test", "true")
IMAGE = "web@sha256:" + "0" * 64


def spec(
    cpus: float = 0.5,
    mem_mib: int = 64,
    constraints: tuple[Constraint, ...] = (),
    health: bool = False,
) -> InstanceSpec:
    """An instance's spec."""
    return InstanceSpec(
        image=IMAGE,
        network="web",
        resources=Resources(cpus=cpus, mem_mib=mem_mib),
        constraints=constraints,
        health=(HealthCheck(type="tcp", port=80),) if health else (),
    )


def free(**networks: int | Network) -> Pools:
    """What ipam says: so many addresses are free in a network's one pool, or what it has."""
    return Pools(
        {
            name: of if isinstance(of, Network) else network(AddressPool(family=4, free=of))
            for name, of in networks.items()
        }
    )


def network(*pools: AddressPool, **scope: Any) -> Network:
    """A network with pools."""
    families = tuple(sorted({each.family for each in pools}))
    return Network(families=families, pools=pools, **scope)


def want(name: str, of: InstanceSpec | None = None, app: str = "acme/web") -> Want:
    """An instance is wanted."""
    return Want(
        Instance(id=InstanceId(name), app=app, release=1, deployment="d", spec=of or spec())
    )


def unwant(name: str) -> Unwant:
    """An instance is not wanted any more."""
    return Unwant(InstanceId(name), "acme/web", "scaled down")


def offer(
    number: int, agent: str = "a1", cpus: float = 4.0, mem: float = 1024.0, **attributes: str
) -> dict[str, Any]:
    """An offer as Mesos sends it."""
    resources = [
        {"name": name, "type": "SCALAR", "scalar": {"value": amount}}
        for name, amount in (("cpus", cpus), ("mem", mem), ("disk", 1000.0))
    ]
    texts = [
        {"name": name, "type": "TEXT", "text": {"value": text}} for name, text in attributes.items()
    ]
    return {
        "id": {"value": f"o{number}"},
        "agent_id": {"value": agent},
        "hostname": f"host-{agent}",
        "resources": resources,
        "attributes": texts,
        "allocation_info": {"role": "gantry"},
    }


def update(
    task: str,
    state: str,
    *,
    agent: str = "a1",
    reason: str = "",
    healthy: bool | None = None,
    container: str = "",
    refused: str = "",
) -> mesos.Update:
    """A status update as Mesos sends it."""
    address = "10.0.0.1" if container else ""
    report = TaskReport(container=container, address=address, refused=refused)
    status: dict[str, Any] = {
        "task_id": {"value": task},
        "agent_id": {"value": agent},
        "state": state,
        "source": "SOURCE_AGENT" if reason else "SOURCE_EXECUTOR",
        "uuid": "AAAA",
        "data": b64encode(report.model_dump_json().encode()).decode(),
    }
    if reason:
        status["reason"] = reason
    if healthy is not None:
        status["healthy"] = healthy
    return mesos.Update(TaskStatus(**status))  # type: ignore[typeddict-item]


@dataclass
class Desk:
    """One leader, deciding."""

    config: SchedulerConfig = CONFIG
    now: float = 1000.0
    cluster: Cluster = field(default_factory=Cluster)
    actions: list[Action] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    offers: int = 0

    def give(self, *inputs: Input) -> list[Action]:
        """Decide on inputs and commit; returns the actions of this batch."""
        draft = decide(self.cluster, inputs, self.now, self.config, FACTORY)
        versions = {key: each.version + 1 for key, each in draft.changed.items()}
        self.cluster.commit(draft, versions)
        self.actions.extend(draft.actions)
        for each in draft.events.values():
            self.events.extend(each)
        return draft.actions

    def subscribe(self) -> list[Action]:
        """Mesos has us."""
        return self.give(mesos.Subscribed("f1", 15.0, {}))

    def offer(self, *agents: str, cpus: float = 4.0, **attributes: str) -> list[Action]:
        """An offer of each agent comes in."""
        made = []
        for agent in agents or ("a1",):
            self.offers += 1
            made.append(offer(self.offers, agent, cpus, 1024.0, **attributes))
        return self.give(mesos.Offers(tuple(made)))  # type: ignore[arg-type]

    def tell(self, task: str, state: str, **said: Any) -> list[Action]:
        """A status update comes in; `said` as `update` takes it."""
        return self.give(update(task, state, **said))

    def running(self, name: str = "i1", of: InstanceSpec | None = None) -> Instance:
        """An instance that runs in container `c-<name>`."""
        self.subscribe()
        self.give(want(name, of))
        self.offer()
        self.tell(f"{name}.1", "TASK_RUNNING", container=f"c-{name}")
        return self[name]

    def tick(self, after_s: float) -> list[Action]:
        """Time passes."""
        self.now += after_s
        return self.give(Tick())

    def __getitem__(self, name: str) -> Instance:
        return self.cluster.instances[InstanceId(name)]

    def kinds(self) -> list[str]:
        """The names of the events so far."""
        return [type(each).__name__ for each in self.events]


def launches(actions: list[Action]) -> list[str]:
    """The tasks that were launched."""
    found = [each for each in actions if isinstance(each, Launch)]
    return [info["task_id"]["value"] for each in found for info in each.tasks]


def kills(actions: list[Action]) -> list[str]:
    """The tasks that were killed."""
    return [each.task for each in actions if isinstance(each, Kill)]
