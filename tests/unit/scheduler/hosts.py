"""Hosts as Mesos has them: what there is of which reservation, which tasks have it, and what is offered of the rest.

It holds a framework to what a master would: offers are of one agent and accepted once, a task pays out of them, with
resources of the very kinds that they have, and no more of each than they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.scheduler.model import EXECUTOR_AMOUNTS, Amounts, Launch

OURS = "gantry"
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "*": {"role": "*"},
    "static": {"role": OURS},
    "dynamic": {"reservations": [{"type": "DYNAMIC", "role": OURS}]},
}
"""Kinds of resources, as Mesos writes whose they are: nobody's, ours, and ours in the newer form."""
NAMES = {"cpus": "cpus", "mem": "mem_mib", "disk": "disk_mib"}
NOTHING = Amounts()

Kinds = dict[str, Amounts]


@dataclass(frozen=True)
class Host:
    """An agent and what it has, by kind."""

    agent: str
    attributes: Mapping[str, str]
    has: Mapping[str, Amounts]

    @property
    def hostname(self) -> str:
        """Its host's name."""
        return f"host-{self.agent}"

    @property
    def total(self) -> Amounts:
        """All that it has."""
        return sum(self.has.values(), NOTHING)

    def value(self, attribute: str) -> str:
        """An attribute, "" when it has none."""
        return self.hostname if attribute == "hostname" else self.attributes.get(attribute, "")


def _host(agent: str, kind: str, zone: str, cpus: float, reserved: Kinds | None = None) -> Host:
    attributes = {name: text for name, text in (("class", kind), ("zone", zone)) if text}
    return Host(agent, attributes, {"*": Amounts(cpus, 512.0 * cpus, 1000.0), **(reserved or {})})


ALL = {
    host.agent: host
    for host in (
        _host("a1", "", "a", 2.25),
        _host("a2", "thin", "a", 1.5, {"static": Amounts(1.0, 256.0, 0.0)}),
        _host("a3", "thin", "b", 2.5, {"dynamic": Amounts(0.5, 128.0, 100.0)}),
        _host("a4", "", "", 1.75),
        # No room for the executor, which is paid out of what is reserved for nobody.
        _host("a5", "thin", "c", 0.0, {"static": Amounts(4.0, 2048.0, 1000.0)}),
        _host("f1", "fat", "a", 2.0),
        _host("f2", "fat", "b", 1.25, {"static": Amounts(1.5, 512.0, 0.0)}),
        _host("w1", "windows", "b", 3.0),
        _host("w2", "windows", "c", 1.0),
    )
}
"""Of all classes, in zones and in none, some with reservations."""


@dataclass
class Task:
    """A task that has not ended."""

    id: str
    agent: str
    paid: Kinds
    network: str
    sticky: bool
    told: str = "TASK_STAGING"
    address: bool = False

    @property
    def instance(self) -> str:
        """Whose attempt it is."""
        return self.id.rpartition(".")[0]


def fits(need: Amounts, room: Amounts) -> bool:
    """Is there so much room."""
    left = room - need
    return min(left.cpus, left.mem_mib, left.disk_mib) >= -1e-6


@dataclass
class Hosts:
    """All of them, with the tasks and offers of now."""

    tasks: dict[str, Task] = field(default_factory=dict)
    offers: dict[str, tuple[str, Kinds]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    made: int = 0

    def on(self, agent: str) -> list[Task]:
        """Tasks there."""
        return [each for each in self.tasks.values() if each.agent == agent]

    def attached(self, network: str) -> list[Task]:
        """Tasks that have an address of a network, or may ask for one. Who takes one over needs no other."""
        return [each for each in self.tasks.values() if each.network == network and not each.sticky]

    def offered(self) -> dict[str, Kinds]:
        """What is offered of each agent."""
        found: dict[str, Kinds] = {}
        for agent, kinds in self.offers.values():
            _add(found.setdefault(agent, {}), kinds)
        return found

    def free(self, agent: str) -> Kinds:
        """What no task there has, nor its executor."""
        left = dict(ALL[agent].has)
        tasks = self.on(agent)
        for task in tasks:
            _add(left, task.paid, -1)
        if tasks:
            left["*"] -= EXECUTOR_AMOUNTS
        return left

    def offer(self, agents: Iterable[str], parts: int = 1) -> list[dict[str, Any]]:
        """Offer all that is free on these and not offered yet, each in so many offers."""
        known, found = self.offered(), []
        for agent in agents:
            if agent in self.lost:
                continue
            left = self.free(agent)
            _add(left, known.get(agent, {}), -1)
            part = {kind: _times(amounts, 1 / parts) for kind, amounts in left.items()}
            if any(fits(Amounts(*least), room) for room in part.values() for least in LEAST):
                found += [self._offer(ALL[agent], part) for _ in range(parts)]
        return found

    def _offer(self, host: Host, kinds: Kinds) -> dict[str, Any]:
        self.made += 1
        name = f"o{self.made}"
        self.offers[name] = (host.agent, kinds)
        resources: list[dict[str, Any]] = [
            {"name": short, **FIELDS[kind], "scalar": {"value": getattr(amounts, long)}}
            for kind, amounts in kinds.items()
            for short, long in NAMES.items()
            if getattr(amounts, long) > 1e-6
        ]
        # What may be taken back and a volume with somebody's data are no room of ours.
        resources += [
            {"name": "cpus", "role": "*", "scalar": {"value": 8.0}, "revocable": {}},
            {"name": "disk", "role": OURS, "scalar": {"value": 99.0}, "disk": {"volume": {}}},
        ]
        for each in resources:
            each.update(type="SCALAR", allocation_info={"role": OURS})
        return {
            "id": {"value": name},
            "agent_id": {"value": host.agent},
            "hostname": host.hostname,
            "resources": resources,
            "attributes": [
                {"name": name, "type": "TEXT", "text": {"value": text}}
                for name, text in host.attributes.items()
            ],
            "allocation_info": {"role": OURS},
        }

    def accept(
        self, launch: Launch, needs: Mapping[str, Task], amounts: Mapping[str, Amounts]
    ) -> None:
        """What a master does with an ACCEPT, and what it refuses."""
        left: Kinds = {}
        for offer in launch.offers:
            agent, kinds = self.offers.pop(offer)
            assert agent == launch.agent, "offers of two agents are accepted together"
            _add(left, kinds)
        begins = not self.on(launch.agent)
        for info in launch.tasks:
            task = needs[info["task_id"]["value"]]
            for resource in info["resources"]:
                assert "disk" not in resource and "revocable" not in resource
                assert resource["allocation_info"] == {"role": OURS}
                kind = kind_of(resource)
                part = Amounts(**{NAMES[resource["name"]]: resource["scalar"]["value"]})
                _add(task.paid, {kind: part})
            paid, need = sum(task.paid.values(), NOTHING), amounts[task.id]
            assert fits(need, paid) and fits(paid, need), f"{task.id} has {paid} and needs {need}"
            _add(left, task.paid, -1)
            self.tasks[task.id] = task
        if begins:
            left["*"] = left.get("*", NOTHING) - EXECUTOR_AMOUNTS
        for kind, rest in left.items():
            assert fits(NOTHING, rest), f"{launch.agent} lacks {kind} resources: {rest}"


LEAST = ((0.01, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""A master offers no crumbs."""


def kind_of(resource: Mapping[str, Any]) -> str:
    """Of which kind a resource is. Raises StopIteration."""
    said = {name: resource[name] for name in ("role", "reservations") if name in resource}
    return next(kind for kind, fields in FIELDS.items() if fields == said)


def _add(kinds: Kinds, more: Mapping[str, Amounts], sign: int = 1) -> None:
    for kind, amounts in more.items():
        kinds[kind] = kinds.get(kind, NOTHING) + _times(amounts, sign)


def _times(amounts: Amounts, factor: float) -> Amounts:
    return Amounts(amounts.cpus * factor, amounts.mem_mib * factor, amounts.disk_mib * factor)
