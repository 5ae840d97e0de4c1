"""Catching up with the scheduler when events never came."""

from __future__ import annotations

import pytest

from services.deployer.model import Instance, State, Wanted
from services.deployer.resync import Row, caught_up, ended, unlisted
from tests.unit.deployer.world import make_instance


def row(**fields: object) -> Row:
    base = {"instance": "i", "app": "shop/web", "attempt": "i.1", "agent": "a1", "version": 9}
    return Row.model_validate(base | fields)


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({"state": "running", "healthy": True}, State.HEALTHY),
        ({"state": "running", "healthy": False}, State.UNHEALTHY),
        ({"state": "running", "healthy": None}, State.STARTED),
        ({"state": "unreachable"}, State.LOST),
        ({"state": "staged"}, State.PLACED),
        ({"state": "starting"}, State.PLACED),
        ({"state": "pending"}, State.EXITED),
        ({"state": "orphaned"}, State.HEALTHY),
        ({"state": "a new one"}, State.HEALTHY),
    ],
)
def test_a_newer_row_stands_for_its_events(told: dict[str, object], state: State) -> None:
    attempt = "i.2" if state is not State.EXITED else "i.1"
    after = caught_up(make_instance("i", seen=3), row(attempt=attempt, **told), 50.0)
    assert after.state is state
    assert after.failures == (1 if state is State.UNHEALTHY else 0)


def test_a_row_that_is_not_newer_says_nothing() -> None:
    known = make_instance("i", seen=9)
    assert caught_up(known, row(state="running", healthy=False), 50.0) is known
    assert caught_up(known, row(state="running", healthy=False, version=None), 50.0) is known


def test_a_row_that_is_not_newer_still_tells_where_it_runs() -> None:
    known = make_instance("i", attempt="i.1", address="", container="", seen=9)
    there = row(state="running", healthy=True, address="10.1.0.5", container="c1")
    after = caught_up(known, there, 50.0)
    assert (after.address, after.container, after.state) == ("10.1.0.5", "c1", known.state)
    assert caught_up(after, there.model_copy(update={"address": "10.1.0.6"}), 50.0) is after
    assert caught_up(known, there.model_copy(update={"attempt": "i.2"}), 50.0) is known
    assert caught_up(known, there.model_copy(update={"version": 8}), 50.0) is known


def test_a_row_that_waits_says_why() -> None:
    fresh = make_instance("i", state=State.REQUESTED, generation=0, attempt="")
    after = caught_up(fresh, row(state="pending", attempt="", waiting="no memory"), 50.0)
    assert (after.state, after.waiting) == (State.REQUESTED, "no memory")


def fleet(count: int, **fields: object) -> list[Instance]:
    return [make_instance(f"i{n}", seen=3, **fields) for n in range(count)]


def test_what_is_no_longer_listed_has_ended() -> None:
    rows = {f"i{n}": row(instance=f"i{n}", state="running") for n in range(1, 4)}
    assert unlisted(fleet(4), rows, 30.0, 100.0) == ["i0"]
    assert unlisted(fleet(4, changed_at=90.0), rows, 30.0, 100.0) == []
    assert unlisted(fleet(4, state=State.GONE), rows, 30.0, 100.0) == []
    gone = ended(make_instance("i0"), 100.0)
    assert (gone.state, gone.failures) == (State.GONE, 0)


def test_a_scheduler_without_memory_kills_no_fleet() -> None:
    assert unlisted(fleet(4), {}, 30.0, 100.0) == []
    stopping = fleet(2, wanted=Wanted.STOP, stop_sent_at=10.0)
    assert unlisted(stopping, {}, 30.0, 100.0) == ["i0", "i1"]
    assert unlisted(stopping, {}, 30.0, 20.0) == []


def test_one_whose_request_nobody_heard_is_not_gone() -> None:
    fresh = make_instance("i9", state=State.REQUESTED, generation=0, attempt="", seen=-1)
    rows = {"i1": row(instance="i1", state="running")}
    assert unlisted([*fleet(2)[1:], fresh], rows, 30.0, 100.0) == []
