"""Unreachable hosts: when an instance is replaced, and who goes on when its host is back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from libs.common.events import model as ev
from libs.common.spec import AppSpec, InstanceSpec
from libs.common.wishes import Unreachable
from libs.mesos import events as mesos
from services.scheduler.documents import from_body, to_body
from services.scheduler.ending import SETTLE_S
from services.scheduler.model import Action, Instance, State
from services.scheduler.settings import SchedulerConfig
from tests.unit.scheduler.world import Desk, kills, launches, spec, want

SLIGHT = 1e-6  # times are binary fractions


def _unreachable(**wish: object) -> tuple[Desk, Instance]:
    desk = Desk()
    of = spec().model_copy(update={"unreachable": Unreachable.model_validate(wish)})
    desk.running(of=of)
    desk.tell("i1.1", "TASK_UNREACHABLE", reason="REASON_AGENT_REMOVED")
    return desk, desk["i1"]


def _of_i1(actions: list[Action]) -> list[str]:
    """Its launches, without those of clean-ups."""
    return [each for each in launches(actions) if each.startswith("i1.")]


def _replaced(**wish: object) -> Desk:
    desk, _ = _unreachable(replace_after_s=20, **wish)
    desk.tick(20.0)
    assert launches(desk.offer("a2")) == ["i1.2"]
    return desk


def test_an_app_says_when_a_replacement_starts() -> None:
    desk, _ = _unreachable(replace_after_s=20)
    desk.tick(19.0)
    states = [desk["i1"].state]
    desk.tick(1.0)
    assert [*states, desk["i1"].state] == [State.UNREACHABLE, State.PENDING]


def _back_after_a_minute() -> Desk:
    """Mesos' master was away for longer than the app has patience with a silent host."""
    desk, _ = _unreachable(replace_after_s=20)
    desk.give(mesos.Disconnected("gone", True, 1.0))
    desk.tick(60.0)
    desk.subscribe()
    return desk


def test_what_came_back_while_nobody_was_told_is_not_replaced() -> None:
    """Reconciliation says what came of it, and then it is decided."""
    desk = _back_after_a_minute()
    desk.tick(1.0)
    states = [desk["i1"].state]
    desk.tell("i1.1", "TASK_RUNNING", reason="REASON_RECONCILIATION", container="c-i1")
    desk.tick(60.0)
    assert [*states, desk["i1"].state] == [State.UNREACHABLE, State.RUNNING]


def test_what_did_not_come_back_meanwhile_is_replaced_as_soon_as_that_is_known() -> None:
    desk = _back_after_a_minute()
    desk.tick(SETTLE_S)
    assert desk["i1"].state is State.PENDING


@pytest.mark.parametrize("state", ["TASK_STAGING", "TASK_STARTING"])
def test_one_that_had_not_begun_is_back_too(state: str) -> None:
    """Its image was being pulled when its host fell silent, and still is."""
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    desk.offer()
    desk.tell("i1.1", "TASK_UNREACHABLE", reason="REASON_AGENT_REMOVED")
    desk.tell("i1.1", state, reason="REASON_RECONCILIATION")
    desk.tick(desk.config.unreachable_after_s)
    assert desk["i1"].state is State.STARTING


def test_or_that_none_ever_does() -> None:
    desk, _ = _unreachable(replace_after_s="never")
    desk.tick(10 * 86_400.0)
    states = [desk["i1"].state]
    desk.tell("i1.1", "TASK_RUNNING", container="c-i1")
    assert [*states, desk["i1"].state] == [State.UNREACHABLE, State.RUNNING]


def test_by_default_the_replacement_goes_on() -> None:
    desk = _replaced()
    assert kills(desk.tell("i1.1", "TASK_RUNNING")) == ["i1.1"]
    assert desk["i1"].attempt == "i1.2"


def test_where_the_first_is_kept_its_replacement_is_killed() -> None:
    desk = _replaced(keep="first")
    desk.tell("i1.2", "TASK_RUNNING", agent="a2", container="c-2")
    assert kills(desk.tell("i1.1", "TASK_RUNNING", container="c-i1")) == ["i1.2"]
    back = desk["i1"]
    assert (back.attempt, back.state, back.agent) == ("i1.1", State.RUNNING, "a1")
    assert (back.container, back.generation, back.hostname) == ("c-i1", 2, "host-a1")
    last = desk.events[-1]
    assert isinstance(last, ev.ContainerHealthy) and last.returned and last.attempt == "i1.1"
    # What the replacement still says changes nothing; its number is never given again.
    assert kills(desk.tell("i1.2", "TASK_RUNNING", agent="a2")) == ["i1.2"]
    desk.tell("i1.2", "TASK_KILLED", agent="a2")
    assert desk["i1"] == replace(back, strays=(), version=desk["i1"].version)
    desk.tell("i1.1", "TASK_FAILED")
    desk.tick(2.0)
    assert "i1.3" in launches(desk.offer())
    assert desk["i1"].attempt == "i1.3"


def test_the_first_is_back_before_its_replacement_has_a_place() -> None:
    desk, _ = _unreachable(replace_after_s=20, keep="first")
    desk.tick(20.0)
    desk.tell("i1.1", "TASK_RUNNING", container="c-i1")
    assert (desk["i1"].state, desk["i1"].attempt) == (State.RUNNING, "i1.1")
    assert launches(desk.offer("a2")) == []


def test_a_first_that_has_ended_does_not_return() -> None:
    desk = _replaced(keep="first")
    desk.tell("i1.1", "TASK_GONE", reason="REASON_AGENT_REMOVED")
    desk.tell("i1.1", "TASK_RUNNING")
    assert desk["i1"].attempt == "i1.2"


def test_nor_one_whose_instance_is_to_stop() -> None:
    desk = _replaced(keep="first")
    desk.cluster.instances[desk["i1"].id] = replace(desk["i1"], stop=True)
    assert kills(desk.tell("i1.1", "TASK_RUNNING"))[0] == "i1.1"


def test_who_returned_is_stored() -> None:
    desk = _replaced(keep="first")
    assert from_body("i1", desk["i1"].version, to_body(desk["i1"])) == desk["i1"]
    desk.tell("i1.1", "TASK_RUNNING")
    assert from_body("i1", desk["i1"].version, to_body(desk["i1"])) == desk["i1"]


@given(
    st.lists(st.sampled_from(["old", "new", "tick", "lost", "offer", "fail"]), max_size=12),
    st.sampled_from(["first", "newest"]),
)
@settings(max_examples=40, deadline=None)
def test_whatever_comes_in_which_order_exactly_one_survives(steps: list[str], keep: str) -> None:
    """A Mesos of two agents: tasks that were launched run until they are killed; all is told in the end."""
    desk = _replaced(keep=keep)
    running = {"i1.1": "a1", "i1.2": "a2"}

    def heard(task: str, state: str) -> None:
        actions = desk.tell(task, state, agent=running.get(task, "a1"))
        for each in kills(actions):
            running.pop(each, None)
        for each in _of_i1(actions):
            running[each] = desk["i1"].agent

    for step in steps:
        current = desk["i1"].attempt
        match step:
            case "old" | "new":
                task = "i1.1" if step == "old" else current
                if task in running:
                    heard(task, "TASK_RUNNING")
            case "lost" if current in running:
                heard(current, "TASK_UNREACHABLE")
            case "fail" if current in running:
                running.pop(current)
                heard(current, "TASK_FAILED")
            case "offer" | "tick":
                actions = desk.offer("a2") if step == "offer" else desk.tick(25.0)
                for each in _of_i1(actions):
                    running[each] = desk["i1"].agent
            case _:
                pass
    for _ in range(4):  # all that runs is told, as reconciliation does, until nothing changes
        for task in list(running):
            heard(task, "TASK_RUNNING")
        desk.now += 60.0
        for each in _of_i1(desk.offer("a2")):
            running[each] = "a2"
    assert list(running) == [desk["i1"].attempt]


def test_old_texts_are_as_they_were() -> None:
    plain = AppSpec(image="web:1", network="web")
    assert "unreachable" not in plain.model_dump(mode="json")
    of = InstanceSpec.of(plain, "web@sha256:" + "0" * 64)
    assert "unreachable" not in of.model_dump(mode="json")


@pytest.mark.parametrize(
    "wish",
    [
        {"unreachable": {"replace_after_s": -1}},
        {"unreachable": {"replace_after_s": "soon"}},
        {"unreachable": {"keep": "both"}},
        {"unreachable": {"keep": "first"}, "keep_address": True},
    ],
)
def test_what_makes_no_sense_is_refused(wish: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AppSpec.model_validate({"image": "web:1", "network": "web", **wish})


# -- back-off ------------------------------------------------------------------------------------------


def _fail(desk: Desk, well_s: float) -> float:
    """It runs well for so long, then fails; the pause before its next attempt."""
    name = desk["i1"].attempt
    desk.tell(name, "TASK_RUNNING", container="c")
    desk.now += well_s
    desk.tell(name, "TASK_FAILED")
    pause_s = desk["i1"].not_before - desk.now
    desk.now += pause_s
    assert launches(desk.offer())
    return pause_s


@given(st.lists(st.floats(0, 400), min_size=1, max_size=15))
@settings(max_examples=25, deadline=None)
def test_pauses_are_bounded_and_never_shorter_for_having_lived_shorter(lives: list[float]) -> None:
    config = SchedulerConfig(restart_backoff_max_s=20.0)
    desk, shorter = Desk(config), Desk(config)
    for each in (desk, shorter):
        each.running()
    for well_s in lives:
        long_s, short_s = _fail(desk, well_s), _fail(shorter, well_s / 2)
        assert 1.0 - SLIGHT <= long_s <= short_s + SLIGHT <= 20.0 + 2 * SLIGHT


def test_who_dies_again_and_again_just_after_it_got_well_is_remembered_and_a_day_forgives() -> None:
    desk = Desk()
    desk.running()
    for _ in range(20):
        _fail(desk, 0.0)
    after_an_hour_of_minutes = [_fail(desk, 61.0) for _ in range(3)]
    assert min(after_an_hour_of_minutes) > 1.1
    stored = from_body("i1", 1, to_body(desk["i1"]))
    assert stored.failures == desk["i1"].failures  # a new leader goes on with it
    assert _fail(desk, 86_400.0) == 1.0


def test_one_that_gets_sick_after_a_long_good_life_is_forgiven_too() -> None:
    desk = Desk()
    desk.running()
    for _ in range(20):
        _fail(desk, 0.0)
    name = desk["i1"].attempt
    desk.tell(name, "TASK_RUNNING", container="c", healthy=True)
    desk.now += 86_400.0
    desk.tell(name, "TASK_RUNNING", container="c", healthy=False)
    desk.tell(name, "TASK_FAILED")
    assert desk["i1"].failures == 1


def test_one_that_flaps_does_not_storm() -> None:
    """Well for some seconds, then sick, ended by its executor, and again, for an hour."""
    desk = Desk()
    desk.running()
    began, attempts = desk.now, 0
    while desk.now < began + 3600.0:
        name = desk["i1"].attempt
        for healthy in (True, False):
            desk.tell(name, "TASK_RUNNING", container="c", healthy=healthy)
            desk.now += 5.0
        desk.tell(name, "TASK_FAILED")
        desk.now = desk["i1"].not_before
        assert launches(desk.offer())
        attempts += 1
    assert attempts < 50


def test_a_lost_host_is_no_failure_of_what_ran_there() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_GONE_BY_OPERATOR", reason="REASON_AGENT_REMOVED_BY_OPERATOR")
    assert (desk["i1"].state, desk["i1"].failures) == (State.PENDING, 0)
