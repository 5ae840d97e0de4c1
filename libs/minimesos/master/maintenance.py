"""Maintenance windows and inverse offers: when machines will be away, and who agreed to that."""

from __future__ import annotations

from libs.minimesos.errors import CallError
from libs.minimesos.master import registry as keys
from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Agent, Framework, id_json
from libs.minimesos.master.offers import rescind_all, rescind_inverse, take_inverse_offer
from libs.minimesos.schema import Json
from libs.minimesos.units import nanoseconds


def unavailability_of(core: Core, agent: Agent) -> Json | None:
    """The window in which an agent's machine will be away, if one is scheduled."""
    for window in core.registry.windows:
        if any(_is_machine(machine, agent) for machine in window.get("machine_ids", [])):
            found: Json = window["unavailability"]
            return found
    return None


def _is_machine(machine: Json, agent: Agent) -> bool:
    hostname = machine.get("hostname", "").lower()
    ip = machine.get("ip", "")
    return (not hostname or hostname == agent.hostname.lower()) and (not ip or ip == agent.ip)


def update_schedule(core: Core, schedule: Json) -> None:
    """UPDATE_MAINTENANCE_SCHEDULE: offers of agents whose window changed are made anew.

    Raises CallError 400 for a window without machines or a machine named twice.
    """
    windows: list[Json] = schedule.get("windows", [])
    seen: list[Json] = []
    for window in windows:
        machines = window.get("machine_ids", [])
        check_machines(machines)
        for machine in machines:
            if machine in seen:
                raise CallError(
                    400, f"Machine '{_name(machine)}' appears more than once in the schedule"
                )
            seen.append(machine)
    core.registry.windows = windows
    _save(core)
    for agent in core.state.agents.values():
        found = unavailability_of(core, agent)
        if found == agent.unavailability:
            continue
        agent.unavailability = found
        rescind_all(core, agent)
        rescind_inverse(core, agent)
        core.allocation_wanted = True


def _save(core: Core) -> None:
    core.save(keys.MAINTENANCE, {"windows": core.registry.windows, "down": core.registry.down})


def check_machines(machines: list[Json]) -> None:
    """Raises CallError 400 as Mesos words it."""
    if not machines:
        raise CallError(400, "List of machines is empty")
    for machine in machines:
        if not machine.get("hostname") and not machine.get("ip"):
            raise CallError(400, "Both 'hostname' and 'ip' for a machine are empty")


def _name(machine: Json) -> str:
    return f"{machine.get('hostname', '')} ({machine.get('ip', '')})"


def start(core: Core, machines: list[Json]) -> list[Agent]:
    """START_MAINTENANCE: machines go down; the agents that must be removed."""
    check_machines(machines)
    scheduled = [m for w in core.registry.windows for m in w.get("machine_ids", [])]
    for machine in machines:
        if machine not in scheduled:
            raise CallError(
                400, f"Machine '{_name(machine)}' is not part of a maintenance schedule"
            )
        if machine in core.registry.down:
            raise CallError(
                400,
                f"Machine '{_name(machine)}' is not in DRAINING mode and cannot be brought down",
            )
    core.registry.down.extend(machines)
    _save(core)
    return [
        agent
        for agent in core.state.agents.values()
        if any(_is_machine(machine, agent) for machine in machines)
    ]


def stop(core: Core, machines: list[Json]) -> None:
    """STOP_MAINTENANCE: machines come up; they leave the schedule."""
    check_machines(machines)
    for machine in machines:
        if machine not in core.registry.down:
            raise CallError(
                400, f"Machine '{_name(machine)}' is not in DOWN mode and cannot be brought up"
            )
    core.registry.down = [m for m in core.registry.down if m not in machines]
    windows: list[Json] = []
    for window in core.registry.windows:
        rest = [m for m in window.get("machine_ids", []) if m not in machines]
        if rest:
            windows.append({**window, "machine_ids": rest})
    core.registry.windows = windows
    _save(core)


def is_down(core: Core, hostname: str, ip: str) -> bool:
    """Whether the machine of an agent that wants to register is down."""
    return any(
        machine.get("hostname", hostname) == hostname and machine.get("ip", ip) == ip
        for machine in core.registry.down
    )


def status(core: Core) -> Json:
    """GET_MAINTENANCE_STATUS: draining machines with the frameworks' answers, and those down."""
    draining: list[Json] = []
    for window in core.registry.windows:
        for machine in window.get("machine_ids", []):
            if machine in core.registry.down:
                continue
            entry: Json = {"id": machine}
            answers = [
                answer
                for agent in core.state.agents.values()
                if _is_machine(machine, agent)
                for answer in agent.answers
            ]
            if answers:
                entry["statuses"] = answers
            draining.append(entry)
    out: Json = {}
    if draining:
        out["draining_machines"] = draining
    if core.registry.down:
        out["down_machines"] = core.registry.down
    return out


def answer(core: Core, framework: Framework, body: Json, verdict: str) -> None:
    """ACCEPT_ or DECLINE_INVERSE_OFFERS; `verdict` is ACCEPT or DECLINE."""
    refuse_s = body.get("filters", {}).get("refuse_seconds", 5.0)
    for item in body.get("inverse_offer_ids", []):
        offer = framework.inverse_offers.get(item["value"])
        if offer is None:
            continue
        take_inverse_offer(core, offer)
        agent = core.state.agents.get(offer.agent_id)
        if agent is None:
            continue
        agent.answers = [a for a in agent.answers if a["framework_id"]["value"] != framework.id]
        agent.answers.append(
            {
                "status": verdict,
                "framework_id": id_json(framework.id),
                "timestamp": nanoseconds(core.now),
            }
        )
        core.timers.set(("refused", framework.id, agent.id), core.now + refuse_s)
