"""Frameworks coming, going, failing over and being removed."""

from __future__ import annotations

from collections.abc import Mapping

from libs.minimesos.effects import CloseStream, HttpRequest, OpenStream, Send
from libs.minimesos.http import JSON_TYPE, STREAM_ID
from libs.minimesos.master.allocator import Quantities
from libs.minimesos.master.constraints import parse_constraints
from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Framework, Task, dumps, id_json, master_info
from libs.minimesos.master.offers import drop_inverse_offers, drop_offers
from libs.minimesos.master.roles import framework_error
from libs.minimesos.master.tasks import remove_executor, remove_task, set_state
from libs.minimesos.master.views import framework_event_json
from libs.minimesos.packed import packed
from libs.minimesos.schema import Json
from libs.minimesos.statuses import MASTER, make_status


def subscribe(core: Core, request: HttpRequest, call: Json, principal: str | None) -> None:
    """SUBSCRIBE: opens the stream; what is wrong with the framework is said on it."""
    stream = core.ids.uuid()
    headers = {"Mesos-Stream-Id": stream, "Content-Type": JSON_TYPE}
    core.out.append(OpenStream(request.conn, stream, headers))
    body: Json = call["subscribe"]
    info: Json = dict(body["framework_info"])
    if principal is not None and "principal" not in info:
        info["principal"] = principal
    suppressed = body.get("suppressed_roles", [])
    framework_id = call.get("framework_id", {}).get("value", "")
    error = framework_error(info, suppressed)
    if error is None and framework_id in core.state.completed_frameworks:
        error = "Framework has been removed"
    if error is not None:
        core.out.append(Send(stream, dumps({"type": "ERROR", "error": {"message": error}})))
        core.out.append(CloseStream(stream))
        return
    framework = core.state.frameworks.get(framework_id)
    if framework is None:
        framework = _new_framework(core, framework_id, info)
        new = True
        core.counters["messages_register_framework"] += 1
    else:
        core.counters["messages_reregister_framework"] += 1
        _fail_over(core, framework, info)
        new = False
    framework.counters["calls"] += 1
    framework.counters["calls/subscribe"] += 1
    framework.suppressed = frozenset(suppressed)
    framework.constraints = body.get("offer_constraints", {})
    _connect(core, framework, stream, new)


def _new_framework(core: Core, framework_id: str, info: Json) -> Framework:
    if not framework_id:
        framework_id = f"{core.state.id}-{core.state.next_framework:04d}"
        core.state.next_framework += 1
        framework = Framework(framework_id, {}, core.now)
    else:
        # An id that this master never saw: for Mesos that is a return.
        framework = Framework(framework_id, {}, core.now, reregistered_time=core.now)
    framework.set_info(with_id(info, framework_id))
    core.state.frameworks[framework_id] = framework
    return framework


def with_id(info: Json, framework_id: str) -> Json:
    """A FrameworkInfo with its id, in Mesos' field order."""
    head: Json = {k: info[k] for k in ("user", "name") if k in info}
    rest = {k: v for k, v in info.items() if k not in head and k != "id"}
    return {**head, "id": id_json(framework_id), **rest}


def _fail_over(core: Core, framework: Framework, info: Json) -> None:
    if framework.stream is not None:
        core.event(framework, "ERROR", {"message": "Framework failed over"})
        _close(core, framework)
        drop_offers(core, framework)
        drop_inverse_offers(core, framework)
    # Mesos keeps the user and the checkpoint flag of the first subscription.
    kept: Json = {k: framework.info[k] for k in ("user", "checkpoint") if k in framework.info}
    framework.set_info(with_id({**info, **kept}, framework.id))
    framework.reregistered_time = core.now


def _close(core: Core, framework: Framework) -> None:
    stream = framework.stream
    if stream is not None:
        core.out.append(CloseStream(stream))
        core.state.streams.pop(stream, None)
        core.timers.cancel(("heartbeat", stream))
        framework.stream = None


def _connect(core: Core, framework: Framework, stream: str, new: bool) -> None:
    was_active = framework.active
    framework.stream = stream
    framework.connected = framework.active = True
    framework.recovered = False
    core.state.streams[stream] = framework.id
    core.timers.cancel(("failover", framework.id))
    offer_to(core, framework)
    subscribed = {
        "framework_id": id_json(framework.id),
        "heartbeat_interval_seconds": core.config.heartbeat_interval_s,
        "master_info": master_info(core.state),
    }
    core.event(framework, "SUBSCRIBED", subscribed)
    core.bare_event(framework, "HEARTBEAT")
    core.timers.set(("heartbeat", stream), core.now + core.config.heartbeat_interval_s)
    event = "FRAMEWORK_ADDED" if new else "FRAMEWORK_UPDATED"
    core.operator_event(event, lambda: {"framework": framework_event_json(framework)})
    tell_agents(core, framework)
    if not was_active:
        core.allocation_wanted = True


def offer_to(core: Core, framework: Framework) -> None:
    """Tell the allocator what a framework asks for now."""
    core.allocator.set_framework(
        framework.id,
        framework.roles,
        framework.capabilities,
        framework.suppressed,
        parse_constraints(framework.constraints),
        minimum_by_role(framework.info),
        framework.active,
    )


def minimum_by_role(info: Json) -> Mapping[str, tuple[Quantities, ...]]:
    """The framework's own minimum for an offer, by role."""
    out: dict[str, tuple[Quantities, ...]] = {}
    for role, offer_filter in info.get("offer_filters", {}).items():
        alternatives = offer_filter.get("min_allocatable_resources", {}).get("quantities")
        if alternatives is not None:
            out[role] = tuple(
                {name: round(scalar["value"] * 1000) for name, scalar in a["quantities"].items()}
                for a in alternatives
            )
    return out


def tell_agents(core: Core, framework: Framework) -> None:
    """Agents that host the framework learn its new info and re-send what it may have missed."""
    hosts = {task.agent_id for task in framework.tasks.values()}
    hosts.update(agent_id for agent_id, _ in framework.executors)
    for agent_id in sorted(hosts):
        agent = core.state.agents.get(agent_id)
        if agent is not None:
            core.to_agent(agent, {"type": "UPDATE_FRAMEWORK", "framework_info": framework.info})


def update_framework(core: Core, framework: Framework, call: Json) -> str | None:
    """UPDATE_FRAMEWORK: a new FrameworkInfo without re-subscribing; the error text or None."""
    body = call["update_framework"]
    info: Json = body["framework_info"]
    suppressed = body.get("suppressed_roles", [])
    error = framework_error(info, suppressed)
    if error is not None:
        return error
    for name, default in (("user", ""), ("checkpoint", False)):
        if info.get(name, default) != framework.info.get(name, default):
            return f"Updating 'FrameworkInfo.{name}' is unsupported"
    framework.set_info(with_id(info, framework.id))
    framework.suppressed = frozenset(suppressed)
    framework.constraints = body.get("offer_constraints", {})
    offer_to(core, framework)
    core.operator_event("FRAMEWORK_UPDATED", lambda: {"framework": framework_event_json(framework)})
    tell_agents(core, framework)
    core.allocation_wanted = True
    return None


# ---- leaving ------------------------------------------------------------------------------------
def disconnected(core: Core, stream: str) -> None:
    """The framework's stream closed: its offers return, the failover timeout begins."""
    framework_id = core.state.streams.pop(stream, None)
    core.timers.cancel(("heartbeat", stream))
    framework = core.state.frameworks.get(framework_id or "")
    if framework is None or framework.stream != stream:
        return
    framework.stream = None
    framework.connected = framework.active = False
    framework.unregistered_time = None
    core.allocator.set_framework_active(framework.id, False)
    drop_offers(core, framework)
    drop_inverse_offers(core, framework)
    if framework.failover_timeout_s == 0:
        remove(core, framework)
    else:
        core.timers.set(("failover", framework.id), core.now + framework.failover_timeout_s)


def remove(core: Core, framework: Framework) -> None:
    """TEARDOWN, or the failover timeout passed: tasks and executors are shut down everywhere."""
    _close(core, framework)
    framework.connected = framework.active = False
    framework.unregistered_time = core.now
    core.timers.cancel(("failover", framework.id))
    drop_offers(core, framework)
    drop_inverse_offers(core, framework)
    for agent in core.state.agents.values():
        core.to_agent(agent, {"type": "SHUTDOWN_FRAMEWORK", "framework_id": framework.id})
    for task in list(framework.tasks.values()):
        _end_task(core, framework, task)
    for task in framework.unreachable.values():
        _end_unreachable(core, framework, task)
    framework.unreachable.clear()
    for agent_id, executor_id in list(framework.executors):
        agent_of = core.state.agents.get(agent_id)
        if agent_of is not None:
            remove_executor(core, agent_of, framework, (framework.id, executor_id))
    core.allocator.remove_framework(framework.id)
    del core.state.frameworks[framework.id]
    completed = core.state.completed_frameworks
    completed[framework.id] = framework
    while len(completed) > core.config.max_completed_frameworks:
        del completed[next(iter(completed))]
    info = framework.info
    core.operator_event("FRAMEWORK_REMOVED", lambda: {"framework_info": info})


def _removed_status(core: Core, framework: Framework, task: Task) -> Json:
    return make_status(
        task.task_id,
        "TASK_KILLED",
        MASTER,
        core.now,
        message=f"Framework {framework.id} removed",
        reason="REASON_FRAMEWORK_REMOVED",
        agent_id=task.agent_id,
        executor_id=task.executor_id,
    )


def _end_task(core: Core, framework: Framework, task: Task) -> None:
    agent = core.state.agents.get(task.agent_id)
    if agent is not None and not task.terminal:
        set_state(core, framework, agent, task, _removed_status(core, framework, task))
    remove_task(core, framework, agent, task)


def _end_unreachable(core: Core, framework: Framework, task: Task) -> None:
    status = _removed_status(core, framework, task)
    if not task.terminal:
        task.state = "TASK_KILLED"
    task.statuses = (*task.statuses, packed(status))
    framework.completed.append(task)
    body = {"framework_id": id_json(framework.id), "status": status, "state": task.state}
    core.operator_event("TASK_UPDATED", lambda: body)


def stream_of(request: HttpRequest) -> str | None:
    """The Mesos-Stream-Id a call carries."""
    return request.headers.get(STREAM_ID)
