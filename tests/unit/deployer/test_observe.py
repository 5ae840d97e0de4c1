"""Events of one instance, late, doubled and in any order."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.events import Event
from libs.common.events import model as ev
from services.deployer.instances import is_over, nudge_s, nudged
from services.deployer.model import Instance, State, Wanted
from services.deployer.observe import ObservedEvent, generation_of, observe
from services.deployer.resync import ended
from tests.unit.deployer.world import make_instance

ALIKE = {"instance": "i", "app": "shop/web", "agent": "a1", "hostname": "h1"}


def event(kind: type[Event], attempt: int = 1, **fields: object) -> ObservedEvent:
    base = {**ALIKE, "attempt": f"i.{attempt}", **fields}
    if kind is ev.OfferAccepted:
        base |= {"offer": "o", "cpus": 1.0, "mem_mib": 10}
    if kind is ev.PlacementDelayed:
        base |= {"agents": 3, "failed": {"mem": 3}}
        base.setdefault("message", "no agent has 10 MiB")
    return kind.model_validate(base)  # type: ignore[return-value]


def fresh() -> Instance:
    return make_instance(
        "i", state=State.REQUESTED, generation=0, attempt="", healthy_since=None, address=""
    )


LIFE = [
    event(ev.PlacementDelayed),
    event(ev.OfferAccepted),
    event(ev.ContainerStarted, address="10.1.0.5", container="c1"),
    event(ev.ContainerHealthy, address="10.1.0.5", container="c1"),
    event(ev.ContainerUnhealthy, message="HTTP 500"),
    event(ev.ContainerLost),
    event(ev.ContainerExited, state="TASK_FAILED", exit_code=1),
    event(ev.OfferAccepted, 2),
    event(ev.ContainerStarted, 2, address="10.1.0.6"),
    event(ev.ContainerHealthy, 2, address="10.1.0.6"),
    event(ev.ContainerExited, 2, state="TASK_KILLED", final=True, wanted=True),
]


def fold(order: list[int]) -> Instance:
    instance = fresh()
    for index in order:
        instance = observe(instance, LIFE[index], index, 100.0 + index)
    return instance


@pytest.mark.parametrize(("first", "second"), list(permutations(range(len(LIFE)), 2)))
def test_of_every_pair_the_later_one_wins_in_both_orders(first: int, second: int) -> None:
    early, late = sorted((first, second))
    swapped = fold([late, early])
    only_late = fold([late])
    assert swapped.state is only_late.state
    assert swapped.attempt == only_late.attempt
    assert swapped.healthy_since == only_late.healthy_since
    assert swapped.seen == late


@given(st.permutations(range(len(LIFE))), st.lists(st.integers(0, len(LIFE) - 1), max_size=8))
def test_any_order_with_doubles_comes_to_the_same_state(order: list[int], again: list[int]) -> None:
    assert fold([*order, *again]).state is State.GONE
    upto = max(order[:4])
    cut = [each for each in order if each <= upto]
    straight, mixed = fold(list(range(upto + 1))), fold([*cut, *cut])
    assert (mixed.state, mixed.attempt, mixed.generation) == (
        straight.state,
        straight.attempt,
        straight.generation,
    )


@pytest.mark.parametrize("index", range(len(LIFE)))
def test_a_doubled_event_changes_nothing(index: int) -> None:
    once = fold([index])
    assert observe(once, LIFE[index], index, 999.0) is once


def test_exited_before_started_stays_exited() -> None:
    exited = observe(fresh(), event(ev.ContainerExited, state="TASK_FAILED"), 7, 1.0)
    assert observe(exited, event(ev.ContainerStarted), 6, 2.0) is exited
    assert exited.state is State.EXITED


def test_events_of_one_save_have_one_sequence_and_any_order() -> None:
    started, healthy = event(ev.ContainerStarted, address="10.1.0.5"), event(ev.ContainerHealthy)
    forward = observe(observe(fresh(), started, 5, 1.0), healthy, 5, 2.0)
    backward = observe(observe(fresh(), healthy, 5, 1.0), started, 5, 2.0)
    assert forward.state is backward.state is State.HEALTHY
    assert forward.address == backward.address == "10.1.0.5"


def test_an_older_attempt_never_speaks_for_the_newer() -> None:
    second = observe(fresh(), event(ev.ContainerHealthy, 2), 5, 1.0)
    told = observe(second, event(ev.ContainerExited, 1, state="TASK_LOST", final=True), 9, 2.0)
    assert told.state is State.HEALTHY
    assert told.seen == 9


def test_a_new_attempt_forgets_the_old_place() -> None:
    first = observe(fresh(), event(ev.ContainerHealthy, address="10.1.0.5", container="c1"), 1, 1.0)
    second = observe(first, event(ev.OfferAccepted, 2, agent="a2"), 2, 2.0)
    assert (second.address, second.container, second.agent) == ("", "", "a2")
    assert second.healthy_since is None
    assert second.restarts == 1


def test_one_failure_an_attempt() -> None:
    instance = fresh()
    instance = observe(instance, event(ev.ContainerUnhealthy, message="no answer"), 1, 1.0)
    instance = observe(instance, event(ev.ContainerExited, state="TASK_FAILED"), 2, 2.0)
    assert instance.failures == 1
    instance = observe(instance, event(ev.ContainerExited, 2, state="TASK_FAILED"), 3, 3.0)
    assert instance.failures == 2


@pytest.mark.parametrize("asked", [True, False])
def test_what_was_asked_to_stop_has_not_failed(asked: bool) -> None:
    instance = make_instance("i", wanted=Wanted.STOP if asked else Wanted.RUN)
    gone = event(ev.ContainerExited, state="TASK_KILLED", wanted=not asked, final=True)
    after = observe(instance, gone, 9, 1.0)
    assert (after.state, after.failures) == (State.GONE, 0)


def test_an_instance_that_was_never_placed_can_be_gone() -> None:
    gone = event(ev.ContainerExited, state="TASK_KILLED", final=True, wanted=True)
    after = observe(fresh(), gone.model_copy(update={"attempt": ""}), 1, 1.0)
    assert after.state is State.GONE


def test_one_that_was_taken_for_gone_and_turns_up_is_asked_to_stop_until_it_has_ended() -> None:
    taken = ended(make_instance("i", wanted=Wanted.STOP, state=State.REQUESTED, seen=-1), 10.0)
    assert nudge_s(taken, 20.0) is None and is_over(taken, 60.0, 100.0)
    seen = observe(taken, event(ev.ContainerStarted), 3, 1000.0)
    assert (seen.state, seen.turned_up) == (State.GONE, True)
    assert not is_over(seen, 60.0, 5000.0)
    due = nudge_s(seen, 1000.0)
    assert due is not None and due <= 0
    asked, stop = nudged(seen, {}, 1000.0)
    assert isinstance(stop, ev.InstanceStopRequested)
    again = nudge_s(asked, 1000.0)
    assert again is not None and again > 0
    over = observe(asked, event(ev.ContainerExited, state="TASK_KILLED", final=True), 9, 1001.0)
    assert nudge_s(over, 2000.0) is None and is_over(over, 60.0, 2000.0)


def test_exits_say_why() -> None:
    told = event(
        ev.ContainerExited, state="TASK_FAILED", exit_code=137, reason="OOM", message="128 MiB"
    )
    assert observe(fresh(), told, 1, 1.0).last_exit == "TASK_FAILED, exit code 137, OOM: 128 MiB"


@pytest.mark.parametrize(("attempt", "n"), [("a-b-c.3", 3), ("a-b-c", 0), ("", 0), ("x.y", 0)])
def test_generation_of(attempt: str, n: int) -> None:
    assert generation_of(attempt) == n
