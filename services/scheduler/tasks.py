"""From our terms to Mesos' and back: TaskInfo, ExecutorInfo, FrameworkInfo, Offer."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field

from libs.common.spec import InstanceSpec
from libs.common.task import TaskPayload
from libs.common.wishes import PATIENT
from libs.mesos import calls
from libs.mesos.attributes import as_texts
from libs.mesos.messages import ExecutorInfo, FrameworkInfo, Resource, TaskInfo
from libs.mesos.messages import Offer as MesosOffer
from services.scheduler.model import EXECUTOR_AMOUNTS, AgentId, Amounts, Instance, Offer, OfferId
from services.scheduler.per_spec import PerSpec
from services.scheduler.settings import SchedulerConfig

EXECUTOR_ID = "gantry-executor"
CAPABILITIES = ("MULTI_ROLE", "PARTITION_AWARE")


def framework_info(config: SchedulerConfig, framework_id: str) -> FrameworkInfo:
    """How we introduce ourselves; with the id that we had before, if any."""
    info: FrameworkInfo = {
        "user": "root",
        "name": config.framework_name,
        "roles": list(config.roles),
        "failover_timeout": config.failover_timeout_s,
        "checkpoint": True,
        "capabilities": [{"type": each} for each in CAPABILITIES],
    }
    if config.principal:
        info["principal"] = config.principal
    if framework_id:
        info["id"] = {"value": framework_id}
    return info


def executor_info(command: str, role: str) -> ExecutorInfo:
    """The executor of every host in a role. It must never change: Mesos refuses another under the same id."""
    return {
        "executor_id": {"value": EXECUTOR_ID},
        "type": "CUSTOM",
        "name": EXECUTOR_ID,
        "command": {"shell": True, "value": command},
        "resources": _resources(EXECUTOR_AMOUNTS, role),
    }


@dataclass(frozen=True)
class TaskFactory:
    """Makes the TaskInfo of an attempt."""

    cluster: str
    command: str  # of the executor
    _executors: dict[str, ExecutorInfo] = field(default_factory=dict, compare=False)

    def executor(self, role: str) -> ExecutorInfo:
        """The executor of hosts that are ours in a role."""
        known = self._executors.get(role)
        if known is None:
            known = self._executors[role] = executor_info(self.command, role)
        return known

    def task_info(self, instance: Instance, purse: Purse, role: str) -> TaskInfo:
        """The task of the instance's current attempt, on its agent, paid out of the purse of offers in a role."""
        run = instance.run
        payload = TaskPayload(
            cluster=self.cluster,
            app=instance.app,
            instance=instance.id,
            attempt=instance.attempt,
            generation=instance.generation,
            release=instance.release,
            deployment=instance.deployment,
            spec=_for_host(instance.spec),
            adopt=instance.adopt,
            ending=instance.ending,
            cleanup=instance.cleanup,
            traceparent=instance.traceparent,
            run=run.payload(instance.id, instance.hostname) if run is not None else None,
        )
        return {
            "name": instance.id,
            "task_id": {"value": instance.attempt},
            "agent_id": {"value": instance.agent},
            "resources": purse.take(Amounts.of(instance.spec)),
            "executor": self.executor(role),
            "data": b64encode(_written(payload)).decode(),
            "kill_policy": calls.kill_policy(instance.spec.stop_grace_s),
        }


_PLACEMENT = {
    "spread": (),
    "apart_from": (),
    "priority": 0,
    "disruption_budget": 0,
    "disruption_budget_pct": 0,
    "unreachable": PATIENT,
}


@PerSpec
def _for_host(spec: InstanceSpec) -> InstanceSpec:
    """Without what only the scheduler looks at: an older executor would refuse it, and not know its container."""
    return spec.model_copy(update=_PLACEMENT)


@PerSpec
def _spec_json(spec: InstanceSpec) -> str:
    return spec.model_dump_json()


def _written(payload: TaskPayload) -> bytes:
    """The payload as JSON, its spec at the end."""
    rest = payload.model_dump_json(exclude={"spec"})
    return f'{rest[:-1]},"spec":{_spec_json(payload.spec)}}}'.encode()


class Purse:
    """The resources of an agent's offers, out of which tasks are paid: reserved ones first, each as it was offered.

    The executor is paid out of what is not reserved, on each host the same; `executor` leaves so much of that for it.
    """

    def __init__(self, offers: Iterable[Offer], executor: Amounts) -> None:
        self._pieces: dict[str, list[tuple[Resource, float]]] = {}
        kept = {"cpus": executor.cpus, "mem": executor.mem_mib, "disk": executor.disk_mib}
        for resource in sorted((r for o in offers for r in o.resources), key=_is_free_for_all):
            name, value = resource["name"], resource["scalar"]["value"]
            if _is_free_for_all(resource):
                for_executor = min(value, kept[name])
                kept[name] -= for_executor
                value -= for_executor
            self._add(self._pieces.setdefault(name, []), resource, value)

    def _add(self, pieces: list[tuple[Resource, float]], resource: Resource, value: float) -> None:
        """What several offers have of the same is one."""
        if pieces and _kind(pieces[-1][0]) == _kind(resource):
            pieces[-1] = (resource, pieces[-1][1] + value)
        else:
            pieces.append((resource, value))

    def take(self, amounts: Amounts) -> list[Resource]:
        """Resources that add up to the amounts."""
        paid: list[Resource] = []
        wanted = (("cpus", amounts.cpus), ("mem", amounts.mem_mib), ("disk", amounts.disk_mib))
        for name, amount in wanted:
            pieces = self._pieces.get(name, [])
            while amount > SMALLEST and pieces:
                resource, value = pieces[0]
                # The last piece pays in full: what it lacks are binary fractions.
                part = amount if len(pieces) == 1 else min(value, amount)
                if part > SMALLEST:
                    paid.append({**resource, "scalar": {"value": part}})
                amount -= part
                pieces[0] = (resource, value - part)
                if pieces[0][1] <= SMALLEST and len(pieces) > 1:
                    pieces.pop(0)
        return paid


SMALLEST = 1e-6
SCALARS = ("cpus", "mem", "disk")


def _kind(resource: Resource) -> dict[str, object]:
    return {name: value for name, value in resource.items() if name != "scalar"}


def _reserved_for(resource: Resource) -> str:
    """The role for which it is reserved; "*" is nobody's."""
    reservations = resource.get("reservations")
    return reservations[-1]["role"] if reservations else resource.get("role", "*")


def _is_free_for_all(resource: Resource) -> bool:
    """Is it reserved for nobody."""
    return _reserved_for(resource) == "*"


def _resources(amounts: Amounts, role: str) -> list[Resource]:
    scalars = (("cpus", amounts.cpus), ("mem", amounts.mem_mib), ("disk", amounts.disk_mib))
    return [
        calls.scalar(name, amount, role="*", allocation_info={"role": role})
        for name, amount in scalars
        if amount > 0
    ]


def parse_offer(offer: MesosOffer, now: float) -> Offer:
    """What we read of an offer; revocable resources and volumes are left alone."""
    usable = tuple(each for each in offer["resources"] if each["name"] in SCALARS and _usable(each))
    return Offer(
        id=OfferId(offer["id"]["value"]),
        agent=AgentId(offer["agent_id"]["value"]),
        hostname=offer["hostname"],
        free=_sum(usable),
        attributes=as_texts(offer.get("attributes", [])),
        received_at=now,
        resources=usable,
        unreserved=_sum(filter(_is_free_for_all, usable)),
        role=offer["allocation_info"]["role"],
        reserved_for=tuple(
            dict.fromkeys(role for role in map(_reserved_for, usable) if role != "*")
        ),
        executor=any(each["value"] == EXECUTOR_ID for each in offer.get("executor_ids", ())),
    )


def _sum(resources: Iterable[Resource]) -> Amounts:
    sums = dict.fromkeys(SCALARS, 0.0)
    for resource in resources:
        sums[resource["name"]] += resource["scalar"]["value"]
    return Amounts(*sums.values())


def _usable(resource: Resource) -> bool:
    """Not what may be taken back, nor a volume with somebody's data."""
    special = "revocable" in resource or "disk" in resource or "shared" in resource
    return "scalar" in resource and not special
