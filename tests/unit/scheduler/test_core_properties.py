"""Whatever comes in, in whatever order: what the scheduler must never do."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from libs.common.events.model import ContainerHealthy, ContainerUnhealthy
from libs.common.spec import Constraint, ConstraintOperator
from libs.common.wishes import Unreachable
from libs.mesos import events as mesos
from services.scheduler.api import why_of
from services.scheduler.cluster import Cluster, Draft, waits_since
from services.scheduler.core import IMPLICIT_AFTER_S
from services.scheduler.ledger import Ledger
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    Acknowledge,
    Amounts,
    Kill,
    Launch,
    Reconcile,
    State,
)
from services.scheduler.settings import SchedulerConfig
from services.scheduler.updates import STRAY_GRACE_S
from tests.unit.scheduler.world import Desk, spec, unwant, want

NAMES = st.sampled_from([f"i{n}" for n in range(4)])
AGENTS = st.sampled_from(["a1", "a2"])
STATES = st.sampled_from(
    [
        *("TASK_STARTING", "TASK_RUNNING", "TASK_RUNNING", "TASK_FAILED", "TASK_FINISHED"),
        *("TASK_KILLED", "TASK_UNREACHABLE", "TASK_GONE", "TASK_UNKNOWN", "TASK_DROPPED"),
    ]
)
REASONS = st.sampled_from(["", "", "REASON_EXECUTOR_TERMINATED"])
GRACES = {"i0": 1.0, "i1": 2.0, "i2": 3.0, "i3": 4.0}
ORDER = [State.STAGED, State.STARTING, State.RUNNING]


class Storm(RuleBasedStateMachine):
    """Inputs of all kinds; `decide` checks the state machine itself (it would raise)."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(SchedulerConfig(unreachable_after_s=20, adoption_deadline_s=10))
        self.free: dict[str, Amounts] = {}
        self.launched: dict[str, int] = {}
        self.taken = 0
        self.implicit_due = float("inf")
        self.seen: dict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, -1))
        self.ended: set[str] = set()
        self.heard = 0
        self.health: dict[str, bool] = {}  # by attempt, as events had it last

    @rule(name=NAMES, cpus=st.integers(1, 30))
    def wanted(self, name: str, cpus: int) -> None:
        # The first is more important, the second makes room, the third keeps apart from it and the fourth is alone.
        special: dict[str, dict[str, Any]] = {
            "i0": {"priority": 5},
            "i1": {"disruption_budget": 1, "unreachable": Unreachable(replace_after_s="never")},
            "i2": {
                "apart_from": ("i1",),
                "spread": ("zone", "hostname"),
                "unreachable": Unreachable(replace_after_s=5.0, keep="first"),
            },
            "i3": {
                "constraints": (
                    Constraint(attribute="hostname", operator=ConstraintOperator.UNIQUE),
                )
            },
        }
        of = spec(cpus / 10, health=name == "i1").model_copy(
            update={"stop_grace_s": GRACES[name], **special[name]}
        )
        self.desk.give(want(name, of, f"acme/{name}"))

    @rule(name=NAMES)
    def unwanted(self, name: str) -> None:
        self.desk.give(unwant(name))

    @rule()
    def subscribed(self) -> None:
        cluster = self.desk.cluster
        known = {each.attempt for each in cluster.instances.values() if each.live}
        known |= {task for each in cluster.instances.values() for task, _ in each.strays}
        asked = [each for each in self.desk.subscribe() if isinstance(each, Reconcile)]
        assert {task for each in asked for task, _ in each.tasks} == known
        assert all(each.tasks for each in asked), "all are asked for before those known by name"
        self.implicit_due = self.desk.now + IMPLICIT_AFTER_S

    @rule()
    def disconnected(self) -> None:
        self.desk.give(mesos.Disconnected("cut", True, 1.0))

    @rule(agent=AGENTS, cpus=st.integers(0, 40))
    def offered(self, agent: str, cpus: int) -> None:
        self.free[f"o{self.desk.offers + 1}"] = Amounts(cpus / 10, 1024.0, 1000.0)
        self.desk.offer(agent, cpus=cpus / 10)

    @rule(
        name=NAMES,
        back=st.sampled_from([0, 0, 0, 1, 1, -2]),
        state=STATES,
        reason=REASONS,
        agent=AGENTS,
        healthy=st.sampled_from([None, True, False]),
    )
    def told(
        self, name: str, back: int, state: str, reason: str, agent: str, healthy: bool | None
    ) -> None:
        known = self.desk.cluster.instances.get(name)  # type: ignore[call-overload]
        generation = max(0, (known.generation if known else 1) - back)
        if back < 0:  # one from the future: a restored store has forgotten it
            reason = "REASON_RECONCILIATION"
            if known:
                self.launched[name] = max(self.launched.get(name, 0), generation)
        actions = self.desk.tell(
            f"{name}.{generation}",
            state,
            agent=agent,
            reason=reason,
            healthy=healthy,
            container=f"c-{name}" if state == "TASK_RUNNING" else "",
        )
        told = [
            status["task_id"]["value"]
            for each in actions
            if isinstance(each, Acknowledge)
            for status in each.statuses
        ]
        assert told == [f"{name}.{generation}"]
        after = self.desk.cluster.instances.get(name)  # type: ignore[call-overload]
        if after is None or (state, after.number) != ("TASK_RUNNING", generation):
            return
        if after.state is State.RUNNING and (healthy is not None or not after.spec.health):
            assert after.healthy == (healthy is not False)

    @rule(after_s=st.sampled_from([0.5, 5.0, 30.0]))
    def time_passes(self, after_s: float) -> None:
        actions = self.desk.tick(after_s)
        if self.desk.cluster.volatile.subscribed and self.desk.now >= self.implicit_due:
            assert Reconcile() in actions, "nobody has asked for all"
            self.implicit_due = self.desk.now + self.desk.config.reconcile_interval_s
        for each in self.desk.cluster.instances.values():
            waits = each.state is State.PENDING and not each.stop
            if waits and each.not_before <= self.desk.now:
                assert why_of(self.desk.cluster, each), f"nobody knows why {each.id} waits"

    @invariant()
    def launches_are_new_and_fit_and_kills_have_the_grace_of_what_is_killed(self) -> None:
        fresh = self.desk.actions[self.taken :]
        self.taken = len(self.desk.actions)
        for action in fresh:
            if isinstance(action, Kill):
                assert action.grace_s in (GRACES[action.task.partition(".")[0]], STRAY_GRACE_S)
            if not isinstance(action, Launch):
                continue
            room = sum((self.free.pop(offer) for offer in action.offers), Amounts())
            for info in action.tasks:
                instance, _, generation = info["task_id"]["value"].rpartition(".")
                assert int(generation) == self.launched.get(instance, 0) + 1
                assert instance not in self.ended
                self.launched[instance] = int(generation)
                amounts = {each["name"]: each["scalar"]["value"] for each in info["resources"]}
                room -= Amounts(amounts["cpus"], amounts["mem"], amounts.get("disk", 0.0))
            assert min(room.cpus, room.mem_mib) >= -1e-6
            assert EXECUTOR_AMOUNTS.cpus > 0

    @invariant()
    def health_is_what_was_told_of_it(self) -> None:
        for event in self.desk.events[self.heard :]:
            if isinstance(event, ContainerHealthy | ContainerUnhealthy):
                self.health[event.attempt] = isinstance(event, ContainerHealthy)
        self.heard = len(self.desk.events)
        for each in self.desk.cluster.instances.values():
            if each.state is State.RUNNING:
                assert self.health.get(each.attempt) == each.healthy, each

    @invariant()
    def nothing_goes_back(self) -> None:
        for name, instance in self.desk.cluster.instances.items():
            assert name not in self.ended, "an ended instance came back"
            rank = ORDER.index(instance.state) if instance.state in ORDER else -1
            generation, number, before = self.seen[name]
            assert instance.generation >= generation
            assert instance.number == instance.generation or name == "i2", "nobody else returns"
            if instance.number == number and rank >= 0 and before >= 0:
                assert rank >= before
            self.seen[name] = (instance.generation, instance.number, rank)
        self.ended.update(self.desk.cluster.ended)

    @invariant()
    def indexes_agree(self) -> None:
        cluster = self.desk.cluster
        for agent, ids in cluster.on_agent.items():
            for each in ids:
                instance = cluster.instances[each]
                assert instance.agent == agent
        for name, instance in cluster.instances.items():
            held = instance.live or instance.state is State.ORPHANED
            assert (name in cluster.on_agent.get(instance.agent, {})) == held
            assert (name in cluster.ending) == (instance.stop or bool(instance.yields_to))
        anew = Draft(Cluster(cluster.instances.values()))
        assert cluster.ours == {agent: anew.ours_on(agent) for agent in cluster.ours}
        for state, agenda in cluster.agendas.items():
            there = {n: waits_since(i) for n, i in cluster.instances.items() if i.state is state}
            assert set(agenda) == set(there)
            for until in there.values():
                found = agenda.until(until)
                assert set(found) == {n for n, since in there.items() if since <= until}
                assert [there[n] for n in found] == sorted(there[n] for n in found)

    @invariant()
    def sums_are_those_of_what_is_there(self) -> None:
        cluster, fresh = self.desk.cluster, Ledger()
        for instance in cluster.instances.values():
            fresh.add(instance)
        for name in (
            *("waiting", "shapes", "places", "apart", "launching"),
            *("apps", "steady", "budgets"),
        ):
            assert getattr(cluster.ledger, name) == getattr(fresh, name), name
        assert cluster.ledger.yielding.known() == fresh.yielding.known()
        for bu, used in cluster.ledger.usage.items():
            assert used.cpus == pytest.approx(fresh.usage.get(bu, Amounts()).cpus, abs=1e-6)
        draft = Draft(cluster)
        agents = draft.volatile.roster.agents(draft.ours_on, ())
        for agent, row in agents.rows.index.items():
            mine = [each for each in cluster.volatile.offers.values() if each.agent == agent]
            assert bool(agents.offered[row]) == bool(mine)
            ours = draft.ours_on(agent)
            free = sum((each.free for each in mine), Amounts()) - ours.reserved
            assert agents.free[:, row] == pytest.approx(
                [free.cpus, free.mem_mib, free.disk_mib], abs=1e-6
            )

    @invariant()
    def whoever_waits_is_told_of_each_agent_once(self) -> None:
        for why in self.desk.cluster.volatile.why.values():
            assert sum(why.refusal.failed.values()) == why.refusal.agents
            assert why.refusal.nearest


TestStorm = Storm.TestCase
TestStorm.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
