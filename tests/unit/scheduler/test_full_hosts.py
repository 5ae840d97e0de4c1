"""A host without room on its disk: no failure of the instance, and no loop of launches there."""

from __future__ import annotations

from libs.common.events import model as ev
from services.scheduler.model import State
from services.scheduler.refusing import OFFERS_COME_S
from tests.unit.scheduler.world import Desk, launches, unwant, want


def full(desk: Desk, task: str, agent: str = "a1") -> None:
    desk.tell(task, "TASK_FAILED", agent=agent, refused="disk")


def test_it_goes_elsewhere_at_once_and_is_not_blamed() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    assert launches(desk.offer("a1")) == ["i1.1"]
    full(desk, "i1.1")
    assert (desk["i1"].state, desk["i1"].failures) == (State.PENDING, 0)
    assert launches(desk.offer("a1")) == []
    desk.tick(OFFERS_COME_S)
    assert launches(desk.offer("a2")) == ["i1.2"]
    assert desk["i1"].agent == "a2"
    exited = [each for each in desk.events if isinstance(each, ev.ContainerExited)]
    assert [(each.state, each.wanted, each.final) for each in exited] == [
        ("TASK_DROPPED", False, False)
    ]
    (delayed,) = [each for each in desk.events if isinstance(each, ev.PlacementDelayed)]
    assert delayed.failed == {"room on its disk": 1}


def test_a_full_host_is_asked_less_and_less_often() -> None:
    """With no other host: the first time after 15 s, then 30, 60, …, 300; one that runs forgives all."""
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    tries: list[float] = []
    began = desk.now
    desk.offer("a1")
    full(desk, "i1.1")
    for _ in range(1100):
        for task in launches(desk.offer("a1") + desk.tick(1.0)):
            tries.append(desk.now - began)
            began = desk.now
            full(desk, task)
    assert tries == [15, 30, 60, 120, 240, 300, 300]
    (task,) = launches(desk.tick(300.0))
    desk.tell(task, "TASK_RUNNING", container="c")
    assert desk.cluster.volatile.full == {}


def test_many_that_were_on_their_way_count_once() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(*(want(f"i{n}") for n in range(5)))
    assert len(launches(desk.offer("a1"))) == 5
    for n in range(5):
        full(desk, f"i{n}.1")
    assert desk.cluster.volatile.full["a1"].until == desk.now + 15  # type: ignore[index]


def test_what_runs_there_is_still_adopted() -> None:
    desk = Desk()
    desk.running("i1")
    desk.give(want("i2"))
    desk.offer("a1")
    full(desk, "i2.1")
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    assert desk["i1"].state is State.ORPHANED
    assert launches(desk.offer("a1")) == ["i1.2"]


def test_a_stop_ends_one_that_was_put_off() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    desk.offer("a1")
    desk.give(unwant("i1"))
    full(desk, "i1.1")
    assert "i1" not in desk.cluster.instances
