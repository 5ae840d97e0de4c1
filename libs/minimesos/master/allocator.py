"""Which framework is offered what: dominant resource fairness over roles, then over frameworks.

Pure bookkeeping in the manner of Mesos' hierarchical allocator: everything free on an agent goes
to one framework in one role, the one with the smallest dominant share that neither filtered it out
nor suppressed offers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from libs.minimesos.master.constraints import RoleConstraint
from libs.minimesos.resources import NOTHING, Resources
from libs.minimesos.schema import Json

Quantities = Mapping[str, int]
MAX_REFUSE_S = 31_536_000.0


class Grant(NamedTuple):
    """One offer to be: resources carry the role they are allocated to."""

    framework_id: str
    role: str
    agent_id: str
    resources: Resources


class _Filter(NamedTuple):
    refused: Resources
    expires_at: float


@dataclass(slots=True)
class _Agent:
    total: Resources
    free: Resources
    active: bool
    hostname: str
    attributes: list[Json]
    has_gpus: bool
    # Nobody wanted it in generation `asked` of requests, and filters hold until `quiet_until`.
    asked: int = -1
    quiet_until: float = 0.0


@dataclass(slots=True)
class _Framework:
    roles: tuple[str, ...]
    capabilities: frozenset[str]
    active: bool
    suppressed: set[str]
    constraints: Mapping[str, RoleConstraint]
    minimum: Mapping[str, tuple[Quantities, ...]]
    filters: dict[tuple[str, str], list[_Filter]] = field(default_factory=dict)
    allocated: dict[str, dict[str, int]] = field(default_factory=dict)


def parse_minimum(text: str) -> tuple[Quantities, ...]:
    """`cpus:0.01|mem:32` as alternatives, amounts in thousandths."""
    out: list[Quantities] = []
    for alternative in filter(None, text.split("|")):
        pairs = (part.split(":") for part in alternative.split(";"))
        out.append({name.strip(): round(float(value) * 1000) for name, value in pairs})
    return tuple(out)


class Allocator:
    """The books of what is free and who asked for what."""

    def __init__(self, minimum: str, filter_gpus: bool, interval_s: float) -> None:
        self._minimum = parse_minimum(minimum)
        self._filter_gpus = filter_gpus
        self._interval_s = interval_s
        self._agents: dict[str, _Agent] = {}
        self._frameworks: dict[str, _Framework] = {}
        self._totals: dict[str, int] = {}
        self._free: dict[str, None] = {}
        self.weights: dict[str, float] = {}
        self.runs = 0
        self._generation = 0
        self._next_expiry = 0.0

    # ---- agents
    def add_agent(
        self, agent_id: str, total: Resources, hostname: str, attributes: list[Json], active: bool
    ) -> None:
        """A new agent; what is in use on it is told by `occupy` afterwards."""
        gpus = total.scalar_milli("gpus") > 0
        self._agents[agent_id] = _Agent(total, total, active, hostname, attributes, gpus)
        self._count(total, 1)
        self._free[agent_id] = None

    def remove_agent(self, agent_id: str) -> None:
        """Forget an agent and every filter about it; unknown ids are fine."""
        agent = self._agents.pop(agent_id, None)
        if agent is None:
            return
        self._count(agent.total, -1)
        self._free.pop(agent_id, None)
        for framework in self._frameworks.values():
            for key in [k for k in framework.filters if k[1] == agent_id]:
                del framework.filters[key]

    def set_active(self, agent_id: str, active: bool) -> None:
        """Start or stop offering an agent."""
        if agent_id in self._agents:
            self._agents[agent_id].active = active

    def occupied_replace(self, agent_id: str, old: Resources, new: Resources) -> None:
        """An operation turned `old`, which somebody holds, into `new`; both unallocated."""
        agent = self._agents[agent_id]
        agent.total = agent.total - old + new

    def free_replace(self, agent_id: str, old: Resources, new: Resources) -> None:
        """An operator turned `old`, which nobody holds, into `new`; both unallocated."""
        agent = self._agents[agent_id]
        agent.total = agent.total - old + new
        agent.free = agent.free - old + new
        agent.asked = -1
        self._free[agent_id] = None

    def total(self, agent_id: str) -> Resources:
        """All resources of an agent."""
        return self._agents[agent_id].total

    def free(self, agent_id: str) -> Resources:
        """What nobody holds on an agent."""
        agent = self._agents.get(agent_id)
        return agent.free if agent else NOTHING

    def cluster_total(self) -> dict[str, float]:
        """Scalars of all agents by name."""
        return {name: milli / 1000 for name, milli in sorted(self._totals.items())}

    # ---- frameworks
    def set_framework(
        self,
        framework_id: str,
        roles: tuple[str, ...],
        capabilities: frozenset[str],
        suppressed: Iterable[str],
        constraints: Mapping[str, RoleConstraint],
        minimum: Mapping[str, tuple[Quantities, ...]],
        active: bool,
    ) -> None:
        """Add a framework or change what it asks for; filters and shares are kept."""
        self._generation += 1
        old = self._frameworks.get(framework_id)
        new = _Framework(roles, capabilities, active, set(suppressed), constraints, minimum)
        if old is not None:
            new.filters, new.allocated = old.filters, old.allocated
        self._frameworks[framework_id] = new

    def set_framework_active(self, framework_id: str, active: bool) -> None:
        """Start or stop making offers to a framework; going inactive clears its filters."""
        self._generation += 1
        framework = self._frameworks.get(framework_id)
        if framework is not None:
            framework.active = active
            if not active:
                framework.filters.clear()

    def remove_framework(self, framework_id: str) -> None:
        """Forget a framework; what it held was recovered before."""
        self._frameworks.pop(framework_id, None)

    def suppress(self, framework_id: str, roles: Iterable[str]) -> None:
        """Make no offers in `roles` until revived."""
        framework = self._frameworks[framework_id]
        framework.suppressed.update(roles)

    def revive(self, framework_id: str, roles: Iterable[str]) -> None:
        """Make offers in `roles` again and clear their filters."""
        self._generation += 1
        framework = self._frameworks[framework_id]
        wanted = set(roles)
        framework.suppressed -= wanted
        for key in [k for k in framework.filters if k[0] in wanted]:
            del framework.filters[key]

    def suppressed(self, framework_id: str) -> frozenset[str]:
        """Roles in which a framework wants no offers."""
        framework = self._frameworks.get(framework_id)
        return frozenset(framework.suppressed) if framework else frozenset()

    # ---- what is held
    def occupy(self, framework_id: str, agent_id: str, resources: Resources) -> None:
        """Mark allocated `resources` as held by a framework."""
        agent = self._agents.get(agent_id)
        if agent is not None:
            agent.free = agent.free - resources.unallocated()
            if not agent.free:
                self._free.pop(agent_id, None)
        self._share(framework_id, resources, 1)

    def recover(
        self,
        framework_id: str,
        agent_id: str,
        resources: Resources,
        now: float,
        refuse_s: float | None = None,
    ) -> None:
        """Allocated `resources` are free again; `refuse_s` keeps them from that framework."""
        if not resources:
            return
        agent = self._agents.get(agent_id)
        plain = resources.unallocated()
        if agent is not None:
            agent.free = agent.free + plain
            agent.asked = -1
            self._free[agent_id] = None
        self._share(framework_id, resources, -1)
        framework = self._frameworks.get(framework_id)
        if refuse_s is None or framework is None or agent is None:
            return
        refuse_s = refuse_duration_s(refuse_s)
        if refuse_s == 0.0:
            return
        # A filter outlives at least the next batch, or it would have no effect at all.
        expires_at = now + max(refuse_s, self._interval_s)
        for role in {kind.allocated_to for kind, _ in resources}:
            filters = framework.filters.setdefault((role, agent_id), [])
            filters[:] = [f for f in filters if f.expires_at > now]
            filters.append(_Filter(plain, expires_at))

    def active_filters(self, role: str, now: float) -> int:
        """Filters in force for `role`, for the metrics."""
        return sum(
            1
            for framework in self._frameworks.values()
            for key, filters in framework.filters.items()
            if key[0] == role
            for item in filters
            if item.expires_at > now
        )

    # ---- the decision
    def allocate(self, now: float) -> list[Grant]:
        """Hand out everything free. The caller turns grants into offers."""
        self.runs += 1
        grants: list[Grant] = []
        if not any(f.active for f in self._frameworks.values()):
            return grants
        # Mesos shuffles; the order of registration repeats itself, which a seed needs.
        for agent_id, agent in self._agents.items():
            if not agent.active or agent_id not in self._free:
                continue
            if agent.asked == self._generation and agent.quiet_until > now:
                continue
            while agent.free:
                self._next_expiry = math.inf
                grant = self._grant(agent_id, agent, now)
                if grant is None:
                    agent.asked, agent.quiet_until = self._generation, self._next_expiry
                    break
                grants.append(grant)
                self.occupy(grant.framework_id, agent_id, grant.resources)
        return grants

    def _grant(self, agent_id: str, agent: _Agent, now: float) -> Grant | None:
        for role in self._roles_by_share():
            offerable = agent.free.offerable_to(role)
            if not offerable:
                continue
            for framework_id in self._frameworks_by_share(role):
                framework = self._frameworks[framework_id]
                if self._wants(framework, role, agent_id, agent, offerable, now):
                    granted = offerable.in_offer_order().allocated(role)
                    return Grant(framework_id, role, agent_id, granted)
        return None

    def _wants(
        self,
        framework: _Framework,
        role: str,
        agent_id: str,
        agent: _Agent,
        offerable: Resources,
        now: float,
    ) -> bool:
        minimum = framework.minimum.get(role, self._minimum)
        if minimum and not any(_reaches(offerable, m) for m in minimum):
            return False
        if self._filter_gpus and agent.has_gpus and "GPU_RESOURCES" not in framework.capabilities:
            return False
        constraint = framework.constraints.get(role)
        if constraint is not None and not constraint.allows(agent.hostname, agent.attributes):
            return False
        filters = framework.filters.get((role, agent_id))
        if not filters:
            return True
        live = [f for f in filters if f.expires_at > now]
        if not live:
            del framework.filters[(role, agent_id)]
            return True
        framework.filters[(role, agent_id)] = live
        blocking = [f.expires_at for f in live if f.refused.contains(offerable)]
        self._next_expiry = min([self._next_expiry, *blocking])
        return not blocking

    def _roles_by_share(self) -> list[str]:
        asking: dict[str, None] = {}
        for framework in self._frameworks.values():
            if framework.active:
                for role in framework.roles:
                    if role not in framework.suppressed:
                        asking[role] = None
        if len(asking) < 2:
            return list(asking)
        return sorted(asking, key=lambda r: (self.role_share(r) / self.weights.get(r, 1.0), r))

    def _frameworks_by_share(self, role: str) -> list[str]:
        asking = [
            framework_id
            for framework_id, f in self._frameworks.items()
            if f.active and role in f.roles and role not in f.suppressed
        ]
        if len(asking) < 2:
            return asking
        return sorted(asking, key=lambda i: (self._framework_share(i, role), i))

    def role_share(self, role: str) -> float:
        """The dominant share of a role, between 0 and 1."""
        sums: dict[str, int] = {}
        for framework in self._frameworks.values():
            for name, milli in framework.allocated.get(role, {}).items():
                sums[name] = sums.get(name, 0) + milli
        return self._dominant(sums)

    def _framework_share(self, framework_id: str, role: str) -> float:
        return self._dominant(self._frameworks[framework_id].allocated.get(role, {}))

    def _dominant(self, amounts: Mapping[str, int]) -> float:
        totals = self._totals
        return max((m / totals[n] for n, m in amounts.items() if totals.get(n)), default=0.0)

    # ---- sums
    def _count(self, resources: Resources, sign: int) -> None:
        for kind, value in resources:
            if isinstance(value, int):
                self._totals[kind.name] = self._totals.get(kind.name, 0) + sign * value

    def _share(self, framework_id: str, resources: Resources, sign: int) -> None:
        framework = self._frameworks.get(framework_id)
        if framework is None:
            return
        for kind, value in resources:
            if isinstance(value, int):
                sums = framework.allocated.setdefault(kind.allocated_to, {})
                sums[kind.name] = sums.get(kind.name, 0) + sign * value


def refuse_duration_s(seconds: float) -> float:
    """How long a filter lasts: Mesos takes 5 s for negative values and at most a year."""
    if seconds < 0 or seconds != seconds:
        return 5.0
    return min(seconds, MAX_REFUSE_S)


def _reaches(resources: Resources, minimum: Quantities) -> bool:
    return all(resources.scalar_milli(name) >= milli for name, milli in minimum.items())
