"""The scheduler's memory: all instances that have not ended, and what is true only while it is subscribed.

`Draft` is what a decision is written on: it reads through to the cluster and leaves it untouched. Only after the
draft has been saved does `Cluster.commit` take it over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from libs.common.events.base import Event
from services.scheduler.model import (
    TRANSITIONS,
    Action,
    Agent,
    AgentId,
    AttemptId,
    Instance,
    InstanceId,
    Offer,
    OfferId,
    State,
)

ENDED_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Full:
    """An agent that had no room on its disk: it gets nothing new before `until`, and the next time for longer."""

    until: float
    pause_s: float


@dataclass(slots=True)
class Volatile:
    """What a new leader learns anew from Mesos; never saved."""

    subscribed: bool = False
    subscribed_at: float = 0.0
    offers: dict[OfferId, Offer] = field(default_factory=dict)
    agents: dict[AgentId, Agent] = field(default_factory=dict)
    suppressed: bool = False
    revived_at: float = float("-inf")
    reconcile_at: float = float("inf")
    killed: dict[InstanceId, float] = field(default_factory=dict)
    asked: dict[InstanceId, float] = field(default_factory=dict)
    full: dict[AgentId, Full] = field(default_factory=dict)
    unknown: dict[AttemptId, AgentId | None] = field(default_factory=dict)
    unknown_since: float = 0.0
    breaker_open: bool = False

    def copy(self) -> Volatile:
        """A copy whose containers can be changed."""
        return replace(
            self,
            offers=dict(self.offers),
            agents=dict(self.agents),
            killed=dict(self.killed),
            asked=dict(self.asked),
            full=dict(self.full),
            unknown=dict(self.unknown),
        )


class Cluster:
    """All that the scheduler knows; changed by `commit` alone."""

    def __init__(
        self, instances: Iterable[Instance] = (), ended: Mapping[InstanceId, int] | None = None
    ) -> None:
        self.instances: dict[InstanceId, Instance] = {}
        self.volatile = Volatile()
        self.ended: dict[InstanceId, int] = dict(ended or {})  # with their documents' versions
        # Instances with something that time alone can bring about, and where the live ones are.
        self.watched: dict[InstanceId, None] = {}
        self.on_agent: dict[AgentId, dict[InstanceId, None]] = {}
        self.cleanups: dict[InstanceId, str] = {}  # with their hosts' names
        for each in instances:
            self._put(each)

    def commit(self, draft: Draft, versions: dict[InstanceId, int]) -> None:
        """Take over what was saved; `versions` are the new ones of the changed documents."""
        for instance_id, instance in draft.changed.items():
            self._put(replace(instance, version=versions[instance_id]))
        self.volatile = draft.volatile

    def _put(self, new: Instance) -> None:
        old = self.instances.get(new.id)
        if old is not None and old.agent:
            self.on_agent.get(old.agent, {}).pop(new.id, None)
        if new.state is State.ENDED:
            self.instances.pop(new.id, None)
            self.watched.pop(new.id, None)
            self.cleanups.pop(new.id, None)
            self.ended.pop(new.id, None)
            self.ended[new.id] = new.version
            if len(self.ended) > ENDED_REMEMBERED:
                del self.ended[next(iter(self.ended))]
            return
        self.instances[new.id] = new
        if new.cleanup:
            self.cleanups[new.id] = new.hostname
        if new.agent and (new.live or new.state is State.ORPHANED):
            self.on_agent.setdefault(new.agent, {})[new.id] = None
        if new.stop or new.state not in (State.RUNNING, State.STARTING):
            self.watched[new.id] = None
        else:
            self.watched.pop(new.id, None)


class Draft:
    """Changes in the making."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.volatile = cluster.volatile.copy()
        self.changed: dict[InstanceId, Instance] = {}
        self.events: dict[InstanceId, list[Event]] = {}
        self.actions: list[Action] = []
        self.cleaning: set[str] = set()  # hosts that get a clean-up by this draft

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
        if events and not instance.cleanup:
            self.events.setdefault(instance.id, []).extend(events)

    def act(self, action: Action) -> None:
        """Have it done once the draft is saved."""
        self.actions.append(action)

    def watched(self) -> Iterator[Instance]:
        """Instances that may have something due, oldest first."""
        for instance_id in [*self.cluster.watched, *(k for k in self.changed)]:
            instance = self.get(instance_id)
            if instance is not None and instance.state is not State.ENDED:
                yield instance

    def on_agent(self, agent: AgentId) -> Sequence[Instance]:
        """Instances that take resources on an agent, by this draft."""
        known = [self.get(each) for each in self.cluster.on_agent.get(agent, {})]
        fresh = [each for each in self.changed.values() if each.id not in self.cluster.instances]
        return [
            each
            for each in [*known, *fresh]
            if each is not None
            and each.agent == agent
            and (each.live or each.state is State.ORPHANED)
        ]
