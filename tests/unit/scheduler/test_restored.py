"""Tasks that the scheduler does not know: a store that was lost or has gone back must not cost a container."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler import ending
from services.scheduler.cluster import Cluster
from services.scheduler.core import UNKNOWN_GRACE_S
from services.scheduler.model import (
    AgentId,
    AskAnew,
    AttemptId,
    InstanceId,
    Recall,
    Reconcile,
    ReleaseBreaker,
    State,
)
from services.scheduler.settings import SchedulerConfig
from tests.unit.scheduler.world import Desk, kills, launches, unwant, want


def test_unknown_tasks_open_the_breaker_until_a_person_says_so() -> None:
    desk = Desk()
    desk.running()
    desk.tell("stranger.1", "TASK_RUNNING")
    assert kills(desk.tick(3.0)) == []
    assert desk.cluster.volatile.breaker_open
    assert kills(desk.tick(1000.0)) == []
    assert kills(desk.give(ReleaseBreaker())) == ["stranger.1"]


def test_up_to_the_limit_that_was_set_unknown_tasks_are_killed_after_a_moment() -> None:
    desk = Desk(SchedulerConfig(breaker_limit=1))
    desk.running()
    assert kills(desk.tell("stranger-1.1", "TASK_RUNNING")) == []
    assert kills(desk.tick(3.0)) == ["stranger-1.1"]
    for n in (2, 3):
        desk.tell(f"stranger-{n}.1", "TASK_RUNNING")
    assert kills(desk.tick(3.0)) == []
    assert desk.cluster.volatile.breaker_open


def test_the_breaker_closes_when_the_unknown_tasks_have_ended() -> None:
    desk = Desk()
    desk.running()
    desk.tell("stranger.1", "TASK_RUNNING")
    desk.tick(ending.SETTLE_S)
    desk.subscribe()  # forgets them for a moment, and hears of them again
    assert desk.cluster.volatile.breaker_open
    desk.tell("stranger.1", "TASK_RUNNING")
    desk.tick(ending.SETTLE_S)
    assert desk.cluster.volatile.breaker_open
    desk.tell("stranger.1", "TASK_FINISHED")
    desk.tick(1.0)
    assert not desk.cluster.volatile.breaker_open


def test_a_task_of_an_instance_that_is_stored_as_ended_is_killed_when_that_is_found_out() -> None:
    desk = Desk()
    desk.running()
    desk.tell("old.1", "TASK_RUNNING")
    desk.tell("stranger.1", "TASK_RUNNING")
    assert kills(desk.give(Recall({InstanceId("old"): 4}))) == ["old.1"]
    assert list(desk.cluster.volatile.unknown) == ["stranger.1"]


def restored(state: State = State.RUNNING, generation: int = 3) -> Desk:
    """A leader whose store has gone back: the instance had gone on to attempt 5, on another host."""
    wanted = replace(want("i1").instance, state=state, generation=generation, version=9)
    ran = replace(wanted, agent=AgentId("a1"), hostname="host-a1", healthy=True)
    desk = Desk(cluster=Cluster([replace(ran, address="10.0.0.3", container="c-3")]))
    desk.subscribe()
    return desk


@pytest.mark.parametrize("told_first", [True, False], ids=["older first", "newer first"])
def test_an_attempt_that_a_restored_store_has_forgotten_is_taken_up(told_first: bool) -> None:
    desk = restored()
    if told_first:
        desk.tell("i1.3", "TASK_GONE", reason="REASON_RECONCILIATION")
        assert launches(desk.offer()) == []  # not before all have been told of
    said = desk.tell("i1.5", "TASK_RUNNING", agent="a2", reason="REASON_RECONCILIATION")
    asked = [each for each in said if isinstance(each, AskAnew)]
    assert asked == [AskAnew((AttemptId("i1.5"),), AgentId("a2"))]
    if not told_first:
        desk.tell("i1.3", "TASK_GONE", reason="REASON_RECONCILIATION")
    assert kills(desk.actions) == ([] if told_first else ["i1.3"])
    assert (desk["i1"].state, desk["i1"].attempt) == (State.RUNNING, "i1.5")
    assert desk["i1"].strays == ()
    desk.tell("i1.5", "TASK_RUNNING", agent="a2", container="c-5")
    assert (desk["i1"].agent, desk["i1"].container) == ("a2", "c-5")
    assert desk["i1"].address == "10.0.0.1"
    assert "ContainerHealthy" in desk.kinds()
    for _ in range(3):
        desk.tick(ending.SETTLE_S)
        assert launches(desk.offer("a1", "a2")) == []


def test_a_forgotten_attempt_that_has_ended_gives_its_number_to_no_other() -> None:
    desk = restored()
    desk.tell("i1.5", "TASK_FINISHED", agent="a2", reason="REASON_RECONCILIATION")
    desk.tell("i1.3", "TASK_GONE", reason="REASON_RECONCILIATION")
    assert launches(desk.offer()) == ["i1.6"]


def test_a_hosts_word_alone_costs_no_attempt_on_another_host() -> None:
    desk = restored()
    before = desk["i1"]
    for state in ("TASK_RUNNING", "TASK_FAILED"):
        actions = desk.tell("i1.99", state, agent="a2")
        assert Reconcile(((AttemptId("i1.99"), AgentId("a2")),)) in actions
        assert kills(actions) == [] and desk["i1"] == before


def test_a_stop_that_the_store_knows_goes_to_the_forgotten_attempt() -> None:
    desk = restored(State.PENDING)
    desk.tell("i1.5", "TASK_RUNNING", agent="a2", reason="REASON_RECONCILIATION")
    assert kills(desk.give(unwant("i1"))) == ["i1.5"]


def test_an_end_told_by_reconciliation_alone_is_followed_by_an_attempt_when_all_is_told() -> None:
    desk = restored()
    desk.tell("i1.3", "TASK_GONE_BY_OPERATOR", reason="REASON_RECONCILIATION")
    desk.tick(ending.SETTLE_S - 1)
    assert launches(desk.offer()) == []
    assert launches(desk.tick(2.0)) == ["i1.4"]


def test_beside_an_empty_store_no_unknown_task_is_killed() -> None:
    desk = Desk()
    desk.subscribe()
    desk.tell("stranger.1", "TASK_RUNNING")
    assert kills(desk.tick(60.0)) == []
    assert desk.cluster.volatile.breaker_open


def test_a_task_of_an_instance_that_ended_before_a_restart_is_no_stranger() -> None:
    desk = Desk(cluster=Cluster(ended={InstanceId("old"): 3}))
    desk.subscribe()
    assert kills(desk.tell("old.1", "TASK_RUNNING")) == ["old.1"]
    assert not desk.cluster.volatile.unknown


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["TASK_RUNNING", "TASK_FINISHED"]), st.integers(0, 3)),
            st.tuples(st.just("tick"), st.sampled_from([1, 3, 20])),
            st.tuples(st.sampled_from(["subscribe", "release"]), st.just(0)),
        ),
        max_size=20,
    ),
    st.integers(0, 2),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_no_more_unknown_tasks_are_killed_unasked_than_was_set_and_none_beside_an_empty_store(
    steps: list[tuple[str, int]], limit: int, empty: bool
) -> None:
    desk = Desk(SchedulerConfig(breaker_limit=limit))
    desk.subscribe()
    if not empty:
        desk.running()
    heard: dict[str, float] = {}
    for what, n in steps:
        volatile = desk.cluster.volatile
        waiting, opened = set(volatile.unknown), volatile.breaker_open
        match what:
            case "tick":
                actions = desk.tick(float(n))
            case "subscribe":
                actions = desk.subscribe()
                heard.clear()
            case "release":
                actions = desk.give(ReleaseBreaker())
            case _:
                heard.setdefault(f"s{n}.1", desk.now)
                actions = desk.tell(f"s{n}.1", what)
        killed = {each for each in kills(actions) if each.startswith("s")}
        if what == "release":
            assert killed == waiting and not desk.cluster.volatile.breaker_open
        elif killed:
            assert not empty and not opened and len(killed) <= limit
            assert desk.now - min(heard[each] for each in killed) >= UNKNOWN_GRACE_S
        for each in killed:
            heard.pop(each, None)
