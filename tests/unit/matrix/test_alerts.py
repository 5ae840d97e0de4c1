"""Was an outage told of: by an event or a mail that says so, under the right name, and once."""

from __future__ import annotations

import pytest

from libs.client.model import EventView
from tests.matrix.alerts import RAISED, RESOLVED, Turn, of_events, of_mails, untold
from tests.matrix.parts import PARTS, TOLD, UNTOLD, WHOLE

DOWN = "component-down:bus"
ON, OFF = Turn(DOWN, raised=True), Turn(DOWN, raised=False)


def event(topic: str, name: str, subject: str = DOWN) -> EventView:
    return EventView(id=name, topic=topic, subject=subject, time=1.0, sequence=1, data={})


def test_an_event_that_the_bus_has_twice_is_one_turn() -> None:
    raised, resolved = event(RAISED, "e1"), event(RESOLVED, "e2")
    assert of_events([raised, raised, resolved]) == [ON, OFF]
    assert of_events([raised, event(RAISED, "e3")]) == [ON, ON]
    assert of_events([event("deploy.succeeded", "e4")]) == []


def test_subjects_of_mails_are_read() -> None:
    raised = f" [gantry many-en44] RAISED critical: {DOWN}"
    assert of_mails([raised, f"[gantry x] RESOLVED critical: {DOWN}", "Hello"]) == [ON, OFF]


@pytest.mark.parametrize(("events", "mails"), [([ON], []), ([], [ON]), ([ON, OFF], [ON, OFF])])
def test_either_way_of_telling_will_do(events: list[Turn], mails: list[Turn]) -> None:
    assert untold(DOWN, events, mails) == ""


def test_that_it_is_over_does_not_tell_that_it_was() -> None:
    assert untold(DOWN, [OFF], [OFF]) == f"that {DOWN} fires was neither an event nor mailed"


def test_another_one_of_the_kind_does_not_tell_of_it() -> None:
    other = Turn("component-down:scheduler@127.0.0.1:2", raised=True)
    assert untold("component-down:scheduler@127.0.0.1:1", [other], [other])


def test_what_fires_is_not_raised_again() -> None:
    again = f"{DOWN} was raised again while it fired"
    assert untold(DOWN, [ON, ON], []) == again
    assert untold(DOWN, [ON], [ON, ON]) == again
    assert untold(DOWN, [ON, OFF, ON], [ON, OFF, ON]) == ""
    other = Turn("component-down:store", raised=True)
    assert untold(DOWN, [ON, other, OFF, other], []) == ""
    assert untold(DOWN, [ON], [ON, ON], once=False) == ""
    assert untold(DOWN, [ON, ON], [], once=False) == again


def test_a_part_of_many_processes_is_told_of_each() -> None:
    away, killed = TOLD["deployer-all"]
    replicas = ("127.0.0.1:1", "127.0.0.1:2")
    assert away.alerts("a1", replicas) == [f"component-down:deployer@{each}" for each in replicas]
    assert killed.due("kill9", 1.0) and not killed.due("stop", 30.0)
    assert TOLD["agent"][0].alerts("a1", ()) == ["node-lost:a1"]
    assert [each.alerts("a1", ())[0] for each in TOLD["ovs"]] == [
        "component-down:host@h1",
        "component-down:host@h2",
    ]


def test_of_each_part_it_is_known_what_is_told() -> None:
    assert set(PARTS) == set(TOLD)
    assert {part for part, _ in UNTOLD} < set(PARTS)
    assert set(WHOLE) < set(PARTS)
