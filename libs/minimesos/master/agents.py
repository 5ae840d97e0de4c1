"""Agents registering, returning, falling silent, being removed."""

from __future__ import annotations

import orjson

from libs.minimesos.effects import LinkClose, LinkSend, Message
from libs.minimesos.master import registry as keys
from libs.minimesos.master.core import Core
from libs.minimesos.master.frameworks import offer_to
from libs.minimesos.master.maintenance import unavailability_of
from libs.minimesos.master.model import Agent, Executor, Framework, Task, id_json
from libs.minimesos.master.offers import rescind_all, rescind_inverse
from libs.minimesos.master.tasks import add_task, lose, remove_executor, task_from_agent
from libs.minimesos.master.views import agent_json
from libs.minimesos.resources_read import parse_resources
from libs.minimesos.schema import Json
from libs.minimesos.statuses import MASTER, latest_extra, make_status


# ---- coming -------------------------------------------------------------------------------------
def register(core: Core, link: str, message: Message) -> None:
    """A new agent. Another one at the same address is removed first."""
    core.counters["messages_register_slave"] += 1
    for other in list(core.state.agents.values()):
        if other.pid_text == message["pid"]:
            if other.connected and other.link == link:
                core.out.append(
                    LinkSend(link, {"type": "REGISTERED", "agent_id": other.id, "frameworks": []})
                )
                return
            text = f"Agent {other.hostname} removed: a new agent registered at the same address"
            core.counters["slave_removals/reason_registered"] += 1
            remove(core, other, text)
    agent_id = f"{core.state.id}-S{core.state.next_agent}"
    core.state.next_agent += 1
    agent = _admit(core, link, message, agent_id)
    core.counters["slave_registrations"] += 1
    core.to_agent(agent, {"type": "REGISTERED", "agent_id": agent_id, "frameworks": []})
    core.operator_event("AGENT_ADDED", lambda: {"agent": agent_json(agent, event=True)})


def _admit(core: Core, link: str, message: Message, agent_id: str) -> Agent:
    info: Json = dict(message["agent_info"])
    info["id"] = id_json(agent_id)
    total = parse_resources(message["total"])
    agent = Agent(agent_id, info, core.now, link, total)
    agent.version = message["version"]
    agent.capabilities = tuple(message["capabilities"])
    agent.pid_text = message["pid"]
    agent.attributes_json = info.get("attributes", [])
    agent.unavailability = unavailability_of(core, agent)
    saved = core.registry.agents.get(agent_id, {})
    agent.drain = saved.get("drain")
    agent.deactivated = bool(saved.get("deactivated"))
    core.state.agents[agent_id] = agent
    core.state.links[link] = agent_id
    core.registry.recovered.pop(agent_id, None)
    core.registry.unreachable.pop(agent_id, None)
    core.forget(keys.UNREACHABLE + agent_id)
    save_agent(core, agent)
    core.allocator.add_agent(agent_id, total, agent.hostname, agent.attributes_json, agent.active)
    core.allocation_wanted = True
    _ping(core, agent)
    return agent


def save_agent(core: Core, agent: Agent) -> None:
    """Keep an agent's registry entry up to date."""
    entry: Json = {"info": agent.info, "pid": agent.pid_text}
    if agent.drain is not None:
        entry["drain"] = agent.drain
    if agent.deactivated:
        entry["deactivated"] = True
    core.registry.agents[agent.id] = entry
    core.save(keys.AGENT + agent.id, entry)


def reregister(core: Core, link: str, message: Message) -> None:
    """An agent that was here before: known, disconnected, unreachable, or of a former master."""
    core.counters["messages_reregister_slave"] += 1
    agent_id: str = message["agent_info"]["id"]["value"]
    if agent_id in core.registry.gone:
        text = "Agent has been marked gone"
        core.out.append(LinkSend(link, {"type": "SHUTDOWN", "message": text}))
        return
    core.counters["slave_reregistrations"] += 1
    agent = core.state.agents.get(agent_id)
    if agent is not None:
        _reconnect(core, agent, link, message)
    else:
        agent = _readmit(core, link, message, agent_id)
    if agent.drain is not None or message["draining"]:
        core.to_agent(agent, {"type": "DRAIN", "config": agent.drain})
    if agent.drain is not None and agent.drain["state"] == "DRAINING":
        core.draining[agent.id] = None


def _reconnect(core: Core, agent: Agent, link: str, message: Message) -> None:
    if agent.link is not None and agent.link != link:
        core.state.links.pop(agent.link, None)
        core.out.append(LinkClose(agent.link))
    agent.link = link
    agent.reregistered_time = core.now
    agent.ping_timeouts = 0
    agent.ping_pending = False
    core.state.links[link] = agent.id
    core.allocator.set_active(agent.id, agent.active)
    core.allocation_wanted = True
    _welcome(core, agent, {key[0] for key in agent.tasks})
    reported = {(t["framework_id"], t["task_id"]) for t in message["tasks"]}
    _drop_unreported(core, agent, reported, message)
    for framework_id, task_id in sorted(reported - agent.tasks.keys()):
        # Given up while the agent was away (no checkpoint): it must not run on unseen.
        core.to_agent(agent, {"type": "KILL", "framework_id": framework_id, "task_id": task_id})
    for kill in agent.killed.values():
        core.to_agent(agent, kill)
    agent.killed.clear()


def _drop_unreported(
    core: Core, agent: Agent, reported: set[tuple[str, str]], message: Message
) -> None:
    """Tasks and executors that the agent does not know were lost on their way to it."""
    for key, task in list(agent.tasks.items()):
        framework = core.state.frameworks.get(key[0])
        if key in reported or framework is None or task.terminal:
            continue
        state = "TASK_DROPPED" if framework.partition_aware else "TASK_LOST"
        text = "Task is unknown to the agent"
        lose(core, framework, agent, task, state, "REASON_RECONCILIATION", text)
    live = {(e["framework_id"], e["executor_id"]) for e in message["executors"]}
    for key in sorted(agent.executors.keys() - live):
        remove_executor(core, agent, core.state.frameworks.get(key[0]), key)


def _welcome(core: Core, agent: Agent, framework_ids: set[str]) -> None:
    """REREGISTERED, with what frameworks have become meanwhile."""
    known = [core.state.frameworks.get(i) for i in sorted(framework_ids)]
    infos = [f.info for f in known if f is not None and f.connected]
    core.to_agent(agent, {"type": "REREGISTERED", "agent_id": agent.id, "frameworks": infos})


def _readmit(core: Core, link: str, message: Message, agent_id: str) -> Agent:
    for other in list(core.state.agents.values()):
        if other.pid_text == message["pid"] and other.id != agent_id:
            text = f"Agent {other.hostname} removed: a new agent registered at the same address"
            remove(core, other, text)
    agent = _admit(core, link, message, agent_id)
    agent.reregistered_time = core.now
    frameworks = _take_over_frameworks(core, agent, message)
    _welcome(core, agent, set(frameworks))
    for entry in message["executors"]:
        framework = frameworks.get(entry["framework_id"])
        if framework is not None:
            _take_over_executor(core, framework, agent, entry)
    back: list[tuple[Framework, Task]] = []
    for entry in message["tasks"]:
        framework = frameworks.get(entry["framework_id"])
        if framework is not None:
            back.append((framework, task_from_agent(entry, agent_id)))
    for framework, task in back:
        if framework.unreachable.pop((agent_id, task.task_id), None) is not None:
            _tell_returned(core, framework, task)
    for framework, task in back:
        task.resources = parse_resources(orjson.loads(task.info)["resources"])
        if not task.removable:
            core.allocator.occupy(framework.id, agent_id, task.resources)
        add_task(core, framework, agent, task)
    core.operator_event("AGENT_ADDED", lambda: {"agent": agent_json(agent, event=True)})
    return agent


def _take_over_frameworks(core: Core, agent: Agent, message: Message) -> dict[str, Framework]:
    """Frameworks the agent hosts; those this master never saw are recovered, removed ones die."""
    out: dict[str, Framework] = {}
    for info in message["frameworks"]:
        framework_id: str = info["id"]["value"]
        if framework_id in core.state.completed_frameworks:
            core.to_agent(agent, {"type": "SHUTDOWN_FRAMEWORK", "framework_id": framework_id})
            continue
        framework = core.state.frameworks.get(framework_id)
        if framework is None:
            framework = Framework(framework_id, {}, core.now, recovered=True)
            framework.set_info(info)
            core.state.frameworks[framework_id] = framework
            offer_to(core, framework)
            core.timers.set(("failover", framework_id), core.now + framework.failover_timeout_s)
        out[framework_id] = framework
    return out


def _take_over_executor(core: Core, framework: Framework, agent: Agent, entry: Message) -> None:
    info: Json = entry["info"]
    resources = parse_resources(info.get("resources", []))
    executor = Executor(framework.id, agent.id, entry["executor_id"], info, resources)
    agent.executors[(framework.id, executor.executor_id)] = executor
    framework.executors[(agent.id, executor.executor_id)] = executor
    agent.used = agent.used + resources
    framework.used = framework.used + resources
    core.allocator.occupy(framework.id, agent.id, resources)


def _tell_returned(core: Core, framework: Framework, task: Task) -> None:
    status = make_status(
        task.task_id,
        task.state,
        MASTER,
        core.now,
        message="Unreachable agent re-reregistered",
        reason="REASON_AGENT_REREGISTERED",
        agent_id=task.agent_id,
        executor_id=task.executor_id,
        extra=latest_extra(task.statuses),
    )
    core.event(framework, "UPDATE", {"status": status})


# ---- falling silent -----------------------------------------------------------------------------
def disconnected(core: Core, link: str) -> None:
    """The connection to an agent broke: no more offers of it; tasks without checkpoint are lost."""
    agent = core.state.agents.get(core.state.links.pop(link, ""))
    if agent is None or agent.link != link:
        return
    agent.link = None
    core.allocator.set_active(agent.id, False)
    rescind_all(core, agent)
    rescind_inverse(core, agent)
    lost = {key[0] for key in [*agent.tasks, *agent.executors]}
    for framework_id in sorted(lost):
        framework = core.state.frameworks.get(framework_id)
        if framework is None or framework.checkpoint:
            continue
        text = f"Agent {agent.hostname} disconnected"
        for key, task in list(agent.tasks.items()):
            if key[0] == framework_id:
                lose(core, framework, agent, task, "TASK_LOST", "REASON_AGENT_DISCONNECTED", text)
        for key in [k for k in agent.executors if k[0] == framework_id]:
            remove_executor(core, agent, framework, key)


def _ping(core: Core, agent: Agent) -> None:
    agent.ping_pending = True
    core.to_agent(agent, {"type": "PING"})
    core.timers.set(("ping", agent.id), core.now + core.config.agent_ping_timeout_s)


def on_pong(agent: Agent) -> None:
    """The agent answered."""
    agent.ping_pending = False
    agent.ping_timeouts = 0


def on_ping_timeout(core: Core, agent_id: str) -> None:
    """Time for the next ping; too many unanswered ones make the agent unreachable."""
    agent = core.state.agents.get(agent_id)
    if agent is None:
        return
    if agent.ping_pending:
        agent.ping_timeouts += 1
        if agent.ping_timeouts >= core.config.max_agent_ping_timeouts:
            core.counters["slave_unreachable_scheduled"] += 1
            core.counters["slave_unreachable_completed"] += 1
            core.counters["slave_removals/reason_unhealthy"] += 1
            mark_unreachable(core, agent, "health check timed out")
            return
    _ping(core, agent)


def mark_unreachable(core: Core, agent: Agent, text: str) -> None:
    """The agent is given up for now; it may come back with its tasks."""
    entry = {"time": core.now, "info": agent.info}
    core.registry.unreachable[agent.id] = entry
    core.registry.agents.pop(agent.id, None)
    core.forget(keys.AGENT + agent.id)
    core.save(keys.UNREACHABLE + agent.id, entry)
    for (framework_id, _), task in reversed(list(agent.tasks.items())):
        framework = core.state.frameworks.get(framework_id)
        if framework is not None:
            state = "TASK_UNREACHABLE" if framework.partition_aware else "TASK_LOST"
            reason = "REASON_AGENT_REMOVED"
            lose(core, framework, agent, task, state, reason, text, core.now)
    link = agent.link
    _discard(core, agent)
    _tell_failure(core, agent)
    if link is not None:
        # An agent that was only stopped finds the connection closed and registers again.
        core.out.append(LinkClose(link))


def on_reregister_timeout(core: Core, agent_id: str) -> None:
    """An agent of a former master did not come back in time."""
    entry = core.registry.recovered.pop(agent_id, None)
    if entry is None:
        return
    core.counters["recovery_slave_removals"] += 1
    mark = {"time": core.now, "info": entry["info"]}
    core.registry.agents.pop(agent_id, None)
    core.registry.unreachable[agent_id] = mark
    core.forget(keys.AGENT + agent_id)
    core.save(keys.UNREACHABLE + agent_id, mark)


# ---- leaving ------------------------------------------------------------------------------------
def unregister(core: Core, agent: Agent) -> None:
    """The agent leaves for good (SIGUSR1)."""
    core.counters["messages_unregister_slave"] += 1
    core.counters["slave_removals/reason_unregistered"] += 1
    remove(core, agent, f"Agent {agent.hostname} removed: the agent unregistered")


def remove(core: Core, agent: Agent, text: str) -> None:
    """The agent will not come back: all its tasks are lost."""
    core.registry.agents.pop(agent.id, None)
    core.forget(keys.AGENT + agent.id)
    for (framework_id, _), task in reversed(list(agent.tasks.items())):
        framework = core.state.frameworks.get(framework_id)
        if framework is not None:
            lose(core, framework, agent, task, "TASK_LOST", "REASON_AGENT_REMOVED", text)
    _discard(core, agent)
    agent_id = agent.id
    core.operator_event("AGENT_REMOVED", lambda: {"agent_id": id_json(agent_id)})
    _tell_failure(core, agent)


def mark_gone(core: Core, agent: Agent) -> None:
    """MARK_AGENT_GONE: like removal, but remembered for ever and the agent is shut down."""
    text = "Agent has been marked gone"
    core.registry.gone[agent.id] = core.now
    core.registry.agents.pop(agent.id, None)
    core.forget(keys.AGENT + agent.id)
    core.save(keys.GONE + agent.id, {"time": core.now})
    for (framework_id, _), task in reversed(list(agent.tasks.items())):
        framework = core.state.frameworks.get(framework_id)
        if framework is None:
            continue
        if framework.partition_aware:
            reason = "REASON_AGENT_REMOVED_BY_OPERATOR"
            lose(core, framework, agent, task, "TASK_GONE_BY_OPERATOR", reason, text)
        else:
            # Mesos files these among the unreachable ones, which shows at the framework's end.
            reason = "REASON_AGENT_REMOVED"
            lose(core, framework, agent, task, "TASK_LOST", reason, text, as_unreachable=True)
    core.to_agent(agent, {"type": "SHUTDOWN", "message": text})
    _discard(core, agent)
    _tell_failure(core, agent)


def _discard(core: Core, agent: Agent) -> None:
    """Take an agent out of all books."""
    core.counters["slave_removals"] += 1
    rescind_all(core, agent)
    rescind_inverse(core, agent)
    for key in list(agent.executors):
        remove_executor(core, agent, core.state.frameworks.get(key[0]), key)
    core.timers.cancel(("ping", agent.id))
    core.allocator.remove_agent(agent.id)
    core.state.agents.pop(agent.id, None)
    if agent.link is not None:
        core.state.links.pop(agent.link, None)


def _tell_failure(core: Core, agent: Agent) -> None:
    for framework in core.state.frameworks.values():
        core.event(framework, "FAILURE", {"agent_id": id_json(agent.id)})
