"""A host that may have a container left that nobody wants gets a clean-up, and nobody else hears of it."""

from __future__ import annotations

from base64 import b64decode

from libs.common.task import TaskPayload
from services.scheduler.cleaning import GIVE_UP_S
from services.scheduler.documents import from_body, to_body
from services.scheduler.model import InstanceId, Launch, State
from tests.unit.scheduler.world import Desk, launches, unwant

DIED = "REASON_EXECUTOR_TERMINATED"
CLEANUP = InstanceId("cleanup-i1.1")


def orphaned_for_good() -> Desk:
    """i1 ran on a1, whose executor died; no offer came to adopt it in time, and it goes to a2."""
    desk = Desk()
    desk.running("i1")
    desk.tell("i1.1", "TASK_FAILED", reason=DIED)
    for _ in range(61):
        desk.tick(1.0)
    assert desk["i1"].state is State.PENDING
    assert launches(desk.offer("a2")) == ["i1.2"]
    desk.tell("i1.2", "TASK_RUNNING", agent="a2", container="c2")
    return desk


def test_a_given_up_container_is_looked_after_when_its_host_offers_again() -> None:
    desk = orphaned_for_good()
    events = len(desk.events)
    assert launches(desk.offer("a3")) == []  # another host is of no use
    actions = desk.offer("a1")
    assert launches(actions) == [f"{CLEANUP}.1"]
    (launch,) = [each for each in actions if isinstance(each, Launch)]
    payload = TaskPayload.model_validate_json(b64decode(launch.tasks[0]["data"]))
    assert payload.cleanup
    desk.tell(f"{CLEANUP}.1", "TASK_FINISHED")
    assert CLEANUP not in desk.cluster.instances
    assert len(desk.events) == events
    desk.tick(120.0)
    assert launches(desk.offer("a1")) == []


def test_one_that_fails_is_repeated() -> None:
    """The executor may die of it, or refuse; nobody waits for a container then."""
    desk = orphaned_for_good()
    assert launches(desk.offer("a1")) == [f"{CLEANUP}.1"]
    desk.tell(f"{CLEANUP}.1", "TASK_FAILED", reason=DIED)
    assert desk.cluster.instances[CLEANUP].state is State.PENDING
    desk.tick(2.0)
    assert launches(desk.offer("a1")) == [f"{CLEANUP}.2"]


def test_a_stopped_one_is_looked_after_too_and_a_host_once() -> None:
    desk = Desk()
    desk.running("i1")
    desk.give(unwant("i1"))
    desk.tell("i1.1", "TASK_UNREACHABLE")
    desk.tick(301.0)
    assert list(desk.cluster.instances) == [CLEANUP]
    assert [type(each).__name__ for each in desk.events].count("ContainerExited") == 1


def test_one_is_enough_for_a_host() -> None:
    desk = Desk()
    for name in ("i1", "i2", "i3"):
        desk.running(name)
    for name in ("i1", "i2", "i3"):
        desk.tell(f"{name}.1", "TASK_UNREACHABLE")
    desk.tick(301.0)
    found = [each for each in desk.cluster.instances.values() if each.cleanup]
    assert [(each.id, each.hostname) for each in found] == [(CLEANUP, "host-a1")]
    assert from_body(found[0].id, 1, to_body(found[0])) == found[0]


def test_a_host_that_never_comes_back_is_not_waited_for() -> None:
    """Nor does it keep offers coming: between its looks the scheduler wants none."""
    desk = orphaned_for_good()
    desk.tick(15.0)
    desk.tick(1.0)
    assert desk.cluster.volatile.suppressed
    assert launches(desk.offer("a1")) == []
    desk.tick(60.0)
    assert not desk.cluster.volatile.suppressed
    desk.tick(15.0)
    desk.tick(1.0)
    assert desk.cluster.volatile.suppressed
    desk.tick(GIVE_UP_S)
    assert CLEANUP not in desk.cluster.instances


def test_what_is_adopted_is_not_cleaned_up() -> None:
    desk = Desk()
    desk.running("i1")
    desk.tell("i1.1", "TASK_FAILED", reason=DIED)
    desk.offer("a1")
    desk.tell("i1.2", "TASK_RUNNING", container="c-i1")
    desk.tick(1000.0)
    assert list(desk.cluster.instances) == ["i1"]
