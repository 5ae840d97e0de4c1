"""Hosts that are cordoned and drained: nothing new goes there, and those that are there are asked to move."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.events import model as ev
from services.scheduler.api import instance_view
from services.scheduler.documents import from_body, to_body
from services.scheduler.model import Door, InstanceId, Launch, Node, NodeSet, Retell, State
from services.scheduler.nodes import left_on, node_body, node_of
from tests.unit.scheduler.world import Desk, kills, launches, unwant, want

HOST = "host-a1"


def _set(desk: Desk, door: Door, host: str = HOST, **more: Any) -> None:
    known = desk.cluster.volatile.nodes.get(host)
    version = known.version + 1 if known else 1
    desk.give(NodeSet(Node(host, door, version=version, since=desk.now, **more)))


def test_nothing_new_goes_to_a_closed_host_and_why_is_told() -> None:
    desk = Desk()
    desk.subscribe()
    _set(desk, Door.CORDONED)
    desk.give(want("i1"))
    assert launches(desk.offer("a1")) == []
    why = next(iter(desk.cluster.volatile.why.values())).refusal
    assert why.failed == {"open host": 1} and "cordoned" in why.nearest
    assert launches(desk.offer("a2")) == ["i1.1"]
    desk.give(want("i2"))
    _set(desk, Door.OPEN)
    assert launches(desk.offer("a1")) == ["i2.1"]


def test_an_offer_of_a_closed_host_is_given_back() -> None:
    desk = Desk()
    desk.subscribe()
    _set(desk, Door.CORDONED)
    desk.give(want("i1"))
    desk.offer("a1")
    assert not desk.cluster.volatile.offers


def test_a_drained_host_asks_its_instances_to_move_once_and_kills_none() -> None:
    desk = Desk()
    desk.running()
    _set(desk, Door.DRAINING, reason="new disk")
    asked = desk.events[-1]
    assert isinstance(asked, ev.InstanceMoveRequested)
    assert (asked.reason, asked.forced) == ("host-a1 is drained: new disk", False)
    assert instance_view(desk["i1"])["leaving"] == "asked"
    count = len(desk.events)
    desk.tick(1.0)
    assert len(desk.events) == count and kills(desk.actions) == []
    assert left_on(desk.cluster, HOST) == {"acme/web": 1}
    assert from_body("i1", desk["i1"].version, to_body(desk["i1"])) == desk["i1"]


def test_an_opened_host_asks_them_to_stay() -> None:
    desk = Desk()
    desk.running()
    _set(desk, Door.DRAINING)
    _set(desk, Door.OPEN)
    last = desk.events[-1]
    assert isinstance(last, ev.InstanceMoveRequested) and last.withdrawn
    assert desk["i1"].leaving == "" and not desk.cluster.leaving


def test_what_is_overdue_is_forced_only_if_that_was_asked() -> None:
    for force in (False, True):
        desk = Desk()
        desk.running()
        _set(desk, Door.DRAINING, force=force)
        _set(desk, Door.DRAINING, force=force, deadline_at=desk.now, overdue_at=desk.now)
        assert desk["i1"].leaving == ("forced" if force else "asked")


def test_one_that_fails_there_goes_on_elsewhere() -> None:
    desk = Desk()
    desk.running()
    _set(desk, Door.DRAINING)
    desk.tell("i1.1", "TASK_FAILED")
    desk.tick(2.0)
    assert desk["i1"].leaving == ""
    assert launches(desk.offer("a1", "a2")) == ["i1.2"]
    assert desk["i1"].hostname == "host-a2"


def test_a_container_is_adopted_on_a_drained_host_and_moves_then() -> None:
    desk = Desk()
    desk.running()
    _set(desk, Door.DRAINING)
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    assert desk["i1"].state is State.ORPHANED
    assert launches(desk.offer("a1")) == ["i1.2"]
    assert desk["i1"].leaving == "asked"


def test_who_asks_again_is_told_that_it_should_move() -> None:
    desk = Desk()
    desk.running()
    _set(desk, Door.DRAINING)
    desk.give(Retell(desk["i1"], asked=7))
    assert isinstance(desk.events[-1], ev.InstanceMoveRequested)


def test_an_older_word_about_a_host_changes_nothing() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(NodeSet(Node(HOST, Door.CORDONED, version=2)))
    desk.give(NodeSet(Node(HOST, Door.OPEN, version=1)))
    assert desk.cluster.volatile.nodes[HOST].door is Door.CORDONED


def test_a_host_outlives_its_document() -> None:
    node = Node(HOST, Door.DRAINING, "disk", "ann", 1.0, 2.0, True, 3.0, 4.0, 5)
    assert node_of(HOST, 5, node_body(node)) == node


DOORS = st.sampled_from(list(Door))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("door"), st.sampled_from(["a1", "a2"]), DOORS),
        st.tuples(st.just("offer"), st.sampled_from(["a1", "a2"]), st.none()),
        st.tuples(
            st.sampled_from(["TASK_RUNNING", "TASK_FAILED", "TASK_UNREACHABLE", "stop", "tick"]),
            st.sampled_from(["i0", "i1", "i2"]),
            st.none(),
        ),
    ),
    max_size=30,
)


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_nothing_new_on_a_closed_host_and_those_that_leave_are_those_on_drained_ones(
    steps: list[tuple[str, str, Door | None]],
) -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(*(want(f"i{n}") for n in range(3)))
    for what, about, door in steps:
        before = len(desk.actions)
        known = desk.cluster.instances.get(InstanceId(about))
        match what:
            case "door" if door is not None:
                _set(desk, door, f"host-{about}")
            case "offer":
                desk.offer(about)
            case "tick":
                desk.tick(10.0)
            case "stop" if known is not None:
                desk.give(unwant(about))
            case _ if known is not None and known.generation:
                desk.tell(known.attempt, what, agent=known.agent, container=f"c-{about}")
            case _:
                pass
        doors = desk.cluster.volatile.nodes
        closed = {name for name, node in doors.items() if node.door is not Door.OPEN}
        draining = {name for name, node in doors.items() if node.door is Door.DRAINING}
        for action in desk.actions[before:]:
            fresh = isinstance(action, Launch) and action.tasks[0]["name"].startswith("i")
            assert not (fresh and f"host-{action.agent}" in closed)  # type: ignore[union-attr]
        assert set(desk.cluster.leaving) == {
            name for name, each in desk.cluster.instances.items() if each.leaving
        }
        desk.tick(0.0)
        for each in desk.cluster.instances.values():
            there = each.hostname in draining and (each.live or each.state is State.ORPHANED)
            if not each.stop and not each.cleanup:
                assert bool(each.leaving) == there
