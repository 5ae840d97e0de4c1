"""ACCEPT: are the offers good, and what happens to each operation."""

from __future__ import annotations

from libs.minimesos.master import operations
from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Agent, Executor, Framework, Offer, Task, id_json
from libs.minimesos.master.offers import take_offer
from libs.minimesos.master.tasks import add_task, count_end, lose
from libs.minimesos.master.validate import (
    Invalid,
    check_checks,
    check_executor,
    check_fits,
    check_group_executor,
    check_identity,
    check_shape,
    executor_resources,
    task_resources,
)
from libs.minimesos.packed import packed
from libs.minimesos.resources import NOTHING, Resources
from libs.minimesos.schema import Json
from libs.minimesos.schema_calls import EXECUTOR_INFO
from libs.minimesos.statuses import MASTER, make_status


def accept(core: Core, framework: Framework, body: Json) -> None:
    """ACCEPT. Everything that is wrong is told by events; what is left over returns."""
    core.counters["messages_launch_tasks"] += 1
    offer_ids = [o["value"] for o in body.get("offer_ids", [])]
    ops: list[Json] = body.get("operations", [])
    refuse_s = body.get("filters", {}).get("refuse_seconds", 5.0)
    offers, error = _check_offers(core, framework, offer_ids)
    if error is not None:
        for offer in offers:
            take_offer(core, offer)
            core.allocator.recover(framework.id, offer.agent_id, offer.resources, core.now)
        _drop(core, framework, ops, error, "REASON_INVALID_OFFERS")
        return
    agent = core.state.agents[offers[0].agent_id]
    held = NOTHING
    for offer in offers:
        framework.counters["offers/accepted"] += 1
        take_offer(core, offer)
        held = held + offer.resources
    role = offers[0].role
    for op in ops:
        held = _apply(core, framework, agent, op, held, role)
    core.allocator.recover(framework.id, agent.id, held, core.now, refuse_s)


def _check_offers(
    core: Core, framework: Framework, offer_ids: list[str]
) -> tuple[list[Offer], str | None]:
    """The offers that exist and are the framework's, and what is wrong with the whole."""
    if not offer_ids:
        return [], "No offers specified"
    known = [framework.offers[i] for i in dict.fromkeys(offer_ids) if i in framework.offers]
    for offer_id in offer_ids:
        offer = core.state.offers.get(offer_id)
        if offer is None:
            return known, f"Offer {offer_id} is no longer valid"
        if offer_ids.count(offer_id) > 1:
            return known, f"Duplicate offer {offer_id} in offer list"
        if offer.framework_id != framework.id:
            return known, (
                f"Offer {offer_id} has invalid framework {offer.framework_id}"
                f" while framework {framework.id} is expected"
            )
    first = known[0]
    for offer in known:
        if offer.agent_id != first.agent_id:
            return known, (
                "Aggregated offers must belong to one single agent."
                f" Offer {offer.id} uses agent {offer.agent_id} and agent {first.agent_id}"
            )
        if offer.role != first.role:
            return known, (
                "Aggregated offers must be allocated to the same role."
                f" Offer {offer.id} uses role '{offer.role} but another is using role '{first.role}"
            )
    return known, None


def _drop(core: Core, framework: Framework, ops: list[Json], error: str, reason: str) -> None:
    state = "TASK_DROPPED" if framework.partition_aware else "TASK_LOST"
    message = f"Task launched with invalid offers: {error}"
    for op in ops:
        tasks = op.get("launch", {}).get("task_infos", [])
        tasks = tasks or op.get("launch_group", {}).get("task_group", {}).get("tasks", [])
        for task in tasks:
            _refuse(core, framework, task, state, reason, message)
        if "id" in op:
            operations.refuse(
                core, framework, op, f"Operation attempted with invalid resources: {error}"
            )


def _refuse(
    core: Core, framework: Framework, task: Json, state: str, reason: str, message: str
) -> None:
    """Tell of a task that was never launched."""
    status = make_status(
        task["task_id"]["value"],
        state,
        MASTER,
        core.now,
        message=message,
        reason=reason,
        agent_id=task["agent_id"]["value"],
    )
    core.event(framework, "UPDATE", {"status": status})
    count_end(core, framework, state, MASTER, reason)


def _apply(
    core: Core, framework: Framework, agent: Agent, op: Json, held: Resources, role: str
) -> Resources:
    """One operation on what is held of the offers; what is left."""
    kind = op.get("type")
    if kind is None:
        return held
    framework.counters[f"operations/{kind.lower()}"] += 1
    framework.counters["operations"] += 1
    if kind == "LAUNCH":
        for task in op.get("launch", {}).get("task_infos", []):
            held = _launch(core, framework, agent, task, held, role)
        return held
    if kind == "LAUNCH_GROUP":
        return _launch_group(core, framework, agent, op["launch_group"], held, role)
    return operations.apply(core, framework, agent, op, held, role)


# ---- tasks --------------------------------------------------------------------------------------
def _launch(
    core: Core, framework: Framework, agent: Agent, info: Json, held: Resources, role: str
) -> Resources:
    try:
        check_identity(info, framework, agent)
        check_checks(info)
        resources = task_resources(info, role)
        check_shape(info)
        executor = None
        needed = resources
        if "executor" in info:
            executor, own = _executor(core, framework, agent, info["executor"], role)
            needed = needed + own
        check_fits(needed, held, "task")
    except Invalid as error:
        _refuse(core, framework, info, "TASK_ERROR", "REASON_TASK_INVALID", str(error))
        return held
    message = _run_message(framework, executor)
    message["task_json"] = _start(core, framework, agent, info, resources, executor)
    if not core.to_agent(agent, message):
        _lost_in_flight(core, framework, agent, info)
    return held - needed


def _executor(
    core: Core, framework: Framework, agent: Agent, given: Json, role: str
) -> tuple[Executor, Resources]:
    """The executor of a task, with the resources it still needs (none when it runs already)."""
    executor_id = given["executor_id"]["value"]
    existing = agent.executors.get((framework.id, executor_id))
    if existing is not None and existing.given is given:
        return existing, NOTHING
    info = {**given, "framework_id": given.get("framework_id", id_json(framework.id))}
    own = executor_resources(info, role)
    if own:
        info["resources"] = own.to_json(refined=True)
    info = {name: info[name] for name in _EXECUTOR_ORDER if name in info}
    check_executor(info, framework, existing)
    if existing is not None:
        existing.given = given
        return existing, NOTHING
    return Executor(framework.id, agent.id, executor_id, info, own, given), own


_EXECUTOR_ORDER = tuple(field.name for field in EXECUTOR_INFO.fields)


def _start(
    core: Core,
    framework: Framework,
    agent: Agent,
    info: Json,
    resources: Resources,
    executor: Executor | None,
) -> bytes:
    """Book a task and its executor; the TaskInfo without executor, serialised."""
    if executor is not None and (framework.id, executor.executor_id) not in agent.executors:
        agent.executors[(framework.id, executor.executor_id)] = executor
        framework.executors[(agent.id, executor.executor_id)] = executor
        agent.used = agent.used + executor.resources
        framework.used = framework.used + executor.resources
    info["resources"] = resources.to_json(refined=True)
    info.pop("executor", None)
    task = Task(
        info["task_id"]["value"],
        info["name"],
        framework.id,
        agent.id,
        "" if executor is None else executor.executor_id,
    )
    task.info = packed(info)
    task.resources = resources
    add_task(core, framework, agent, task)
    return task.info


def _run_message(framework: Framework, executor: Executor | None) -> Json:
    message: Json = {"type": "RUN", "framework_info": framework.info}
    if executor is not None:
        message["executor_info"] = executor.info
    return message


def _lost_in_flight(core: Core, framework: Framework, agent: Agent, info: Json) -> None:
    """The agent went away under the offer: the launch is lost."""
    task = framework.tasks[info["task_id"]["value"]]
    state = "TASK_DROPPED" if framework.partition_aware else "TASK_LOST"
    message = "Agent disconnected"
    lose(core, framework, agent, task, state, "REASON_AGENT_DISCONNECTED", message)


def _launch_group(
    core: Core, framework: Framework, agent: Agent, body: Json, held: Resources, role: str
) -> Resources:
    """LAUNCH_GROUP: all tasks or none."""
    infos: list[Json] = body["task_group"].get("tasks", [])
    try:
        executor, own = _executor(core, framework, agent, body["executor"], role)
        if executor.resources is own:
            check_group_executor(executor.info, own)
        needed = NOTHING
        parsed: list[Resources] = []
        for info in infos:
            check_identity(info, framework, agent)
            check_checks(info)
            resources = task_resources(info, role)
            parsed.append(resources)
            needed = needed + resources
        needed = needed + own
        check_fits(needed, held, "task group")
    except Invalid as error:
        for info in infos:
            _refuse(core, framework, info, "TASK_ERROR", "REASON_TASK_GROUP_INVALID", str(error))
        return held
    message = _run_message(framework, executor)
    message["type"] = "RUN_GROUP"
    message["tasks_json"] = [
        _start(core, framework, agent, info, resources, executor)
        for info, resources in zip(infos, parsed, strict=True)
    ]
    if not core.to_agent(agent, message):
        for info in infos:
            _lost_in_flight(core, framework, agent, info)
    return held - needed
