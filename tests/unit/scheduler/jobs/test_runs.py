"""Runs: how they begin, end, are tried again, and what is told of them."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest

from libs.common.events import model as ev
from libs.common.task import TaskPayload
from services.scheduler.documents import from_body, to_body
from services.scheduler.ending import RETOLD_S
from services.scheduler.model import Door, Launch, Node, NodeSet, Revive, State
from services.scheduler.offering import AHEAD_S
from tests.unit.scheduler.jobs.world import JOB, START, JobDesk
from tests.unit.scheduler.world import kills, launches, want


def test_a_run_begins_at_its_target_and_ends() -> None:
    desk = JobDesk()
    desk.subscribe()
    desk.took(timeout_s=9, reuse="never")
    assert desk.at(-0.1) == []
    (run,) = desk.at(0.0)
    (launch,) = [each for each in desk.offer() if isinstance(each, Launch)]
    payload = TaskPayload.model_validate_json(b64decode(launch.tasks[0]["data"]))
    assert payload.run is not None and payload.app == "acme/job.nightly"
    assert (payload.run.job, payload.run.run, payload.run.target) == (JOB, run, START)
    assert (payload.run.reuse, payload.run.timeout_s) == ("never", 9)
    desk.runs(run)
    desk.now += 5
    desk.end(run, output="done\n")
    (record,) = desk.records.values()
    assert (record.state, record.exit_code, record.output) == ("succeeded", 0, "done\n")
    assert (record.tries, record.duration_s, record.hostname) == (1, 5, "host-a1")
    assert desk.kinds() == ["JobRunStarted", "JobRunFinished"], "its containers are not told"
    assert (desk.job().succeeded, desk.job().running, desk.job().last_run) == (1, {}, run)


@pytest.mark.parametrize(
    ("state", "report", "codes", "ends"),
    [
        ("TASK_FINISHED", {}, (0,), "succeeded"),
        ("TASK_FAILED", {"exit_code": 3}, (0, 3), "succeeded"),
        ("TASK_FINISHED", {"exit_code": 0}, (3,), "failed"),
        ("TASK_FAILED", {"exit_code": 3}, (0,), "failed"),
        ("TASK_FAILED", {"exit_code": 3, "timed_out": True}, (0, 3), "failed"),
        ("TASK_FAILED", {"exit_code": 3, "oom_killed": True}, (0, 3), "failed"),
        ("TASK_FINISHED", {"exit_code": 0, "oom_killed": True}, (0,), "failed"),
        ("TASK_FAILED", {"exit_code": 0, "oom_killed": True}, (0,), "failed"),
        ("TASK_KILLED", {"exit_code": None}, (0,), "failed"),
        ("TASK_ERROR", {"exit_code": None}, (0,), "failed"),
    ],
)
def test_what_is_success(
    state: str, report: dict[str, Any], codes: tuple[int, ...], ends: str
) -> None:
    desk = JobDesk()
    desk.took(success_codes=codes)
    desk.at(0.0)
    desk.begin()
    desk.end(state=state, **report)
    assert desk.states() == [ends]


def test_a_failed_run_is_tried_again_after_its_wait_until_its_tries_are_used_up() -> None:
    desk = JobDesk()
    desk.took(retry={"limit": 2, "delay_s": 5, "factor": 2})
    (run,) = desk.at(0.0)
    desk.begin()
    waits = []
    for number in (1, 2):
        desk.end(run, "TASK_FAILED", exit_code=7)
        assert launches(desk.offer()) == []
        waits.append(desk[run].not_before - desk.now)
        desk.now += waits[-1]
        actions = desk.offer()
        assert launches(actions) == [desk[run].attempt]
        (launch,) = [each for each in actions if isinstance(each, Launch)]
        payload = TaskPayload.model_validate_json(b64decode(launch.tasks[0]["data"]))
        assert payload.run is not None
        assert (payload.run.tries, payload.run.hostname) == (number, "host-a1")
        desk.runs(run)
    assert waits == [5, 10] and desk.states() == []
    desk.end(run, "TASK_FAILED", exit_code=7)
    (record,) = desk.records.values()
    assert (record.state, record.tries, record.reason) == ("failed", 3, "exit code 7")
    assert [each.tries for each in desk.told(ev.JobRunStarted)] == [1, 2, 3]
    assert len(desk.told(ev.JobRunFailed)) == 1


def test_a_run_in_its_document_is_the_same_after_a_failover() -> None:
    desk = JobDesk()
    desk.took(retry={"limit": 2, "delay_s": 50}, success_codes=[0, 4], timeout_s=3)
    (run,) = desk.at(0.0)
    desk.begin()
    desk.end(run, "TASK_FAILED", output="x")
    instance = desk[run]
    assert from_body(run, instance.version, to_body(instance)) == instance
    assert "run" not in to_body(want("i1").instance), "documents of services are as they were"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("TASK_DROPPED", "REASON_AGENT_DISCONNECTED"),
        ("TASK_UNKNOWN", "REASON_RECONCILIATION"),
        ("TASK_GONE", "REASON_RECONCILIATION"),  # saved, and its leader died before it was launched
    ],
)
def test_what_never_began_was_no_try(state: str, reason: str) -> None:
    desk = JobDesk()
    desk.took()
    (run,) = desk.at(0.0)
    desk.subscribe()
    desk.offer()
    desk.report(desk[run].attempt, state, reason=reason)
    assert (desk[run].state, desk.run(run).tries) == (State.PENDING, 0)
    desk.now += 20
    assert launches(desk.offer()) == [f"{run}.2"]


def test_a_full_host_costs_no_try() -> None:
    desk = JobDesk()
    desk.took()
    (run,) = desk.at(0.0)
    desk.subscribe()
    desk.offer()
    desk.report(desk[run].attempt, "TASK_FAILED", refused="disk")
    assert (desk[run].state, desk.run(run).tries) == (State.PENDING, 0)


@pytest.mark.parametrize("limit", [0, 1])
def test_a_host_that_is_given_up_is_told_and_counts_as_a_try(limit: int) -> None:
    desk = JobDesk()
    desk.took(retry={"limit": limit, "delay_s": 5})
    (run,) = desk.at(0.0)
    desk.begin()
    desk.report(f"{run}.1", "TASK_UNREACHABLE", reason="REASON_AGENT_REMOVED")
    desk.tick(desk.config.unreachable_after_s - 1)
    assert desk[run].state is State.UNREACHABLE
    desk.tick(2)
    (told,) = desk.told(ev.JobRunFailed)
    assert told.host_lost and told.again == (limit == 1) and "host-a1" in told.reason
    if not limit:
        assert desk.records[run].state == "lost"
        desk.report(f"{run}.1", "TASK_RUNNING")
        assert kills(desk.actions)[-1] == f"{run}.1", "its host came back with it"
        return
    desk.tick(5)
    desk.offer("a2")
    desk.runs(run)
    desk.end(run)
    record = desk.records[run]
    assert (record.state, record.tries, record.lost) == ("succeeded", 2, 1)


def test_a_dead_executor_is_adopted_from_as_with_services() -> None:
    desk = JobDesk()
    desk.took()
    (run,) = desk.at(0.0)
    desk.begin()
    desk.report(f"{run}.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    assert desk[run].state is State.ORPHANED
    desk.offer()
    assert (desk[run].attempt, desk[run].adopt) == (f"{run}.2", "c")
    desk.runs(run)
    desk.end(run)
    assert (desk.records[run].state, desk.records[run].tries) == ("succeeded", 1)
    assert len(desk.told(ev.JobRunStarted)) == 1


def test_an_adoption_that_fails_in_time_is_a_lost_try() -> None:
    desk = JobDesk()
    desk.took()
    (run,) = desk.at(0.0)
    desk.begin()
    desk.report(f"{run}.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.tick(desk.config.adoption_deadline_s)
    assert desk.records[run].state == "lost"


def test_runs_that_need_the_same_are_placed_as_one_whatever_their_jobs() -> None:
    desk = JobDesk()
    for n in range(5):
        desk.took(f"acme/job-{n}")
    desk.took("acme/apart", constraints=[{"attribute": "hostname", "operator": "UNIQUE"}])
    desk.took("beta/other")
    desk.at(0.0)
    assert len(desk.names()) == 7 and len(desk.cluster.ledger.waiting) == 3


def test_a_forced_drain_ends_a_try_and_a_plain_one_waits_for_it() -> None:
    desk = JobDesk()
    desk.took(retry={"limit": 1, "delay_s": 0})
    (run,) = desk.at(0.0)
    desk.begin()
    assert kills(desk.give(NodeSet(Node("host-a1", Door.DRAINING, version=1)))) == []
    forced = Node("host-a1", Door.DRAINING, overdue_at=1.0, force=True, version=2)
    assert kills(desk.give(NodeSet(forced))) == [f"{run}.1"]
    desk.end(run, "TASK_KILLED")
    assert "drained" in desk.run(run).reason and desk[run].state is State.PENDING
    desk.offer("a2")
    assert desk[run].hostname == "host-a2" and desk[run].leaving == ""
    assert desk.told(ev.InstanceMoveRequested) == []


def test_offers_are_at_hand_when_a_run_is_about_to_be_due_and_go_back_after() -> None:
    desk = JobDesk()
    desk.took()
    desk.subscribe()
    desk.at(-AHEAD_S - 0.1)
    assert desk.cluster.volatile.suppressed
    desk.actions.clear()
    desk.at(-AHEAD_S)
    assert any(isinstance(each, Revive) for each in desk.actions)
    desk.offer("a1")
    desk.offer("a2")
    assert len(desk.cluster.volatile.offers) == 2
    (run,) = desk.at(0.0)
    assert desk[run].state is State.STAGED, "it had to wait for an offer"
    desk.runs(run)
    desk.at(2.0)
    assert not desk.cluster.volatile.offers and desk.cluster.volatile.suppressed


def test_a_try_that_is_not_there_to_be_adopted_any_more_is_lost() -> None:
    desk = JobDesk()
    desk.took(retry={"limit": 1, "delay_s": 5})
    (run,) = desk.at(0.0)
    desk.begin()
    desk.report(f"{run}.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    desk.offer()
    desk.end(run, "TASK_FAILED", exit_code=None, detail="nobody can tell how it ended")
    (told,) = desk.told(ev.JobRunFailed)
    assert (told.host_lost, told.again) == (True, True)
    assert desk[run].not_before == desk.now + 5
    desk.now += 5
    desk.offer()
    desk.runs(run)
    desk.end(run)
    record = desk.records[run]
    assert (record.state, record.tries, record.lost) == ("succeeded", 2, 1)


def test_why_a_run_was_ended_is_not_forgotten_while_nobody_sees_it() -> None:
    desk = JobDesk()
    desk.took(concurrency="replace")
    (run,) = desk.at(0.0)
    desk.begin()
    desk.at(60.0)
    (other,) = desk.job().queue
    for _ in range(2):
        desk.report(desk[run].attempt, "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
        desk.now += 1
        desk.offer()
    desk.end(run, "TASK_KILLED", exit_code=None)
    record = desk.records[run]
    assert (record.state, record.reason) == ("killed", f"replaced by run {other.run}")


@pytest.mark.parametrize("code", [0, 3])
def test_an_end_that_is_reconciled_before_it_is_told_is_the_runs_end(code: int) -> None:
    desk = JobDesk()
    desk.subscribe()
    desk.took()
    desk.at(0.0)
    run = desk.begin()
    desk.now += 1
    desk.subscribe()  # as who leads next does
    state = "TASK_FAILED" if code else "TASK_FINISHED"
    desk.report(run.attempt, state, reason="REASON_RECONCILIATION")
    assert desk[run.id].state is State.ORPHANED, "nobody knows yet how it ended"
    desk.now += 5
    desk.end(run.id, state, exit_code=code)
    (record,) = desk.records.values()
    assert (record.exit_code, record.tries, record.lost) == (code, 1, 0)
    assert desk.states() == ["failed" if code else "succeeded"]
    assert launches(desk.offer()) == []


@pytest.mark.parametrize("reason", ["REASON_RECONCILIATION", "REASON_AGENT_REREGISTERED"])
def test_an_end_that_a_master_repeats_is_waited_for(reason: str) -> None:
    """Its executor has let go of it: an adopter would find nothing, and what was done would be done again."""
    desk = JobDesk()
    desk.took()
    desk.at(0.0)
    run = desk.begin()
    desk.now += 15
    desk.report(run.attempt, "TASK_FINISHED", reason=reason)
    desk.now += RETOLD_S - 1
    assert launches(desk.offer()) == []
    desk.end(run.id)
    record = desk.records[run.id]
    assert (record.state, record.tries, record.lost) == ("succeeded", 1, 0)


def test_an_end_that_nobody_tells_again_is_looked_for() -> None:
    desk = JobDesk()
    desk.took()
    desk.at(0.0)
    run = desk.begin()
    desk.now += 15
    desk.report(run.attempt, "TASK_FINISHED", reason="REASON_RECONCILIATION")
    desk.now += RETOLD_S
    assert launches(desk.offer()) == [f"{run.id}.2"] and desk[run.id].adopt == "c"
