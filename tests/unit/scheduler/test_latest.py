"""What one save tells, consumers may hear in any order: it comes to the same as each step told by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations, product

import pytest

from libs.common.events import Event
from libs.common.events import model as ev
from services.deployer.model import State as Seen
from services.deployer.observe import observe
from services.scheduler.latest import latest
from tests.unit.deployer.world import make_instance
from tests.unit.scheduler.world import Desk, update, want

PLACE = {"instance": "i1", "app": "acme/web", "attempt": "i1.1", "agent": "a1", "hostname": "h1"}
HERE = {**PLACE, "container": "c1", "address": "10.0.0.1"}

STEPS: dict[str, tuple[Event, ...]] = {
    "somewhere": (ev.ContainerStarted(**PLACE), ev.ContainerHealthy(**PLACE)),
    "started": (ev.ContainerStarted(**HERE),),
    "well": (ev.ContainerStarted(**HERE), ev.ContainerHealthy(**HERE)),
    "better": (ev.ContainerHealthy(**HERE),),
    "worse": (ev.ContainerUnhealthy(**HERE),),
    "lost": (ev.ContainerLost(**HERE),),
    "over": (ev.ContainerExited(**HERE, state="TASK_FAILED", final=False),),
}


def heard(events: Sequence[tuple[int, Event]]) -> tuple[Seen, str, str]:
    """What a consumer makes of (sequence number, event)."""
    instance = make_instance(
        "i1", state=Seen.PLACED, attempt="i1.1", generation=1, address="", seen=1
    )
    for sequence, event in events:
        instance = observe(instance, event, sequence, 1000.0)  # type: ignore[arg-type]
    return instance.state, instance.address, instance.container


def may_follow(before: str, after: str) -> bool:
    """Does the scheduler tell such steps of one attempt: a place is not forgotten, health only with the host."""
    if after == "started":
        return before in ("started", "lost")
    return before != "over" and after != "somewhere"


@pytest.mark.parametrize("last", STEPS)
def test_one_save_comes_to_the_same_as_many(last: str) -> None:
    for before in (*product(STEPS, repeat=2), *product(STEPS, repeat=1)):
        steps = [*before, last]
        if not all(may_follow(*pair) for pair in pairwise(steps)):
            continue
        told: list[Event] = []
        for step in steps:
            told = latest(told, STEPS[step])
        kinds = [type(each) for each in told]
        assert len(set(kinds)) == len(kinds), steps
        one_by_one = heard([(n, each) for n, step in enumerate(steps, 2) for each in STEPS[step]])
        for order in permutations(told):
            found = heard([(2, each) for each in order])
            assert found[0] is one_by_one[0], (steps, order)
            if "lost" not in steps and "over" not in steps:
                assert found[1:] == one_by_one[1:], (steps, order)


def test_each_deed_is_audited() -> None:
    audit = ev.AuditRecorded(actor="ann", action="drain", target="host-1", allowed=True)
    assert latest([audit], [audit]) == [audit, audit]


def test_two_updates_in_one_decision_tell_where_it_is() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    desk.offer()
    desk.events.clear()
    bare, whole = update("i1.1", "TASK_RUNNING"), update("i1.1", "TASK_RUNNING", container="c-i1")
    desk.give(bare, whole)  # the master's first, who keeps no data
    assert desk.kinds() == ["ContainerStarted", "ContainerHealthy"]
    assert {getattr(each, "address", None) for each in desk.events} == {"10.0.0.1"}
