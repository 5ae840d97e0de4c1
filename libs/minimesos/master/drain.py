"""Draining, deactivating and reactivating agents."""

from __future__ import annotations

from libs.minimesos.errors import CallError
from libs.minimesos.master.agents import mark_gone, save_agent
from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Agent
from libs.minimesos.master.offers import rescind_all
from libs.minimesos.schema import Json
from libs.minimesos.units import NS_PER_S


def find(core: Core, agent_id: str) -> Agent:
    """The agent, or CallError 400 as these calls give it."""
    agent = core.state.agents.get(agent_id)
    if agent is None:
        raise CallError(400, "No agent found with specified ID")
    return agent


def drain(core: Core, body: Json) -> None:
    """DRAIN_AGENT: no more offers, tasks are killed, at the end DRAINED or gone."""
    agent = find(core, body["agent_id"]["value"])
    config: Json = {
        "state": "DRAINING",
        "mark_gone": bool(body.get("mark_gone", False)),
        "start_time": core.now,
    }
    grace = body.get("max_grace_period")
    if grace is not None:
        total_ns = grace.get("seconds", 0) * NS_PER_S + grace.get("nanos", 0)
        config["max_grace_period"] = {"nanoseconds": total_ns}
    agent.drain = config
    agent.deactivated = True
    save_agent(core, agent)
    core.allocator.set_active(agent.id, False)
    rescind_all(core, agent)
    core.to_agent(agent, {"type": "DRAIN", "config": config})
    core.draining[agent.id] = None


def deactivate(core: Core, body: Json) -> None:
    """DEACTIVATE_AGENT: no more offers, tasks go on."""
    agent = find(core, body["agent_id"]["value"])
    agent.deactivated = True
    save_agent(core, agent)
    core.allocator.set_active(agent.id, False)
    rescind_all(core, agent)


def reactivate(core: Core, body: Json) -> None:
    """REACTIVATE_AGENT: offers again. Raises CallError 400 while it still drains."""
    agent = find(core, body["agent_id"]["value"])
    if agent.drain is not None and agent.drain["state"] == "DRAINING":
        raise CallError(400, "Agent is still in the DRAINING state")
    agent.drain = None
    agent.deactivated = False
    save_agent(core, agent)
    core.allocator.set_active(agent.id, agent.active)
    core.to_agent(agent, {"type": "DRAIN", "config": None})
    core.allocation_wanted = True


def check_drained(core: Core) -> None:
    """Agents whose last task and executor are gone are DRAINED; some are then marked gone."""
    for agent_id in list(core.draining):
        agent = core.state.agents.get(agent_id)
        if agent is None or agent.drain is None:
            del core.draining[agent_id]
            continue
        if agent.tasks or agent.executors or not agent.connected:
            continue
        del core.draining[agent_id]
        agent.drain = {**agent.drain, "state": "DRAINED"}
        save_agent(core, agent)
        if agent.drain["mark_gone"]:
            mark_gone(core, agent)
