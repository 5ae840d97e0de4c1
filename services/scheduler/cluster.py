"""The scheduler's memory: all instances that have not ended, and what is true only while it is subscribed.

`Draft` is what a decision is written on: it reads through to the cluster and leaves it untouched. Only after the
draft has been saved does `Cluster.commit` take it over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from libs.common.events.base import Event
from libs.common.events.model import AuditRecorded
from libs.common.spec import InstanceSpec
from libs.mesos.messages import TaskStatus
from services.scheduler.agenda import Agenda
from services.scheduler.departed import Departed
from services.scheduler.homes import Homes
from services.scheduler.jobs.book import JobBook, JobDraft
from services.scheduler.latest import latest
from services.scheduler.ledger import Ledger, Place, settled
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    TRANSITIONS,
    Action,
    Agent,
    AgentId,
    Amounts,
    AttemptId,
    Decline,
    Instance,
    InstanceId,
    Node,
    Offer,
    OfferId,
    State,
    settle,
)
from services.scheduler.networks import Network
from services.scheduler.policy import Refusal, Shape
from services.scheduler.roster import Ours, Roster

ENDED_REMEMBERED = 20_000
PASSING = (State.STAGED, State.STARTING, State.UNREACHABLE, State.ORPHANED)
"""States in which nothing stays for long."""


@dataclass(frozen=True, slots=True)
class Full:
    """An agent that had no room on its disk: it gets nothing new before `until`, and the next time for longer."""

    until: float
    pause_s: float


@dataclass(frozen=True, slots=True)
class Why:
    """Why the instances of a shape wait, since when they are told, and whether all of them have been.

    `at`: so it was when last looked at.
    """

    refusal: Refusal
    since: float
    told: bool
    at: float


@dataclass(frozen=True, slots=True)
class Aside:
    """The agent that is set aside for a shape, until when if nothing ends there; None: none before then.

    `lacks`: which share of the need was missing by then. `tried`: agents that were set aside in vain before.
    """

    agent: AgentId | None
    until: float
    lacks: float = 0.0
    tried: frozenset[AgentId] = frozenset()


@dataclass(slots=True)
class Volatile:
    """What a new leader learns anew from Mesos; never saved, but for `nodes`, which it reads back."""

    subscribed: bool = False
    subscribed_at: float = 0.0
    offers: dict[OfferId, Offer] = field(default_factory=dict)
    agents: dict[AgentId, Agent] = field(default_factory=dict)
    roster: Roster = field(default_factory=Roster)
    kept_for: dict[AgentId, str] = field(default_factory=dict)  # roles: see `roles.py`
    waited: dict[AgentId, float] = field(default_factory=dict)
    turned_at: float = float("-inf")  # offers were given back for their role
    executors: set[AgentId] = field(
        default_factory=set
    )  # agents with our executor, by their last offers
    networks: dict[str, Network] = field(default_factory=dict)
    why: dict[Shape, Why] = field(default_factory=dict)
    asides: dict[Shape, Aside] = field(default_factory=dict)
    evicted_at: float = float("-inf")
    evicted: dict[Shape, float] = field(default_factory=dict)  # when somebody made room for one
    sought: frozenset[Shape] = frozenset()  # for which room was looked for since all were looked at
    launch_credit: float = float("inf")  # launches that may be made at once: see `pacing.py`
    credit_at: float = 0.0
    more: bool = False  # there is more to place than one decision may
    suppressed: bool = False
    spared: bool = False  # since the last REVIVE, offers were given back that somebody might need
    revived_at: float = float("-inf")
    launched_at: float = float("-inf")
    reconcile_at: float = float("inf")
    killed: dict[InstanceId, float] = field(default_factory=dict)
    asked: dict[InstanceId, float] = field(default_factory=dict)
    full: dict[AgentId, Full] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)  # by hostname, those that were ever closed
    lost: set[AgentId] = field(default_factory=set)  # agents that Mesos has removed
    unknown: dict[AttemptId, AgentId | None] = field(default_factory=dict)
    unknown_since: float = 0.0
    breaker_open: bool = False

    def copy(self) -> Volatile:
        """A copy whose containers can be changed."""
        return replace(
            self,
            offers=dict(self.offers),
            agents=dict(self.agents),
            roster=self.roster.copy(),
            kept_for=dict(self.kept_for),
            waited=dict(self.waited),
            executors=set(self.executors),
            networks=dict(self.networks),
            why=dict(self.why),
            asides=dict(self.asides),
            evicted=dict(self.evicted),
            more=False,
            killed=dict(self.killed),
            asked=dict(self.asked),
            full=dict(self.full),
            nodes=dict(self.nodes),
            lost=set(self.lost),
            unknown=dict(self.unknown),
        )

    def drop(self, offer_id: OfferId) -> None:
        """An offer is gone."""
        offer = self.offers.pop(offer_id, None)
        if offer is not None:
            self.roster.remove(offer)

    def drop_all(self) -> None:
        """All offers are gone."""
        self.offers.clear()
        self.roster.clear()


class Cluster:
    """All that the scheduler knows; changed by `commit` alone."""

    def __init__(
        self,
        instances: Iterable[Instance] = (),
        ended: Mapping[InstanceId, int] | None = None,
        jobs: JobBook | None = None,
        roles: Mapping[AgentId, str] | None = None,
    ) -> None:
        self.instances: dict[InstanceId, Instance] = {}
        self.volatile = Volatile()
        self.ended: dict[InstanceId, int] = dict(ended or {})  # with their documents' versions
        # What time alone can bring about something for: by state and since when, and those that are to end.
        self.agendas: dict[State, Agenda[InstanceId]] = {state: Agenda() for state in PASSING}
        self.jobs = jobs or JobBook()
        self.ending: dict[InstanceId, None] = {}
        self.on_agent: dict[AgentId, dict[InstanceId, None]] = {}
        self.ours: dict[AgentId, Ours] = {}  # as drafts have found it, while it is so
        self.cleanups: dict[InstanceId, str] = {}  # with their hosts' names
        self.leaving: dict[InstanceId, None] = {}  # those that are asked to move
        self.roles: dict[
            AgentId, str
        ] = {}  # of agents on which our executor was started: see `roles.py`
        self.in_role: dict[str, dict[AgentId, None]] = {}
        self.ledger = Ledger()
        self.homes = Homes()
        self.departed = Departed()
        self._specs: dict[str, InstanceSpec] = {}  # the last one of each app
        for each in instances:
            spec = self._specs[each.app] = self.shared(each.app, each.spec)
            self._put(settle(each, each.version, spec))
        self._put_in_roles(roles or {})

    def commit(self, draft: Draft, versions: dict[InstanceId, int]) -> None:
        """Take over what was saved; `versions` are the new ones of the changed documents."""
        self.volatile = draft.volatile
        for instance_id, instance in draft.changed.items():
            spec = self.shared(instance.app, instance.spec)
            self._specs[instance.app] = spec
            self._put(settle(instance, versions[instance_id], spec))
            if instance.app not in self.ledger.apps:
                self._specs.pop(instance.app, None)
        self._put_in_roles(draft.roles)
        self.jobs.commit(draft.jobs)
        for job, (target, agent) in draft.jobs.expected.items():
            self.homes.expect(job, target, agent)

    def shared(self, app: str, spec: InstanceSpec) -> InstanceSpec:
        """The spec of an instance as the object that its siblings have: there are many more instances than specs."""
        known = self._specs.get(app)
        return known if known is not None and (known is spec or known == spec) else spec

    def _put_in_roles(self, roles: Mapping[AgentId, str]) -> None:
        for agent, role in roles.items():
            self.in_role.get(self.roles.pop(agent, ""), {}).pop(agent, None)
            if role:
                self.roles[agent] = role
                self.in_role.setdefault(role, {})[agent] = None

    def _put(self, new: Instance) -> None:
        old = self.instances.get(new.id)
        self.leaving.pop(new.id, None)
        self.ledger.change(old, new)
        if old is None or takes(old) != takes(new):
            self.ours.pop(new.agent, None)
            if old is not None:
                self.ours.pop(old.agent, None)
                self.on_agent.get(old.agent, {}).pop(new.id, None)
        if old is not None and old.state is not new.state and old.state in self.agendas:
            self.agendas[old.state].remove(new.id)
        if old is None:
            self.departed.came(new)
        if new.state is State.ENDED:
            if old is not None:
                self.departed.gone(new)
            self.instances.pop(new.id, None)
            self.ending.pop(new.id, None)
            self.cleanups.pop(new.id, None)
            self.ended.pop(new.id, None)
            self.ended[new.id] = new.version
            if len(self.ended) > ENDED_REMEMBERED:
                del self.ended[next(iter(self.ended))]
            return
        self.instances[new.id] = new
        if new.leaving:
            self.leaving[new.id] = None
        self.homes.note(new)
        if new.cleanup:
            self.cleanups[new.id] = new.hostname
        if takes(new) != NOTHING:
            self.on_agent.setdefault(new.agent, {})[new.id] = None
        if new.state in self.agendas:
            self.agendas[new.state].put(new.id, waits_since(new))
        if new.ending:
            self.ending[new.id] = None
        else:
            self.ending.pop(new.id, None)


NOTHING = (AgentId(""), False)


def takes(instance: Instance) -> tuple[AgentId, bool]:
    """The agent on which it takes resources, and whether with a task: else they are kept for its next one."""
    if instance.agent and (instance.live or instance.state is State.ORPHANED):
        return instance.agent, instance.live
    return NOTHING


def waits_since(instance: Instance) -> float:
    """Since when it is in its state; an orphan since it lost its first task."""
    return instance.orphaned_at if instance.state is State.ORPHANED else instance.since


class Draft:
    """Changes in the making."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.volatile = cluster.volatile.copy()
        self.changed: dict[InstanceId, Instance] = {}
        self.events: dict[InstanceId, list[Event]] = {}
        self.actions: list[Action] = []
        self.heard: list[TaskStatus] = []  # updates to acknowledge once this is saved
        self.cleaning: set[str] = set()  # hosts that get a clean-up by this draft
        self.roles: dict[
            AgentId, str
        ] = {}  # agents that are in a role from now on; in "": in none any more
        self.jobs = JobDraft(cluster.jobs)
        self._moved: dict[AgentId, dict[InstanceId, None]] = {}

    def get(self, instance_id: InstanceId) -> Instance | None:
        """The instance as this draft has it; None when unknown, or ended before this draft."""
        return self.changed.get(instance_id) or self.cluster.instances.get(instance_id)

    def put(self, instance: Instance, *events: Event) -> None:
        """Change (or add) an instance, with the events that tell of it. The state machine is checked here."""
        before = self.get(instance.id)
        if (
            before is not None
            and instance.state is not before.state
            and instance.state not in TRANSITIONS[before.state]
        ):
            raise AssertionError(f"{instance.id}: {before.state} → {instance.state}")
        self.changed[instance.id] = instance
        if before is None or takes(before) != takes(instance):
            for agent in {instance.agent, before.agent if before is not None else instance.agent}:
                if agent:
                    self._moved.setdefault(agent, {})[instance.id] = None
                    self.volatile.roster.dirty.add(agent)
        if instance.run is not None:
            # What becomes of a run is its job's to tell; a host's or an agent's doings are audited all the same.
            events = tuple(each for each in events if isinstance(each, AuditRecorded))
        if events and not instance.cleanup:
            self.events[instance.id] = latest(self.events.get(instance.id, ()), events)

    @property
    def to_save(self) -> bool:
        """Is there anything in it that the store must have."""
        return bool(self.changed or self.jobs or self.roles)

    def act(self, action: Action) -> None:
        """Have it done once the draft is saved."""
        self.actions.append(action)

    def give_back(self, offers: Collection[OfferId], refuse_s: float) -> None:
        """These offers are not ours any more, and nothing like them is wanted for so long."""
        if offers:
            self.act(Decline(tuple(offers), refuse_s))
        for each in offers:
            self.volatile.drop(each)

    def due(self, until: Mapping[State, float]) -> list[Instance]:
        """Instances in these states since then, oldest first; those that are to end, and those that just changed."""
        names: dict[InstanceId, None] = {}
        for state, time in until.items():
            names.update(dict.fromkeys(self.cluster.agendas[state].until(time)))
        names.update(self.cluster.ending)
        names.update(dict.fromkeys(self.changed))
        found = map(self.get, names)
        return [each for each in found if each is not None and each.state is not State.ENDED]

    def in_state(self, state: State) -> Iterator[Instance]:
        """All instances in one of the PASSING states, by this draft."""
        for instance_id in {**dict.fromkeys(self.cluster.agendas[state]), **self.changed}:
            instance = self.get(instance_id)
            if instance is not None and instance.state is state:
                yield instance

    def on_agent(self, agent: AgentId) -> Sequence[Instance]:
        """Instances that take resources on an agent, by this draft."""
        names = {**self.cluster.on_agent.get(agent, {}), **self._moved.get(agent, {})}
        found = [self.get(each) for each in names]
        return [each for each in found if each is not None and takes(each)[0] == agent]

    def role_of(self, agent: AgentId) -> str:
        """The role in which our executor was started there; "" when none was."""
        found = self.roles.get(agent)
        return self.cluster.roles.get(agent, "") if found is None else found

    def attributes_of(self, agent: AgentId) -> Mapping[str, str] | None:
        """Of an agent, as it last offered or as they were saved with what is on it; None when nobody has told."""
        told = self.volatile.agents.get(agent)
        return told.attributes if told is not None else self.volatile.roster.attributes(agent)

    def ours_on(self, agent: AgentId) -> Ours:
        """What they take there, and what must be left alone besides."""
        if agent in self._moved:
            found = _ours(self.on_agent(agent))
        else:
            known = self.cluster.ours.get(agent)
            if known is None:
                # Worked out once for all drafts: full agents offer the rest that nothing fits in again and again.
                known = self.cluster.ours[agent] = _ours(self.on_agent(agent))
            found = known
        if found.begins and agent in self.volatile.executors:
            # It outlives its tasks.
            rest = found.reserved - EXECUTOR_AMOUNTS
            return Ours(found.used + EXECUTOR_AMOUNTS, rest, begins=False)
        return found

    def changes(self) -> Iterator[tuple[Instance | None, Instance]]:
        """What this draft changes, each as (before, after)."""
        for instance_id, after in self.changed.items():
            yield self.cluster.instances.get(instance_id), after

    def places(self, apps: Collection[str]) -> dict[str, dict[Place, int]]:
        """How many settled instances of each of the apps are where, by this draft."""
        known = self.cluster.ledger.places
        found: dict[str, dict[Place, int]] = {app: {**known.get(app, {})} for app in apps}
        for old, new in self.changes():
            of_app = found.get(new.app)
            if of_app is None:
                continue
            for each, sign in ((old, -1), (new, 1)):
                if each is not None and settled(each):
                    place = (each.agent, each.hostname)
                    of_app[place] = of_app.get(place, 0) + sign
        return found


def _ours(there: Sequence[Instance]) -> Ours:
    live = [each for each in there if each.live]
    used = Amounts.sum_of([each.spec for each in live])
    reserved = Amounts.sum_of([each.spec for each in there if not each.live])
    if live:
        return Ours(used + EXECUTOR_AMOUNTS, reserved, begins=False)
    return Ours(used, reserved + EXECUTOR_AMOUNTS, begins=True)
