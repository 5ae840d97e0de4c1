"""Launches are bounded: for the cluster by a rate, for an agent by what is on its way to run there."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.mesos import events as mesos
from services.scheduler.model import Action, Launch
from services.scheduler.pacing import BURST_S
from services.scheduler.settings import SchedulerConfig
from tests.unit.scheduler.world import Desk, launches, spec, want

SMALL = spec(cpus=0.01, mem_mib=4)


def _desk(config: SchedulerConfig, count: int) -> Desk:
    desk = Desk(config)
    desk.subscribe()
    desk.give(*(want(f"i{n}", SMALL) for n in range(count)))
    return desk


def _by_agent(actions: list[Action]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for each in actions:
        if isinstance(each, Launch):
            counts[each.agent] += len(each.tasks)
    return counts


def test_a_burst_on_one_host_is_not_held_back() -> None:
    desk = _desk(SchedulerConfig(), 150)
    assert len(launches(desk.offer())) == 150


def test_an_agent_gets_more_when_some_of_what_it_has_runs() -> None:
    desk = _desk(SchedulerConfig(launching_per_agent=3), 5)
    assert len(launches(desk.offer())) == 3
    assert launches(desk.offer()) == []
    for n in range(2):
        desk.tell(f"i{n}.1", "TASK_RUNNING", container=f"c{n}")
    desk.offer()
    assert len(launches(desk.actions)) == 5


def test_what_one_agent_may_not_have_goes_to_another() -> None:
    desk = _desk(SchedulerConfig(launching_per_agent=3), 5)
    actions = [*desk.offer("a1", "a2"), *desk.tick(0.5)]
    assert sorted(_by_agent(actions).values()) == [2, 3]


def test_why_it_waits_is_told() -> None:
    desk = _desk(SchedulerConfig(launching_per_agent=1), 2)
    desk.offer()
    desk.offer()
    why = next(iter(desk.cluster.volatile.why.values())).refusal
    assert why.failed == {"launches under way": 1}


def test_the_cluster_launches_no_faster_than_its_rate() -> None:
    desk = _desk(SchedulerConfig(launches_per_s=2.0), 20)
    seen = [len(launches(desk.offer()))]
    for _ in range(4):
        desk.now += 1.0
        seen.append(len(launches(desk.offer())))
    assert seen == [4, 2, 2, 2, 2]  # the bucket holds two seconds' worth


@given(
    st.lists(
        st.tuples(st.sampled_from(["wait", "offer", "again"]), st.integers(0, 8)), max_size=30
    ),
    st.sampled_from([0.3, 1.0, 2.5]),
)
@settings(max_examples=60, deadline=None)
def test_in_no_span_of_time_more_than_its_rate_and_the_burst(
    steps: list[tuple[str, int]], rate: float
) -> None:
    desk = _desk(SchedulerConfig(launches_per_s=rate), 40)
    seen: list[tuple[float, int]] = []
    for step, n in steps:
        match step:
            case "wait":
                actions = desk.tick(n / 4)
            case "offer":
                actions = desk.offer(*(f"a{k}" for k in range(n)))
            case _:
                desk.give(mesos.Disconnected("cut", True, 1.0))
                actions = desk.subscribe()
        seen.append((desk.now, len(launches(actions))))
    burst = max(1.0, rate * BURST_S)
    for i, (begin, _) in enumerate(seen):
        for j in range(i, len(seen)):
            launched = sum(count for _, count in seen[i : j + 1])
            assert launched <= rate * (seen[j][0] - begin) + burst + 1e-6


@given(
    st.lists(
        st.tuples(st.sampled_from(["offer", "tick", "runs", "fails"]), st.integers(0, 9)),
        max_size=25,
    ),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_never_more_than_so_many_are_on_their_way_on_an_agent(
    steps: list[tuple[str, int]], most: int
) -> None:
    desk = _desk(SchedulerConfig(launching_per_agent=most), 10)
    for step, n in steps:
        known = desk[f"i{n}"]
        match step:
            case "offer":
                desk.offer("a1", "a2")
            case "tick":
                desk.tick(1.0)
            case _ if known.generation:
                state = "TASK_RUNNING" if step == "runs" else "TASK_FAILED"
                desk.tell(known.attempt, state, agent=known.agent, container=f"c{n}")
            case _:
                pass
        on_way = Counter(
            each.agent
            for each in desk.cluster.instances.values()
            if each.state.value in ("staged", "starting")
        )
        assert all(count <= most for count in on_way.values())
        assert dict(on_way) == desk.cluster.ledger.launching
