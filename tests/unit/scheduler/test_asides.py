"""What is large finds room although small ones come and go all the time; and these do so, all the same.

Judged while the stream goes on: some end at any time, and more wait than there is room for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libs.common.spec import Constraint, ConstraintOperator
from services.scheduler.api import why_of
from services.scheduler.asides import HOLD_S, PART, kept
from services.scheduler.cluster import Draft
from services.scheduler.model import AgentId, Door, InstanceId, Node, NodeSet, State
from services.scheduler.settings import SchedulerConfig
from tests.unit.scheduler.allocator import AGENTS, CPUS, Master
from tests.unit.scheduler.world import Desk, launches, spec, unwant, want

LARGE, SMALL = spec(0.85), spec(0.2)
APART = (Constraint(attribute="hostname", operator=ConstraintOperator.UNIQUE),)
AFTER_S = SchedulerConfig().set_aside_after_s
BACKLOG = 3
"""So many small ones wait at any time."""
LONGEST_S = 25
"""One of them runs no longer."""


@dataclass
class Stream:
    """A cluster full of small ones, the n-th of which runs for `lives_s[n % len(lives_s)]`.

    On some agents is besides what stays there, and leaves no room for what is large.
    """

    lives_s: list[int]
    app: str = "acme/small"
    staying: int = 0
    agents: tuple[str, ...] = AGENTS
    begun: int = 0
    longest_s: float = 0.0  # that one of them has waited
    ends: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.desk = Desk()
        self.master = Master(self.desk, free=dict.fromkeys(self.agents, CPUS))
        self.master.take(self.desk.subscribe())
        stays = spec(0.3, constraints=APART)
        for n in range(self.staying):
            self.master.take(self.desk.give(want(f"stays-{n}", stays, "acme/stays")))
        for _ in range(3):
            self.master.cycle()
        for _ in range(2 * LONGEST_S):
            self.cycle()

    def cycle(self) -> None:
        """A second of it."""
        master, desk = self.master, self.desk
        for task, at in list(self.ends.items()):
            if at <= desk.now:
                del self.ends[task]
                master.take(desk.give(unwant(task.rpartition(".")[0])))
        waiting = self._waiting()
        for n in range(BACKLOG - len(waiting)):
            name = f"small-{self.begun + len(waiting) + n}"
            master.take(desk.give(want(name, SMALL, self.app)))
        master.cycle()
        for task in master.tasks:
            if task.startswith("small-") and task not in self.ends:
                self.ends[task] = desk.now + self.lives_s[self.begun % len(self.lives_s)]
                self.begun += 1
        self.longest_s = max([self.longest_s, *(desk.now - since for since in self._waiting())])
        assert len(kept(Draft(desk.cluster))) <= 1

    def _waiting(self) -> list[float]:
        found = self.desk.cluster.instances.values()
        return [i.since for i in found if i.app == self.app and i.state is State.PENDING]


@given(
    st.lists(st.integers(1, LONGEST_S), min_size=1, max_size=7),
    st.sampled_from(["acme/small", "beta/small"]),
    st.integers(0, len(AGENTS) - 1),
)
@example([7, 11, 13, 9], "acme/small", 0)
@example([7, 11, 13, 9], "beta/small", 2)
@settings(max_examples=20, deadline=None)
def test_what_is_large_finds_room_and_small_ones_do_not_wait_for_long(
    lives_s: list[int], app: str, staying: int
) -> None:
    stream = Stream(lives_s, app, staying)
    stream.master.take(stream.desk.give(want("large", LARGE, "acme/large")))
    # Agents that will never do are tried first, if they lack the least.
    most_s = AFTER_S + (staying + 1) * (HOLD_S + 2 * LONGEST_S)
    began = stream.desk.now
    while stream.desk[InstanceId("large")].state is State.PENDING:
        stream.cycle()
        assert stream.desk.now - began <= most_s, "it starves"
    for _ in range(2 * LONGEST_S):
        stream.cycle()
    assert not stream.desk.cluster.volatile.asides
    assert stream.longest_s < AFTER_S


@pytest.mark.parametrize("lives_s", [[7, 11, 13, 9], [25, 24]])
def test_a_vain_wish_for_the_only_host_leaves_small_ones_their_turn(lives_s: list[int]) -> None:
    begun = []
    for wished in (False, True):
        stream = Stream(lives_s, staying=1, agents=("a1",))
        if wished:
            stream.master.take(stream.desk.give(want("large", LARGE, "acme/large")))
        before = stream.begun
        for _ in range(int(6 * HOLD_S)):
            stream.cycle()
        begun.append(stream.begun - before)
        assert stream.longest_s <= HOLD_S + 4 * LONGEST_S
    assert begun[1] >= begun[0] / 3


def _full(agents: int, config: SchedulerConfig | None = None) -> Desk:
    """Each agent has two that run for good, and no room."""
    desk = Desk(config or SchedulerConfig())
    desk.subscribe()
    desk.give(*(want(f"i{n}", spec(0.5), "acme/web") for n in range(2 * agents)))
    desk.offer(*(f"a{n}" for n in range(agents)), cpus=1.01)
    for each in list(desk.cluster.instances.values()):
        desk.tell(each.attempt, "TASK_RUNNING", agent=each.agent, container=f"c-{each.id}")
    return desk


def _ends(desk: Desk, agent: str) -> None:
    """One of those that run on an agent is stopped and ends; its room is not offered yet."""
    there = (i for i in desk.cluster.instances.values() if i.agent == agent and not i.stop)
    one = next(there)
    desk.give(unwant(one.id))
    desk.tell(one.attempt, "TASK_KILLED", agent=agent)


def _kept(desk: Desk) -> dict[str, str]:
    return {agent: shape.app for agent, shape in kept(Draft(desk.cluster)).items()}


def test_few_agents_are_set_aside_each_for_one_and_others_have_their_turn() -> None:
    agents = 2 * PART + 1
    desk = _full(agents)
    desk.give(*(want(f"l{n}", spec(0.9), f"acme/l{n}") for n in range(5)))
    desk.give(*(want(f"too-large-{n}", spec(2.0), f"acme/t{n}") for n in range(30)))
    desk.tick(AFTER_S - 1)
    assert not _kept(desk)
    had: set[str] = set()
    for _ in range(int(4 * HOLD_S)):
        desk.tick(1.0)
        now = _kept(desk)
        assert len(set(now.values())) == len(now) <= agents // PART
        had.update(now.values())
    assert had == {f"acme/l{n}" for n in range(5)}


def test_what_is_set_aside_is_for_one_and_for_what_is_more_important() -> None:
    desk = _full(1)
    desk.give(want("large", spec(0.9), "acme/large"))
    desk.tick(AFTER_S)
    desk.tick(0.5)
    assert _kept(desk) == {"a0": "acme/large"}
    _ends(desk, "a0")
    desk.give(want("small", spec(0.3), "acme/small"))
    assert not launches(desk.offer("a0", cpus=0.5))
    why = why_of(desk.cluster, desk["small"])
    assert why is not None and why.failed == {"set aside": 1}
    assert (
        why.nearest == "1 of 1 agent would do, none of them is free of what has waited for longer"
    )
    why = why_of(desk.cluster, desk["large"])
    assert why is not None and why.failed == {"cpus": 1}
    assert why.nearest.endswith("what becomes free on host-a0 is kept for it")
    first = spec(0.1).model_copy(update={"priority": 5})
    assert launches(desk.give(want("first", first, "acme/first"))) == ["first.1"]
    desk.give(unwant("first"))
    desk.tell("first.1", "TASK_KILLED", agent="a0")
    _ends(desk, "a0")
    assert launches(desk.offer("a0", cpus=1.0)) == ["large.1"]
    assert not desk.cluster.volatile.asides


def test_it_ends_with_its_wish_with_its_host_and_when_it_is_told_to() -> None:
    desk = _full(2)
    desk.give(want("large", spec(0.9), "acme/large"))
    desk.tick(AFTER_S)
    (first,) = _kept(desk)
    desk.give(NodeSet(Node(f"host-{first}", Door.CORDONED)))
    desk.tick(0.5)
    (second,) = _kept(desk)
    assert second != first
    desk.give(unwant("large"))
    assert not desk.cluster.volatile.asides
    desk = _full(1, SchedulerConfig(set_aside_after_s=0))
    desk.give(want("large", spec(0.9), "acme/large"))
    desk.tick(10 * AFTER_S)
    assert not _kept(desk)


def test_nothing_is_set_aside_where_room_is_no_help() -> None:
    desk = _full(2)
    rule = Constraint(attribute="zone", operator=ConstraintOperator.IS, value="b")
    desk.give(want("elsewhere", spec(0.9, constraints=(rule,)), "acme/elsewhere"))
    desk.give(want("huge", spec(1.5), "acme/huge"))
    desk.tick(AFTER_S)
    desk.tick(0.5)
    assert not _kept(desk)
    assert desk.cluster.volatile.roster.rows.index[AgentId("a0")] == 0
