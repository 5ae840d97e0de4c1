"""The scheduler's decisions, one situation at a time."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from itertools import pairwise

import pytest

from libs.common.events import model as ev
from libs.common.spec import Constraint, ConstraintOperator
from libs.common.task import TaskPayload
from libs.mesos import events as mesos
from services.scheduler.documents import from_body, to_body
from services.scheduler.model import (
    Acknowledge,
    AgentId,
    AttemptId,
    Decline,
    InstanceId,
    Kill,
    Launch,
    Reconcile,
    Retell,
    Revive,
    State,
    Suppress,
)
from services.scheduler.refusing import OFFERS_COME_S
from services.scheduler.settings import SchedulerConfig
from tests.unit.scheduler.world import Desk, kills, launches, spec, unwant, want


def test_a_wanted_instance_is_launched_runs_and_tells() -> None:
    desk = Desk()
    instance = desk.running()
    assert (instance.state, instance.generation, instance.healthy) == (State.RUNNING, 1, True)
    assert (instance.address, instance.container) == ("10.0.0.1", "c-i1")
    assert desk.kinds() == ["OfferAccepted", "ContainerStarted", "ContainerHealthy"]


def test_wanting_twice_is_wanting_once() -> None:
    desk = Desk()
    desk.running()
    assert launches(desk.give(want("i1")) + desk.offer()) == []
    assert desk["i1"].generation == 1


def test_with_checks_running_is_not_yet_healthy() -> None:
    desk = Desk()
    desk.running(of=spec(health=True))
    assert desk["i1"].healthy is None
    desk.tell("i1.1", "TASK_RUNNING", healthy=True, container="c-i1")
    desk.tell("i1.1", "TASK_RUNNING", container="c-i1")  # a reconciliation without health
    assert desk["i1"].healthy is True
    desk.tell("i1.1", "TASK_RUNNING", healthy=False, container="c-i1")
    assert desk.kinds()[1:] == ["ContainerStarted", "ContainerHealthy", "ContainerUnhealthy"]


@pytest.mark.parametrize("state", ["TASK_STARTING", "TASK_STAGING"])
def test_a_state_never_goes_back(state: str) -> None:
    desk = Desk()
    before = desk.running()
    desk.tell("i1.1", state)
    assert desk["i1"] == before


def test_every_update_is_acknowledged_whatever_it_says() -> None:
    desk = Desk()
    desk.running()
    for task in ("i1.1", "i1.0", "i9.4", "nonsense"):
        acks = [a for a in desk.tell(task, "TASK_RUNNING") if isinstance(a, Acknowledge)]
        assert [s["task_id"]["value"] for ack in acks for s in ack.statuses] == [task]


def test_a_stop_before_its_request_leaves_a_tombstone() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(unwant("i1"))
    assert launches(desk.give(want("i1")) + desk.offer()) == []
    assert InstanceId("i1") in desk.cluster.ended


def test_a_pending_instance_stops_at_once_a_running_one_when_its_task_ends() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"), unwant("i1"))
    assert isinstance(desk.events[-1], ev.ContainerExited) and desk.events[-1].final
    desk.running("i2")
    assert kills(desk.give(unwant("i2"))) == ["i2.1"]
    assert desk["i2"].state is State.RUNNING
    desk.tell("i2.1", "TASK_KILLED")
    assert InstanceId("i2") in desk.cluster.ended


def test_a_kill_is_asked_for_again_until_the_task_ends_each_time_with_its_grace() -> None:
    desk = Desk()
    desk.running(of=spec().model_copy(update={"stop_grace_s": 7.5}))
    first = desk.give(unwant("i1"))
    assert kills(desk.tick(1.0)) == []
    again = desk.tick(desk.config.kill_retry_s)
    for actions in (first, again):
        assert [each for each in actions if isinstance(each, Kill)] == [
            Kill(AttemptId("i1.1"), AgentId("a1"), 7.5)
        ]


def test_a_failed_attempt_is_followed_by_the_next_after_a_growing_pause() -> None:
    desk = Desk()
    desk.running()
    pauses = []
    for generation in range(1, 6):
        desk.tell(f"i1.{generation}", "TASK_FAILED")
        pauses.append(desk["i1"].not_before - desk.now)
        assert launches(desk.offer()) == []
        desk.now += pauses[-1]
        assert launches(desk.offer()) == [f"i1.{generation + 1}"]
    assert pauses == sorted(pauses) and pauses[0] == 1.0 and pauses[-1] > 1.5


def test_a_long_healthy_life_forgives_earlier_failures() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_FAILED")
    desk.tick(2.0)
    desk.offer()
    desk.tell("i1.2", "TASK_RUNNING", container="c")
    desk.now += desk.config.healthy_reset_s
    desk.tell("i1.2", "TASK_FAILED")
    assert desk["i1"].failures == 1


def test_attempts_have_an_end_where_one_is_configured() -> None:
    desk = Desk(SchedulerConfig(max_attempts=2))
    desk.running()
    desk.tell("i1.1", "TASK_FAILED")
    desk.tick(5.0)
    desk.offer()
    desk.tell("i1.2", "TASK_FAILED")
    last = desk.events[-1]
    assert isinstance(last, ev.ContainerExited) and last.final and not last.wanted


def test_an_orphan_keeps_its_place_and_is_adopted() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    assert desk["i1"].state is State.ORPHANED
    assert launches(desk.offer("a2")) == []  # it can be adopted on its own agent only
    assert launches(desk.offer("a1")) == ["i1.2"]
    launch = next(each for each in desk.actions[::-1] if isinstance(each, Launch))
    payload = TaskPayload.model_validate_json(b64decode(launch.tasks[0]["data"]))
    assert (payload.adopt, payload.generation, payload.ending) == ("c-i1", 2, False)
    desk.tell("i1.2", "TASK_RUNNING", container="c-i1")
    assert (desk["i1"].adopt, desk["i1"].address) == ("", "10.0.0.1")
    assert "ContainerExited" not in desk.kinds()


def test_an_orphan_that_is_to_end_is_adopted_for_that_and_not_begun_anew() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.give(unwant("i1"))
    assert launches(desk.offer("a1")) == ["i1.2"]
    launch = next(each for each in desk.actions[::-1] if isinstance(each, Launch))
    payload = TaskPayload.model_validate_json(b64decode(launch.tasks[0]["data"]))
    assert (payload.adopt, payload.ending) == ("c-i1", True)


def test_an_unreachable_hosts_dead_executor_leaves_an_orphan_too() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_UNREACHABLE")
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_REREGISTRATION_TIMEOUT")
    assert (desk["i1"].state, desk["i1"].adopt) == (State.ORPHANED, "c-i1")


def test_an_orphan_that_nobody_adopts_in_time_is_replaced() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.tick(desk.config.adoption_deadline_s)
    assert (desk["i1"].state, desk["i1"].adopt) == (State.PENDING, "")
    assert launches(desk.offer("a2")) == ["i1.2"]


def test_an_orphans_resources_stay_reserved() -> None:
    desk = Desk()
    desk.running(of=spec(cpus=3.0))
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.give(want("i2", spec(cpus=3.0)))
    assert launches(desk.offer("a1", cpus=4.0)) == ["i1.2"]


def test_an_orphan_without_room_keeps_it_from_new_ones_and_from_no_other_orphan() -> None:
    desk = Desk()
    desk.running("i1", of=spec(cpus=3.0))
    desk.running("i2", of=spec(cpus=0.5))
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.tell("i2.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.give(want("i3", spec(cpus=0.5)))
    assert launches(desk.offer("a1", cpus=2.0)) == ["i2.2"]
    assert desk["i1"].state is State.ORPHANED
    assert desk["i3"].state is State.PENDING


def test_unreachable_is_not_death_and_may_come_back() -> None:
    desk = Desk()
    before = desk.running()
    desk.tell("i1.1", "TASK_UNREACHABLE")
    desk.tick(desk.config.unreachable_after_s - 1)
    assert desk["i1"].state is State.UNREACHABLE
    desk.tell("i1.1", "TASK_RUNNING", container="c-i1")
    after = desk["i1"]
    assert (after.state, after.generation) == (before.state, before.generation)


def test_after_its_time_an_unreachable_one_is_replaced_and_killed_on_return() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_UNREACHABLE")
    desk.tick(desk.config.unreachable_after_s)
    assert launches(desk.offer("a2")) == ["i1.2"]
    assert [task for task, _ in desk["i1"].strays] == ["i1.1"]
    assert kills(desk.tell("i1.1", "TASK_RUNNING")) == ["i1.1"]
    desk.tell("i1.1", "TASK_KILLED")
    assert desk["i1"].strays == () and desk["i1"].state is State.STAGED


def test_a_stopped_instance_does_not_wait_for_ever_for_a_lost_host() -> None:
    desk = Desk()
    desk.running()
    desk.give(unwant("i1"))
    desk.tell("i1.1", "TASK_UNREACHABLE")
    desk.tick(desk.config.unreachable_after_s)
    assert InstanceId("i1") in desk.cluster.ended
    # To a kill Mesos would only say once more that it can't be reached, and so on without end.
    assert kills(desk.tell("i1.1", "TASK_UNREACHABLE")) == []
    assert kills(desk.tell("i1.1", "TASK_RUNNING")) == ["i1.1"]


def test_a_new_subscription_reconciles_by_name_and_then_all() -> None:
    desk = Desk()
    desk.running()
    named = [each for each in desk.subscribe() if isinstance(each, Reconcile)]
    assert named == [Reconcile((("i1.1", "a1"),))]  # type: ignore[arg-type]
    assert [each for each in desk.tick(6.0) if isinstance(each, Reconcile)] == [Reconcile()]


def test_a_task_that_mesos_does_not_know_was_never_launched() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    desk.offer()
    asked = [
        each for each in desk.tick(desk.config.staged_timeout_s) if isinstance(each, Reconcile)
    ]
    assert Reconcile((("i1.1", "a1"),)) in asked  # type: ignore[arg-type]
    desk.tell("i1.1", "TASK_GONE")
    assert desk["i1"].state is State.PENDING


def test_offers_are_asked_for_held_and_given_back() -> None:
    desk = Desk()
    assert any(isinstance(each, Suppress) for each in desk.subscribe())
    assert any(isinstance(each, Revive) for each in desk.give(want("i1", spec(cpus=8.0))))
    assert not any(isinstance(each, Decline) for each in desk.offer())
    held = desk.tick(desk.config.offer_hold_s)
    assert any(isinstance(each, Decline) for each in held)


def test_a_lost_subscription_forgets_offers_and_places_nothing() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i0", spec(cpus=8.0)))
    desk.offer()
    desk.give(mesos.Disconnected("gone", True, 1.0))
    assert launches(desk.give(want("i1"))) == []
    assert not desk.cluster.volatile.offers


def test_why_an_instance_waits_is_told_and_not_too_often() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1", spec(cpus=8.0)))
    desk.offer()
    desk.tick(OFFERS_COME_S - 0.1)
    assert not desk.events  # more offers may be on their way
    desk.tick(0.1)
    delayed = [each for each in desk.events if isinstance(each, ev.PlacementDelayed)]
    assert [each.failed for each in delayed] == [{"cpus": 1}]
    desk.tick(1.0)
    assert len([each for each in desk.events if isinstance(each, ev.PlacementDelayed)]) == 1


def test_who_asks_again_is_told_how_it_is() -> None:
    desk = Desk()
    instance = desk.running()
    desk.events.clear()
    desk.give(Retell(instance))
    assert desk.kinds() == ["ContainerStarted", "ContainerHealthy"]
    assert desk["i1"].state is State.RUNNING
    assert desk["i1"].version == instance.version + 1  # newer than what may have been lost


def test_who_asks_for_an_ended_one_again_hears_of_its_end_once_a_version() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(unwant("i1"))
    assert desk.kinds() == ["ContainerExited"]  # the stop overtook its request, and is answered
    buried = replace(want("i1").instance, state=State.ENDED, stop=True, version=1)
    desk.give(Retell(buried), Retell(buried))
    assert desk.kinds() == ["ContainerExited", "ContainerExited"]
    desk.give(Retell(buried))  # of a version that is not the stored one any more
    assert len(desk.events) == 2


def test_what_is_asked_directly_is_told_directly_from_then_on() -> None:
    desk = Desk()
    instance = desk.running()
    assert (instance.asked, instance.direct_until) == (0, 0.0)
    desk.give(Retell(instance, asked=3, direct_until=5000.0))
    assert (desk["i1"].asked, desk["i1"].direct_until) == (3, 5000.0)
    desk.give(replace(unwant("i1"), asked=4, direct_until=4000.0))
    assert (desk["i1"].stop, desk["i1"].asked, desk["i1"].direct_until) == (True, 4, 5000.0)
    desk.give(replace(unwant("i1"), asked=5, direct_until=6000.0))
    assert (
        desk["i1"].direct_until == 6000.0
    )  # it was to stop already; its end shall not wait for the bus
    version = desk["i1"].version
    desk.give(replace(unwant("i1"), asked=5, direct_until=6000.0))
    assert desk["i1"].version == version


def test_one_that_waits_to_be_placed_is_told_of_directly_too() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    desk.events.clear()
    desk.give(Retell(desk["i1"], asked=2, direct_until=5000.0))
    assert desk.events == [] and desk["i1"].direct_until == 5000.0


def test_an_instance_outlives_its_document_and_an_older_one_has_fewer_fields() -> None:
    instance = replace(Desk().running(), asked=7, direct_until=5000.0)
    body = to_body(instance)
    assert from_body("i1", instance.version, body) == instance
    del body["asked"], body["direct_until"]
    assert from_body("i1", 1, body) == replace(instance, version=1, asked=0, direct_until=0.0)


def test_an_executor_that_dies_in_a_launch_may_have_started_the_container() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    desk.offer()
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    assert (desk["i1"].state, desk["i1"].adopt) == (State.ORPHANED, "gantry-test-i1.1")


def test_an_adoption_that_never_reached_an_executor_is_tried_again_for_a_while() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    for generation in range(2, 5):
        assert launches(desk.offer()) == [f"i1.{generation}"]
        desk.tell(f"i1.{generation}", "TASK_LOST", reason="REASON_EXECUTOR_TERMINATED")
        assert (desk["i1"].state, desk["i1"].adopt) == (State.ORPHANED, "c-i1")
        assert launches(desk.offer()) == []  # after a pause only
        desk.now += desk.config.restart_backoff_s
    desk.tick(desk.config.adoption_deadline_s)
    desk.offer("a2")
    assert (desk["i1"].attempt, desk["i1"].adopt) == ("i1.5", "")
    assert "ContainerExited" in desk.kinds()


def test_an_adoption_is_tried_less_often_the_longer_nobody_can() -> None:
    desk = Desk(SchedulerConfig(adoption_deadline_s=300.0))
    desk.running()
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    tried: list[float] = []
    while len(tried) < 20:
        if launched := launches(desk.offer()):
            tried.append(desk.now)
            desk.tell(launched[0], "TASK_LOST", reason="REASON_EXECUTOR_TERMINATED")
        desk.now += 0.5
    pauses = [after - before for before, after in pairwise(tried)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (1.0, 10.0)


def test_an_orphan_counts_where_it_was_for_the_constraints_of_its_app() -> None:
    desk = Desk()
    alone = spec(
        constraints=(Constraint(attribute="hostname", operator=ConstraintOperator.UNIQUE),)
    )
    desk.running("i1", alone)
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    assert launches(desk.offer("a1")) == ["i1.2"]
    desk.tell("i1.2", "TASK_LOST", reason="REASON_EXECUTOR_TERMINATED")
    desk.give(want("i2", alone))
    assert launches(desk.offer("a1")) == []  # i1 goes there again, after a pause
    assert launches(desk.offer("a2")) == ["i2.1"]


def test_an_orphan_counts_once_in_the_round_in_which_it_goes_back() -> None:
    desk = Desk()
    two = spec(
        constraints=(
            Constraint(attribute="hostname", operator=ConstraintOperator.MAX_PER, value="2"),
        )
    )
    desk.running("i1", two)
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.give(want("i2", two))
    assert sorted(launches(desk.offer("a1"))) == ["i1.2", "i2.1"]


def test_an_end_that_the_executor_did_not_tell_leaves_an_orphan() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_GONE", reason="REASON_RECONCILIATION")
    assert desk["i1"].state is State.ORPHANED
    desk.running("i2")
    desk.tell("i2.1", "TASK_GONE_BY_OPERATOR", reason="REASON_AGENT_REMOVED_BY_OPERATOR")
    assert desk["i2"].state is State.PENDING


def test_the_adoption_deadline_counts_only_time_in_which_it_was_possible() -> None:
    desk = Desk()
    desk.running()
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.give(mesos.Disconnected("gone", True, 1.0))
    desk.tick(10 * desk.config.adoption_deadline_s)
    assert desk["i1"].state is State.ORPHANED
    desk.subscribe()
    assert launches(desk.offer("a1")) == ["i1.2"]


def test_where_it_runs_is_told_even_when_a_reconciliation_came_first() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    desk.offer()
    desk.tell("i1.1", "TASK_RUNNING")  # by the master, who keeps no data
    desk.tell("i1.1", "TASK_RUNNING", container="c-i1")
    started = [each for each in desk.events if isinstance(each, ev.ContainerStarted)]
    assert [each.address for each in started] == ["", "10.0.0.1"]
    healthy = [each for each in desk.events if isinstance(each, ev.ContainerHealthy)]
    assert [each.address for each in healthy] == ["", "10.0.0.1"]
