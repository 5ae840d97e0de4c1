"""From our terms to Mesos' and back: TaskInfo, ExecutorInfo, FrameworkInfo, Offer."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from libs.common.spec import InstanceSpec
from libs.common.task import TaskPayload
from libs.mesos import calls
from libs.mesos.messages import Attribute, ExecutorInfo, FrameworkInfo, Resource, TaskInfo
from libs.mesos.messages import Offer as MesosOffer
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    AgentId,
    Amounts,
    Instance,
    Offer,
    OfferId,
    SchedulerConfig,
)

EXECUTOR_ID = "gantry-executor"
CAPABILITIES = ("MULTI_ROLE", "PARTITION_AWARE")


def framework_info(config: SchedulerConfig, framework_id: str) -> FrameworkInfo:
    """How we introduce ourselves; with the id that we had before, if any."""
    info: FrameworkInfo = {
        "user": "root",
        "name": config.framework_name,
        "roles": [config.role],
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
    """The one executor of every host. It must never change: Mesos refuses another under the same id."""
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
    role: str
    executor: ExecutorInfo

    def task_info(self, instance: Instance) -> TaskInfo:
        """The task of the instance's current attempt, on its agent."""
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
            cleanup=instance.cleanup,
            traceparent=instance.traceparent,
        )
        return {
            "name": instance.id,
            "task_id": {"value": instance.attempt},
            "agent_id": {"value": instance.agent},
            "resources": _resources(Amounts.of(instance.spec), self.role),
            "executor": self.executor,
            "data": b64encode(payload.model_dump_json().encode()).decode(),
            "kill_policy": calls.kill_policy(instance.spec.stop_grace_s),
        }


_PLACEMENT = {"spread": (), "apart_from": (), "priority": 0, "disruption_budget": 0}


def _for_host(spec: InstanceSpec) -> InstanceSpec:
    """Without what only placement looks at: an older executor would refuse it, and take its container for another."""
    if all(getattr(spec, name) == nothing for name, nothing in _PLACEMENT.items()):
        return spec
    return spec.model_copy(update=_PLACEMENT)


def _resources(amounts: Amounts, role: str) -> list[Resource]:
    scalars = (("cpus", amounts.cpus), ("mem", amounts.mem_mib), ("disk", amounts.disk_mib))
    return [
        calls.scalar(name, amount, role="*", allocation_info={"role": role})
        for name, amount in scalars
        if amount > 0
    ]


def parse_offer(offer: MesosOffer, now: float) -> Offer:
    """What we read of an offer; revocable resources are left alone."""
    sums = {"cpus": 0.0, "mem": 0.0, "disk": 0.0}
    for resource in offer["resources"]:
        if resource["name"] in sums and "scalar" in resource and "revocable" not in resource:
            sums[resource["name"]] += resource["scalar"]["value"]
    return Offer(
        id=OfferId(offer["id"]["value"]),
        agent=AgentId(offer["agent_id"]["value"]),
        hostname=offer["hostname"],
        free=Amounts(sums["cpus"], sums["mem"], sums["disk"]),
        attributes=attributes(offer.get("attributes", [])),
        received_at=now,
    )


def attributes(found: list[Attribute]) -> Mapping[str, str]:
    """An agent's attributes as text."""
    texts = {}
    for each in found:
        if "text" in each:
            texts[each["name"]] = each["text"]["value"]
        elif "scalar" in each:
            texts[each["name"]] = f"{each['scalar']['value']:g}"
    return texts
