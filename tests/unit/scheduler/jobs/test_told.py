"""Runs of jobs whose command only starts something: they go on until somebody tells how they ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from libs.common.jobs import CHRONOS_ASYNC
from services.scheduler.cluster import Cluster
from services.scheduler.documents import from_body, to_body
from services.scheduler.jobs.loading import book_of
from services.scheduler.jobs.model import Job, job_body, job_of
from services.scheduler.jobs.views import live_view
from services.scheduler.model import State
from services.scheduler.runs import UNTOLD_S
from tests.unit.scheduler.jobs.world import JobDesk
from tests.unit.scheduler.world import launches

TOLD = {CHRONOS_ASYNC: "true"}


def begun(**fields: Any) -> tuple[JobDesk, str]:
    """The run of the first minute runs."""
    desk = JobDesk()
    desk.subscribe()
    desk.took(**{"labels": TOLD, "timeout_s": 600, **fields})
    (run,) = desk.at(0.0)
    desk.begin(run)
    return desk, run


def started(**fields: Any) -> tuple[JobDesk, str]:
    """Its command has gone well."""
    desk, run = begun(**fields)
    desk.now += 5
    desk.end(run, output="started\n")
    return desk, run


def tell(desk: JobDesk, run: str, status: int, tries: int = 0) -> str:
    return desk.ask("report", run=run, status=status, tries=tries).problem


def another_leads(desk: JobDesk, saved: Iterable[Job] | None = None) -> None:
    """`saved`: what became of jobs after that was not."""
    every = desk.cluster.instances.values()
    live = [from_body(each.id, each.version, to_body(each)) for each in every]
    found = desk.cluster.jobs.jobs.values() if saved is None else saved
    jobs = [job_of(each.id, each.version, job_body(each)) for each in found]
    desk.cluster = Cluster(live, {}, book_of(jobs, live, (), {}))
    desk.subscribe()


def test_it_goes_on_when_its_command_has_ended_and_ends_when_that_is_told() -> None:
    desk, run = started()
    another_leads(desk)
    desk.actions.clear()
    desk.offer()
    assert launches(desk.actions) == [], "nothing of it is to be placed"
    assert not any(desk.cluster.ledger.waiting.values()), "no offers are wanted for it"
    assert desk.at(60.0) == [] and desk.missed() == [60.0], "it is under way"
    view = live_view(desk[run])
    assert (view["state"], view["output"], view["not_before"]) == ("running", "started\n", None)
    assert "told" in view["reason"] and desk.job().succeeded == 0
    assert tell(desk, run, 0) == ""
    record = desk.records[run]
    assert (record.state, record.exit_code, record.ended) == ("succeeded", 0, desk.now)
    assert (desk.job().succeeded, desk.job().running) == (1, {})


def test_its_children_run_when_that_is_told() -> None:
    desk = JobDesk()
    desk.subscribe()
    desk.took(labels=TOLD)
    desk.took("acme/after", schedule=None, parents=["nightly"])
    (run,) = desk.at(0.0)
    desk.begin(run)
    desk.end(run)
    assert desk.names("acme/after") == []
    tell(desk, run, 0)
    assert len(desk.names("acme/after")) == 1


def test_a_failure_that_is_told_is_tried_again() -> None:
    desk, run = started(retry={"limit": 1, "delay_s": 10})
    assert tell(desk, run, 3) == ""
    assert desk[run].state is State.PENDING and not desk[run].untold
    assert "status 3" in desk[run].message
    desk.tick(10.0)
    desk.begin(run)
    assert "not the current one" in tell(desk, run, 0), "the first try's word is of the first try"
    desk.end(run)
    assert desk[run].untold and "not the current one" in tell(desk, run, 0)
    assert tell(desk, run, 4, tries=1) == ""
    record = desk.records[run]
    assert (record.state, record.exit_code, record.tries) == ("failed", 4, 2)


def test_a_command_that_fails_has_failed() -> None:
    for told in (False, True):
        desk, run = begun()
        if told:
            tell(desk, run, 0)
        desk.end(run, "TASK_FAILED")
        assert desk.records[run].state == "failed"


@pytest.mark.parametrize(("status", "ends"), [(0, "succeeded"), (1, "failed")])
def test_it_may_be_told_before_its_command_is_seen_to_end(status: int, ends: str) -> None:
    desk, run = begun()
    assert tell(desk, run, status) == ""
    assert tell(desk, run, 1 - status) == "", "the first word counts"
    assert desk.records == {}
    another_leads(desk)
    desk.end(run)
    assert desk.records[run].state == ends


@pytest.mark.parametrize(("status", "ends"), [(0, "succeeded"), (1, "failed")])
def test_what_is_told_is_known_though_its_host_is_lost(status: int, ends: str) -> None:
    desk, run = begun()
    tell(desk, run, status)
    desk.report(desk[run].attempt, "TASK_GONE_BY_OPERATOR", reason="REASON_AGENT_REMOVED")
    assert desk.records[run].state == ends


def test_it_fails_when_its_time_is_over() -> None:
    desk, run = started(timeout_s=90)
    another_leads(desk)
    desk.at(89.0)
    assert desk[run].untold
    assert desk.cluster.jobs.agenda.first() is not None
    desk.at(90.0)
    record = desk.records[run]
    assert (record.state, record.reason) == ("failed", "nobody told within 90 s how it ended")
    assert run not in desk.job().running


def test_it_is_woken_for_then_though_nothing_else_is_due() -> None:
    desk, run = started(timeout_s=90, schedule="R1/2027-01-15T08:00:00Z/PT1M")
    assert desk.cluster.jobs.agenda.first() == desk.run(run).began + 90


def test_it_is_ended_when_nobody_wants_it() -> None:
    desk, run = started(timeout_s=None)
    desk.ask("kill", run=run)
    assert desk.records[run].state == "killed"
    desk, run = begun()
    desk.ask("kill", run=run)
    desk.end(run)  # it was faster
    assert desk.records[run].state == "killed"


def test_of_other_runs_nothing_can_be_told() -> None:
    desk, run = begun(labels={})
    assert "ends with its command" in tell(desk, run, 0)
    assert "no run" in tell(desk, "other", 0)
    desk.end(run)
    assert desk.records[run].state == "succeeded" and "no run" in tell(desk, run, 1)


@pytest.mark.parametrize("timeout_s", [90, None])
def test_its_time_is_over_though_its_leader_died_before_its_job_said_when(timeout_s: int) -> None:
    once = "R1/2027-01-15T08:00:00Z/PT1M"
    desk, run = begun(timeout_s=timeout_s, schedule=once)
    saved = list(desk.cluster.jobs.jobs.values())
    desk.end(run)
    another_leads(desk, saved)
    due = desk.cluster.jobs.agenda.first()
    assert due == desk[run].not_before
    desk.tick(due - desk.now + 1)
    record = desk.records[run]
    within_s = timeout_s or UNTOLD_S
    assert record.reason == f"nobody told within {within_s:g} s how it ended"
    assert (record.state, record.exit_code, desk.job().running) == ("failed", None, {})


def test_a_deleted_job_is_not_looked_at_again_and_again_for_it() -> None:
    desk, run = begun()
    saved = [replace(each, deleted=True) for each in desk.cluster.jobs.jobs.values()]
    desk.end(run)
    another_leads(desk, saved)
    assert desk.cluster.jobs.agenda.first() is None


@pytest.mark.parametrize(("status", "ends"), [(0, "succeeded"), (1, "failed")])
def test_who_has_told_has_begun_though_nobody_heard_it_begin(status: int, ends: str) -> None:
    desk = JobDesk()
    desk.subscribe()
    desk.took(labels=TOLD)
    (run,) = desk.at(0.0)
    desk.offer()
    tell(desk, run, status)
    desk.report(desk[run].attempt, "TASK_GONE", reason="REASON_RECONCILIATION")
    record = desk.records[run]
    assert (record.state, record.exit_code, record.tries) == (ends, status, 1)


def test_the_earliest_of_several_looks_counts_for_who_leads_next() -> None:
    """Two untold runs of one job, and a child whose parents may have gone on."""
    desk = JobDesk()
    desk.subscribe()
    desk.took(schedule=None)
    desk.took("acme/child", schedule=None, parents=["nightly"], labels=TOLD, concurrency="allow")
    runs = []
    for timeout_s in (600, 60):
        desk.took(labels=TOLD, schedule=None, timeout_s=timeout_s, concurrency="allow")
        runs.append(desk.ask("run").run)
        desk.begin(runs[-1])
    child = desk.ask("run", job="acme/child").run
    desk.begin(child)
    saved = list(desk.cluster.jobs.jobs.values())
    for run in (*runs, child):
        desk.end(run)
    for order in (1, -1):
        every = list(desk.cluster.instances.values())[::order]
        book = book_of(saved, every, (), {})
        assert book.agenda.time_of(desk.job().id) == desk[runs[1]].not_before
        assert book.agenda.time_of(desk.job("acme/child").id) == float("-inf")
