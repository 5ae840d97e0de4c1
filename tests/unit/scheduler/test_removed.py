"""The framework was removed: everything is placed anew, and nothing of before is believed."""

from __future__ import annotations

from libs.mesos import events as mesos
from services.scheduler.model import InstanceId, Reregister, State
from tests.unit.scheduler.world import Desk, kills, launches, unwant, want


def _removed() -> Desk:
    """i1 runs, i2 has lost its executor, i3 is to stop, i4 waits; Mesos has ended the subscription."""
    desk = Desk()
    for name in ("i1", "i2", "i3"):
        desk.running(name)
    desk.tell("i2.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.give(unwant("i3"))
    desk.give(mesos.Disconnected("removed", False, 0.0), want("i4"))
    return desk


def test_nothing_changes_before_a_person_says_so() -> None:
    desk = _removed()
    known = dict(desk.cluster.instances)
    desk.tick(30.0)
    assert {each: desk[each].state for each in known} == {
        name: each.state for name, each in known.items()
    }
    assert desk["i1"].state is State.RUNNING and desk["i2"].state is State.ORPHANED


def test_each_instance_goes_on_in_a_new_attempt_or_ends() -> None:
    desk = _removed()
    assert desk.give(Reregister()) == []
    assert [desk[each].state for each in ("i1", "i2", "i4")] == [State.PENDING] * 3
    assert InstanceId("i3") not in desk.cluster.instances
    assert desk["i2"].adopt == "" and desk["i1"].healthy is None
    ends = [each for each in desk.events if type(each).__name__ == "ContainerExited"]
    assert {(e.instance, e.final) for e in ends} == {("i1", False), ("i2", False), ("i3", True)}  # type: ignore[attr-defined]
    assert len(desk.cluster.cleanups) == 1, "the orphan's container may be left on its host"
    desk.subscribe()
    placed = launches(desk.offer("a1", "a2"))
    assert {"i1.2", "i2.2", "i4.1"} <= set(placed)
    assert kills(desk.tell("i1.1", "TASK_KILLED")) == [] and desk["i1"].generation == 2


def test_what_the_old_framework_left_unknown_holds_nothing_back() -> None:
    desk = Desk()
    desk.running("i1")
    desk.tell("stranger.1", "TASK_RUNNING")
    desk.tick(3.0)
    assert desk.cluster.volatile.breaker_open
    desk.give(mesos.Disconnected("removed", False, 0.0), Reregister())
    assert not desk.cluster.volatile.breaker_open and not desk.cluster.volatile.unknown
