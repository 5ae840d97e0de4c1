"""The load-balancer hook, step by step and without a driver."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.spec import LoadBalancer
from services.deployer import hook
from services.deployer.hook import Verb, answered, change_of, next_step, unreachable, wake_s
from services.deployer.instances import asked_to_stop, doomed
from services.deployer.loadbalancer.base import Answer, AnswerState, ChangeKind
from services.deployer.model import HOOK_MOVES, HookPhase, Instance, State, Wanted
from tests.unit.deployer.world import make_instance

BALANCER = LoadBalancer(driver="haproxy", port=80, drain_s=5, deadline_s=10)
OK = Answer(AnswerState.SUCCESS)


def healthy(**fields: object) -> Instance:
    return make_instance("i", hooked=True, **fields)


def inside(**fields: object) -> Instance:
    added = next_step(healthy(**fields), BALANCER, 10.0)
    return answered(added.instance, added.asks[0].change, OK, 10.0)


def test_in_only_when_healthy_for_long_enough() -> None:
    fresh = healthy(healthy_since=100.0, min_ready_s=30.0)
    assert next_step(fresh, BALANCER, 120.0).asks == ()
    assert wake_s(fresh, 120.0) == 10.0
    step = next_step(fresh, BALANCER, 130.0)
    (ask,) = step.asks
    assert (ask.verb, ask.change.kind) == (Verb.SUBMIT, ChangeKind.ADD)
    assert (ask.change.endpoint.backend, ask.change.endpoint.port) == ("shop-web", 80)
    assert step.instance.hook.phase is HookPhase.ADDING
    assert not step.instance.is_ready(130.0)
    after = answered(step.instance, ask.change, OK, 131.0)
    assert after.is_ready(131.0)


def test_a_change_keeps_its_id_until_it_is_done() -> None:
    step = next_step(healthy(), BALANCER, 10.0)
    waiting = answered(step.instance, step.asks[0].change, Answer(AnswerState.WAITING), 10.0)
    again = next_step(waiting, BALANCER, 11.0)
    assert again.asks[0].verb is Verb.POLL
    assert again.asks[0].change.id == step.asks[0].change.id
    unknown = answered(waiting, again.asks[0].change, Answer(AnswerState.UNKNOWN), 11.0)
    assert next_step(unknown, BALANCER, 11.0).asks[0].verb is Verb.SUBMIT


def test_out_before_the_stop() -> None:
    stopping, event = doomed(inside(), "enough", 20.0)
    assert event is None
    step = next_step(stopping, BALANCER, 20.0)
    assert step.asks[0].change.kind is ChangeKind.REMOVE
    assert step.asks[0].change.drain_until == 25.0
    assert asked_to_stop(step.instance, 34.9)[1] is None
    out = answered(step.instance, step.asks[0].change, OK, 21.0)
    asked, event = asked_to_stop(out, 21.0)
    assert event is not None
    assert asked.stop_sent_at == 21.0
    assert asked_to_stop(asked, 22.0)[1] is None


def test_the_deadline_lets_go_and_says_so() -> None:
    stopping, _ = doomed(inside(), "enough", 20.0)
    step = next_step(stopping, BALANCER, 20.0)
    tried = unreachable(step.instance, step.asks[0].change, "connection refused", 20.0)
    assert not hook.let_go(tried, 34.9)
    _, event = asked_to_stop(tried, 35.0)
    assert event is not None
    expected = "enough; the load balancer had not let it go after 15 s: connection refused"
    assert event.reason == expected  # type: ignore[attr-defined]
    assert next_step(tried, BALANCER, 40.0).asks, "it is tried on"
    given_up = next_step(tried, BALANCER, 35.0 + hook.GIVE_UP_S)
    assert given_up.instance.hook.phase is HookPhase.OFF


def test_an_adding_that_is_late_is_cancelled_and_tried_anew() -> None:
    step = next_step(healthy(), BALANCER, 10.0)
    waiting = answered(step.instance, step.asks[0].change, Answer(AnswerState.WAITING), 10.0)
    late = next_step(waiting, BALANCER, 20.0)
    assert [ask.verb for ask in late.asks] == [Verb.CANCEL, Verb.SUBMIT]
    assert [ask.change.kind for ask in late.asks] == [ChangeKind.ADD, ChangeKind.REMOVE]
    assert "not taken in within 10 s" in late.instance.hook.message
    out = answered(late.instance, late.asks[1].change, OK, 20.0)
    assert out.hook.phase is HookPhase.OFF
    assert "not taken in" in out.hook.message
    again_s = wake_s(out, 20.0)
    assert again_s is not None and again_s > 0
    assert next_step(out, BALANCER, 20.0 + again_s).instance.hook.phase is HookPhase.ADDING


def test_what_is_refused_is_tried_ever_slower() -> None:
    instance, now, pauses = healthy(), 10.0, []
    for _ in range(8):
        step = next_step(instance, BALANCER, now)
        refused = Answer(AnswerState.FAILED, "no slot")
        instance = answered(step.instance, step.asks[0].change, refused, now)
        assert (instance.hook.phase, instance.hook.message) == (HookPhase.OFF, "no slot")
        pauses.append(wake_s(instance, now) or 0.0)
        now += pauses[-1]
    assert pauses == [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("fields", "stays"),
    [
        ({"state": State.LOST}, True),
        ({"state": State.UNHEALTHY}, False),
        ({"state": State.EXITED, "exited_generation": 1}, False),
        ({"state": State.GONE}, False),
        # A new attempt: adopted unless the old one's end was told.
        ({"state": State.PLACED, "generation": 2, "address": ""}, True),
        ({"state": State.PLACED, "generation": 2, "address": "", "exited_generation": 1}, False),
        ({"state": State.STARTED, "generation": 2}, True),
        ({"state": State.STARTED, "generation": 2, "address": "10.0.0.77"}, False),
    ],
)
def test_who_stays_in(fields: dict[str, object], stays: bool) -> None:
    instance = inside().model_copy(update={"healthy_since": None, **fields})
    step = next_step(instance, BALANCER, 20.0)
    assert (step.instance is instance) is stays
    if not stays:
        assert step.asks[0].change.kind is ChangeKind.REMOVE
        assert step.asks[0].change.drain_until == 20.0, "nothing to wait for"


def test_a_new_address_is_out_and_in_again() -> None:
    moved = inside().model_copy(update={"address": "10.0.0.2"})
    out = next_step(moved, BALANCER, 20.0)
    assert out.asks[0].change.endpoint.address == "10.0.0.1"
    gone = answered(out.instance, out.asks[0].change, OK, 20.0)
    back = next_step(gone, BALANCER, 20.0)
    assert back.asks[0].change.endpoint.address == "10.0.0.2"


def test_a_late_answer_of_another_change_is_nothing() -> None:
    step = next_step(healthy(), BALANCER, 10.0)
    stopping = step.instance.model_copy(update={"wanted": Wanted.STOP})
    removing = next_step(stopping, BALANCER, 11.0).instance
    assert answered(removing, step.asks[0].change, OK, 12.0) is removing
    assert unreachable(removing, step.asks[0].change, "x", 12.0) is removing


answers = st.sampled_from([*AnswerState, None])
turns = st.lists(
    st.tuples(
        answers,
        st.sampled_from([0.1, 3.0, 20.0]),
        st.sampled_from(["", "stop", "unhealthy", "healthy", "lost", "gone", "moved"]),
    ),
    max_size=40,
)
CHANGES: dict[str, dict[str, object]] = {
    "": {},
    "stop": {"wanted": Wanted.STOP},
    "unhealthy": {"state": State.UNHEALTHY, "healthy_since": None},
    "healthy": {"state": State.HEALTHY, "healthy_since": 0.0},
    "lost": {"state": State.LOST, "healthy_since": None},
    "gone": {"state": State.GONE, "healthy_since": None},
    "moved": {"address": "10.0.0.2"},
}


@given(turns)
def test_any_course_keeps_the_table_and_ends_outside(
    course: list[tuple[AnswerState | None, float, str]],
) -> None:
    """Also: an instance is never asked to stop before it is out, or its deadline has passed."""
    instance, now = healthy(), 10.0
    for said, pause_s, what in course:
        now += pause_s
        instance = instance.model_copy(update=CHANGES[what])
        instance = turn(instance, now, said)
    instance = instance.model_copy(update={"wanted": Wanted.STOP})
    for _ in range(10):
        now += 40.0
        instance = turn(instance, now, AnswerState.SUCCESS)
    assert instance.hook.phase is HookPhase.OFF
    assert instance.stop_sent_at is not None or instance.state is State.GONE


def turn(instance: Instance, now: float, said: AnswerState | None) -> Instance:
    before = instance.hook.phase
    step = next_step(instance, BALANCER, now)
    assert step.instance.hook.phase is before or step.instance.hook.phase in HOOK_MOVES[before]
    after = step.instance
    if step.asks:
        change = step.asks[-1].change
        assert change.id == change_of(after).id
        silent = said is None
        after = (
            unreachable(after, change, "away", now)
            if silent
            else answered(after, change, Answer(said or AnswerState.UNKNOWN), now)
        )
    asked, event = asked_to_stop(after, now)
    if event is not None:
        outside = after.hook.phase is HookPhase.OFF
        assert outside or now >= after.hook.until
    return asked
