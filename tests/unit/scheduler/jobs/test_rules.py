"""The rules of jobs, one situation at a time: concurrency, catch-up, deadlines, pauses, disabling, dependencies."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from libs.common.events import model as ev
from services.scheduler.jobs.model import job_body, job_of
from services.scheduler.jobs.timing import TOLD_ONE_BY_ONE
from services.scheduler.jobs.views import state_of, trouble_of
from tests.unit.scheduler.jobs.world import JOB, MINUTELY, START, JobDesk, job_spec
from tests.unit.scheduler.world import IMAGE, kills

LATE = 10_000.0


# -- concurrency ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("concurrency", "under_way", "queued", "missed"),
    [
        ("allow", [0, 60], 0, []),
        ("forbid", [0], 0, [60]),
        ("queue", [0], 1, []),
        ("replace", [0], 1, []),
    ],
)
def test_a_target_while_a_run_is_under_way(
    concurrency: str, under_way: list[float], queued: int, missed: list[float]
) -> None:
    desk = JobDesk()
    desk.took(concurrency=concurrency)
    desk.at(0.0)
    desk.begin()
    desk.at(60.0)
    assert (desk.targets(), len(desk.job().queue), desk.missed()) == (under_way, queued, missed)


def test_a_run_between_two_tries_is_under_way() -> None:
    desk = JobDesk()
    desk.took(retry={"limit": 1, "delay_s": 100})
    desk.at(0.0)
    desk.begin()
    desk.end(state="TASK_FAILED")
    assert desk.at(60.0) == [] and desk.missed() == [60]


def test_an_end_and_the_next_target_in_one_batch_do_not_overlap() -> None:
    desk = JobDesk()
    desk.took()
    desk.at(0.0)
    desk.begin()
    desk.now = START + 60
    desk.end()  # decides on the target, too
    assert desk.targets() == [60] and desk.missed() == []


def test_a_queue_is_worked_off_in_order_and_has_a_bound() -> None:
    desk = JobDesk()
    desk.took(concurrency="queue", queue_limit=2)
    desk.at(0.0)
    desk.begin()
    for n in (60.0, 120.0, 180.0):
        desk.at(n)
    assert desk.missed() == [180]
    for target in (60, 120):
        desk.end()
        assert desk.targets() == [target]
        desk.begin()
    assert desk.job().queue == ()


def test_a_replaced_run_ends_before_the_new_one_begins() -> None:
    desk = JobDesk()
    desk.took(concurrency="replace", retry={"limit": 3})
    (old,) = desk.at(0.0)
    desk.begin()
    desk.at(60.0)
    assert kills(desk.actions) == [f"{old}.1"] and desk.targets() == [0]
    desk.at(120.0)
    assert desk.missed() == [60], "two wait for nobody"
    desk.end(old, "TASK_KILLED")
    assert (desk.states(), desk.targets()) == (["missed", "killed"], [120])


# -- catch-up ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "limit", "late", "runs", "missed"),
    [
        ("none", 10, 0.0, [300], [0, 60, 120, 180, 240]),
        ("none", 10, 59.0, [300], [0, 60, 120, 180, 240]),
        ("latest", 10, 0.0, [300], [0, 60, 120, 180, 240]),
        ("all", 10, 0.0, [0, 60, 120, 180, 240, 300], []),
        ("all", 2, 0.0, [180, 240, 300], [0, 60, 120]),
    ],
)
def test_targets_that_passed_while_nobody_led(
    policy: str, limit: int, late: float, runs: list[float], missed: list[float]
) -> None:
    desk = JobDesk()
    desk.took(concurrency="allow", catch_up={"policy": policy, "limit": limit})
    desk.at(300.0 + late)
    assert (desk.targets(), desk.missed()) == (runs, missed)


@pytest.mark.parametrize(
    ("policy", "runs"), [("none", [30]), ("latest", [30]), ("all", [0, 10, 20, 30])]
)
def test_of_targets_that_are_hardly_late_the_newest_is_on_time(
    policy: str, runs: list[float]
) -> None:
    desk = JobDesk()
    every = "R/2027-01-15T08:00:00Z/PT10S"
    desk.took(concurrency="allow", catch_up={"policy": policy}, schedule=every)
    desk.at(35.0)
    assert desk.targets() == runs
    assert desk.missed() == [each for each in (0, 10, 20) if each not in runs]


@pytest.mark.parametrize(("policy", "runs"), [("none", []), ("latest", [0]), ("all", [0])])
def test_a_target_that_is_late_is_one_to_catch_up_with(policy: str, runs: list[float]) -> None:
    desk = JobDesk()
    desk.took(catch_up={"policy": policy}, schedule="R1/2027-01-15T08:00:00Z/PT1M")
    desk.at(desk.config.jobs.late_s + 1)
    assert desk.targets() == runs and desk.missed() == ([] if runs else [0])


def test_all_is_caught_up_with_one_after_the_other_where_runs_may_not_overlap() -> None:
    desk = JobDesk()
    desk.took(catch_up={"policy": "all", "limit": 3})
    desk.at(130.0)
    done = []
    while desk.names():
        done += desk.targets()
        desk.begin()
        desk.end()
    assert (done, desk.missed()) == ([0, 60], [120]), "the third came while one was under way"


def test_many_missed_targets_are_told_in_a_few_words() -> None:
    desk = JobDesk()
    desk.took()
    desk.at(60 * 1000.0)
    missed = desk.missed()
    assert (len(missed), missed[0], missed[-1]) == (TOLD_ONE_BY_ONE + 1, 0, 60 * 999)
    assert "all targets since" in desk.told(ev.JobRunMissed)[0].reason


# -- deadlines -----------------------------------------------------------------------------------------


def test_a_run_that_finds_no_place_in_time_is_missed() -> None:
    desk = JobDesk()
    desk.took(start_deadline_s=20)
    desk.at(0.0)
    assert desk.at(19.0) == [] and desk.targets() == [0]
    assert desk.cluster.jobs.agenda.first() == START + 20
    desk.at(20.0)
    assert (desk.targets(), desk.missed(), desk.job().missed) == ([], [0], 1)
    desk.at(60.0)
    desk.begin()
    desk.at(90.0)
    assert desk.targets() == [60], "it began in time"


def test_what_waits_for_the_run_before_is_missed_in_time() -> None:
    desk = JobDesk()
    desk.took(concurrency="queue", start_deadline_s=20)
    desk.at(0.0)
    desk.begin()
    desk.at(60.0)
    desk.at(80.0)
    assert (desk.missed(), desk.job().queue) == ([60], ())


def test_a_target_that_is_looked_at_after_its_deadline_is_missed() -> None:
    desk = JobDesk()
    desk.took(start_deadline_s=20, catch_up={"policy": "all"}, concurrency="allow")
    desk.at(130.0)
    assert (desk.targets(), desk.missed()) == ([120], [0, 60])


# -- pause, disable, delete ----------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "runs"), [("none", []), ("latest", [120])])
def test_a_paused_job_catches_up_when_it_goes_on(policy: str, runs: list[float]) -> None:
    desk = JobDesk()
    desk.took(catch_up={"policy": policy})
    desk.ask("pause")
    assert desk.at(170.0 + desk.config.jobs.late_s - 60) == []
    desk.now = START + 179.0
    desk.config = desk.config.model_copy(
        update={"jobs": desk.config.jobs.model_copy(update={"late_s": 10.0})}
    )
    desk.ask("resume")
    assert desk.targets() == runs


def test_run_now_runs_a_paused_job_and_no_disabled_one() -> None:
    desk = JobDesk()
    desk.took()
    desk.ask("pause")
    outcome = desk.ask("run")
    assert outcome.state == "done" and desk.names() == [outcome.run]
    again = desk.ask("run")
    assert again.state == "refused" and outcome.run in again.problem
    desk.ask("kill")
    desk.took(enabled=False)
    assert "disabled" in desk.ask("run").problem


def test_a_request_is_handled_once() -> None:
    desk = JobDesk()
    desk.took(concurrency="allow")
    first = desk.ask("run", request="q")
    desk.cluster.jobs.answered.clear()  # another leader, who finds it in the job's document
    assert desk.ask("run", request="q") == first
    assert desk.names() == [first.run]


def test_a_job_is_disabled_after_so_many_failures_in_a_row() -> None:
    desk = JobDesk()
    desk.took(disable_after=2)
    for n in range(2):
        desk.at(60.0 * n)
        desk.begin()
        desk.end(state="TASK_FAILED")
    assert desk.at(120.0) == []
    state, reason = state_of(desk.job())
    assert state == "disabled" and "exit code 1" in reason
    desk.now = START + 250
    desk.ask("resume")
    assert desk.names() == [] and desk.job().failures_in_a_row == 0
    assert len(desk.at(300.0)) == 1


def test_soft_errors_disable_nothing() -> None:
    desk = JobDesk()
    desk.took(disable_after=1, soft_errors=True)
    desk.at(0.0)
    desk.begin()
    desk.end(state="TASK_FAILED")
    assert (desk.job().failed, desk.job().failures_in_a_row, desk.job().disabled) == (1, 0, "")


def test_a_deleted_job_ends_its_runs_and_begins_none() -> None:
    desk = JobDesk()
    desk.took(concurrency="queue")
    (run,) = desk.at(0.0)
    desk.begin()
    desk.at(60.0)
    assert desk.ask("delete").state == "done"
    assert kills(desk.actions) == [f"{run}.1"]
    desk.end(run, "TASK_KILLED")
    assert desk.at(120.0) == [] and desk.states() == ["missed", "killed"]
    assert desk.ask("run").state == desk.ask("delete").state == "refused"


def test_a_job_that_is_put_again_goes_on_in_its_versions_and_begins_anew() -> None:
    desk = JobDesk()
    desk.took()
    desk.at(0.0)
    desk.ask("delete")
    version = desk.job().version
    desk.now = START + 200
    job = desk.took()
    assert job.version > version and job.failed == 0
    assert desk.names() == [] and len(desk.at(240.0)) == 1


def test_putting_the_same_again_loses_no_target_and_another_schedule_begins_now() -> None:
    desk = JobDesk()
    desk.took(schedule="R3//PT1M")
    text = desk.job().text
    desk.now += 10
    desk.took(schedule="R3//PT1M", env={"A": "b"})
    assert desk.job().text == text and len(desk.names()) == 1, "its first target had come"
    desk.took(schedule="R3//PT2M")
    assert (desk.job().look or 0.0) > desk.now


@pytest.mark.parametrize(
    ("fields", "late_s", "targets", "missed"),
    [
        ({}, 20.0, [0], []),
        ({"catch_up": {"policy": "none"}}, 20.0, [0], []),
        ({}, 70.0, [60], [0]),
        ({"schedule": "R1/2027-01-15T08:00:00Z/PT1H"}, 300.0, [0], []),
        (
            {"schedule": "R1/2027-01-15T08:00:00Z/PT1H", "catch_up": {"policy": "none"}},
            300.0,
            [],
            [0],
        ),
        ({"start_deadline_s": 15.0}, 20.0, [], [0]),
    ],
)
def test_what_is_due_between_asking_and_deciding_runs_or_is_told_as_missed(
    fields: dict[str, Any], late_s: float, targets: list[float], missed: list[float]
) -> None:
    """A registry was slow, or nobody led."""
    desk = JobDesk(now=START + late_s)
    desk.ask("put", spec=job_spec(**fields), image=IMAGE, at=START - 1.0)
    desk.tick(0.0)
    assert (desk.targets(), desk.missed()) == (targets, missed)


def test_what_the_schedule_before_has_decided_on_is_not_decided_on_again() -> None:
    desk = JobDesk()
    desk.took()
    (run,) = desk.at(0.0)
    desk.begin()
    desk.at(60.0)
    desk.now = START + 70.0
    desk.end(run)
    for schedule in ("0 * * * * *", "*/20 * * * * *"):
        desk.ask("put", spec=job_spec(schedule=schedule), image=IMAGE, at=START - 5.0)
        desk.tick(0.0)
        assert (desk.targets(), desk.states()) == ([], ["missed", "succeeded"])
    assert desk.at(80.0) and desk.targets() == [80]


def test_a_clock_that_is_ahead_is_believed_for_a_minute() -> None:
    desk = JobDesk(now=START - 5.0)
    spec = job_spec(concurrency="allow")
    desk.ask("put", spec=spec, image=IMAGE, at=START + 5.0)
    assert desk.at(30.0) == [], "for who asked, it had passed"
    assert desk.at(60.0) and desk.targets() == [60]
    desk.ask("put", "acme/far", spec=spec, image=IMAGE, at=START + 86_400.0)
    assert desk.job("acme/far").cursor == START + 120.0
    desk.ask("put", "acme/soon", spec=job_spec(schedule="R1//PT1H"), image=IMAGE, at=desk.now + 30)
    desk.at(100.0)
    assert len(desk.names("acme/soon")) == 1


def test_a_time_that_had_passed_is_made_up_for_once() -> None:
    """As Chronos' API asks for it: for a new job, for another schedule, and when it is enabled."""
    desk = JobDesk(now=START + 30.0)

    def put(since: float | None, **fields: Any) -> list[str]:
        causes = len(desk.records)
        spec = job_spec(**{"schedule": "R1/2027-01-15T08:00:00Z/PT1H", **fields})
        outcome = desk.ask("put", spec=spec, image=IMAGE, at=desk.now, since=since)
        assert outcome.state == "done"
        desk.tick(0.0)
        for run in desk.names():
            desk.begin(run)
            desk.end(run)
        return [each.cause for each in list(desk.records.values())[causes:]]

    assert put(START) == [] and desk.job().text
    desk.ask("delete")
    assert put(START - 1.0) == ["manual"]
    assert put(0.0) == [], "the same again"
    assert put(0.0, schedule="R1/2027-01-15T07:59:00Z/PT1H") == ["manual"]
    assert put(0.0, schedule="R1/2027-01-15T08:10:00Z/PT1H") == []
    assert put(None, schedule="R1/2027-01-15T07:00:00Z/PT1H") == []
    # Put disabled, and enabled after its time; what has run does not run again by that.
    for schedule, causes in (("R1/2027-01-15T08:01:00Z/PT1H", ["manual"]), (MINUTELY, [])):
        assert put(0.0, schedule=schedule, enabled=False) == []
        desk.now += 40.0
        assert put(0.0, schedule=schedule, enabled=False) == []
        if not causes:
            assert put(0.0, schedule=schedule) == ["manual"]
            desk.at(150.0)
            desk.begin()
            desk.end()
            assert put(0.0, schedule=schedule, enabled=False) == []
        assert put(0.0, schedule=schedule) == causes


def test_what_is_made_up_for_waits_until_runs_of_the_deleted_job_have_ended() -> None:
    desk = JobDesk()
    desk.took()
    (old,) = desk.at(0.0)
    desk.begin()
    desk.ask("delete")
    desk.ask("put", spec=job_spec(), image=IMAGE, at=desk.now, since=0.0)
    assert (desk.names(), desk.missed()) == ([old], [])
    desk.end(old, "TASK_KILLED")
    (run,) = desk.names()
    assert desk.run(run).cause == "manual"


def test_a_new_job_is_saved_before_anything_of_it_starts() -> None:
    """Else a leader that dies in between would leave runs whose ends nobody counts."""
    desk = JobDesk(now=START + 30.0)
    spec = job_spec(schedule="R/2027-01-15T07:59:00Z/PT1M", concurrency="allow")
    desk.ask("put", spec=spec, image=IMAGE, at=START - 1.0, since=0.0)
    assert desk.names() == [] and desk.job().look == START + 30.0
    desk.tick(0.0)
    assert [desk.run(each).cause for each in desk.names()] == ["schedule", "manual"]


def test_a_schedule_of_n_times_finishes() -> None:
    desk = JobDesk()
    desk.took(schedule="R2/2027-01-15T08:00:00Z/PT1M")
    for n in range(4):
        for _ in desk.at(60.0 * n):
            desk.begin()
            desk.end()
    assert desk.job().succeeded == 2 and state_of(desk.job())[0] == "finished"
    assert desk.cluster.jobs.agenda.first() is None


def test_a_killed_run_is_not_tried_again_and_counts_as_no_failure() -> None:
    desk = JobDesk()
    desk.took(retry={"limit": 5})
    (run,) = desk.at(0.0)
    desk.begin()
    assert desk.ask("kill", run="other").state == "refused"
    desk.ask("kill", run=run)
    desk.end(run, "TASK_KILLED")
    assert (desk.states(), desk.job().failed) == (["killed"], 0)
    assert desk.told(ev.JobRunFailed)[0].reason.startswith("killed: ")


# -- dependencies --------------------------------------------------------------------------------------


def _chain(desk: JobDesk, **child: Any) -> None:
    desk.took("acme/a")
    desk.took("acme/b")
    desk.took("acme/c", schedule=None, parents=["a", "b"], **child)


def test_a_child_runs_after_newer_successes_of_all_its_parents() -> None:
    desk = JobDesk()
    _chain(desk)
    steps = [("acme/a", 0), ("acme/a", 0), ("acme/b", 1), ("acme/b", 0), ("acme/a", 1)]
    for parent, runs in steps:
        desk.now += 1
        desk.passes(parent)
        assert len(desk.names("acme/c")) == runs, parent
        for _ in range(runs):
            desk.passes("acme/c")
    assert desk.job("acme/c").succeeded == 2


@pytest.mark.parametrize("astray_s", [600.0, -600.0])
def test_children_do_not_go_by_the_clocks_of_their_parents_hosts(astray_s: float) -> None:
    desk = JobDesk()
    desk.took("acme/a")
    desk.took("acme/c", schedule=None, parents=["a"], start_deadline_s=60.0)
    for ended_at in (desk.now + 1 + astray_s, desk.now + 2):
        desk.now += 1
        desk.passes("acme/a", started_at=ended_at - 1, ended_at=ended_at)
        (run,) = desk.names("acme/c")
        assert desk.run(run).target == desk.now
        desk.passes("acme/c")
    assert desk.missed() == []


def test_a_success_in_the_past_of_a_clock_that_was_set_back_is_a_newer_one() -> None:
    desk = JobDesk()
    _chain(desk)
    for clock_s in (0.0, -5.0):
        desk.now += clock_s
        desk.passes("acme/a")
        desk.passes("acme/b")
        desk.passes("acme/c")
    assert desk.job("acme/c").succeeded == 2


def test_a_child_does_not_run_after_a_failure_unless_it_is_a_soft_one() -> None:
    desk = JobDesk()
    _chain(desk)
    desk.passes("acme/a", "TASK_FAILED")
    desk.passes("acme/b")
    assert desk.names("acme/c") == []
    desk.took("acme/a", soft_errors=True)
    desk.passes("acme/a", "TASK_FAILED")
    assert len(desk.names("acme/c")) == 1


def test_a_child_under_way_runs_once_more_for_all_that_came_meanwhile() -> None:
    desk = JobDesk()
    _chain(desk)
    for _ in range(3):
        for parent in ("acme/a", "acme/b"):
            desk.now += 1
            desk.passes(parent)
    (run,) = desk.names("acme/c")
    desk.passes("acme/c")
    (again,) = desk.names("acme/c")
    assert again != run
    desk.passes("acme/c")
    assert desk.names("acme/c") == []


def test_successes_from_before_the_wish_do_not_count() -> None:
    desk = JobDesk()
    desk.took("acme/a")
    desk.passes("acme/a")
    desk.now += 1
    desk.took("acme/c", schedule=None, parents=["a"])
    assert desk.names("acme/c") == []


def test_what_passed_while_a_child_was_disabled_is_not_caught_up_with_and_while_paused_it_is() -> (
    None
):
    desk = JobDesk()
    desk.took("acme/a")
    child: dict[str, Any] = {"schedule": None, "parents": ["a"]}
    desk.took("acme/c", **child, enabled=False)
    desk.passes("acme/a")
    desk.took("acme/c", **child)
    assert desk.names("acme/c") == []
    desk.ask("pause", "acme/c")
    desk.now += 1
    desk.passes("acme/a")
    assert desk.names("acme/c") == []
    desk.ask("resume", "acme/c")
    assert len(desk.names("acme/c")) == 1


@pytest.mark.parametrize(
    ("job", "fields", "problem"),
    [
        ("acme/c", {"schedule": None, "parents": ["x"]}, "parents: there is no job acme/x"),
        ("acme/a", {"schedule": None, "parents": ["a"]}, "parents: a cycle: a → a"),
        ("acme/a", {"schedule": None, "parents": ["c"]}, "parents: a cycle: a → b → c → a"),
        ("beta/c", {"schedule": None, "parents": ["a"]}, "parents: there is no job beta/a"),
        ("acme/a", {"schedule": "whenever"}, "schedule: "),
    ],
)
def test_what_can_not_be(job: str, fields: dict[str, Any], problem: str) -> None:
    desk = JobDesk()
    desk.took("acme/a")
    desk.took("acme/b", schedule=None, parents=["a"])
    desk.took("acme/c", schedule=None, parents=["b"])
    outcome = desk.put(job, **fields)
    assert outcome.state == "refused" and outcome.problem.startswith(problem), outcome.problem


def test_a_parent_is_not_deleted_before_its_children() -> None:
    desk = JobDesk()
    _chain(desk)
    assert "c run after it" in desk.ask("delete", "acme/a").problem
    desk.took("acme/c")
    assert desk.ask("delete", "acme/a").state == "done"


def test_idle_jobs_cost_nothing() -> None:
    desk = JobDesk()
    for n in range(200):
        desk.took(f"acme/job-{n}", schedule=MINUTELY if n == 7 else "R/2027-06-01T00:00:00Z/P1D")
    assert desk.cluster.jobs.agenda.until(START) == ["acme/job-7"]
    assert desk.at(0.0) and desk.job("acme/job-7").running and JOB not in desk.cluster.jobs.jobs


def test_a_few_jobs_are_looked_at_in_one_decision_and_all_in_order() -> None:
    desk = JobDesk()
    desk.config = desk.config.model_copy(
        update={"jobs": desk.config.jobs.model_copy(update={"looks": 3})}
    )
    for n in range(8):
        desk.took(f"acme/job-{n}")
    assert [len(desk.at(0.0)) for _ in range(4)] == [3, 3, 2, 0]


def test_what_waits_of_a_job_that_is_disabled_is_missed() -> None:
    desk = JobDesk()
    desk.took(concurrency="queue", disable_after=1)
    desk.at(0.0)
    desk.begin()
    desk.at(60.0)
    desk.end(state="TASK_FAILED")
    assert (desk.states(), desk.missed(), desk.job().queue) == (["failed", "missed"], [60], ())


# -- asked for otherwise -------------------------------------------------------------------------------


def test_a_run_now_may_run_another_command_through_all_its_tries() -> None:
    desk = JobDesk()
    desk.took(schedule=None, command=["/run"], retry={"limit": 1, "delay_s": 10})
    run = desk.ask("run", command=("/run", "-x")).run
    desk.begin()
    desk.end(state="TASK_FAILED")
    assert desk[run].spec.command == ("/run", "-x")
    assert desk.job().spec.command == ("/run",)


def test_another_command_waits_in_the_queue_and_in_its_document() -> None:
    desk = JobDesk()
    desk.took(schedule=None, concurrency="queue")
    desk.ask("run")
    run = desk.ask("run", command=("/run", "-x")).run
    desk.ask("run")
    body = orjson.loads(orjson.dumps(job_body(desk.job())))
    assert [each[3:] for each in body["queue"]] == [[["/run", "-x"]], []]
    assert job_of(JOB, 1, body).queue == desk.job().queue
    # What a newer release adds to an entry is passed over.
    for entry in body["queue"]:
        entry += [["/run"], "new"] if len(entry) == 3 else ["new"]
    more = {**body, "handled": [[*each, "new"] for each in body["handled"]]}
    more["running"] = [[*each, 7] for each in body["running"]]
    read, known = job_of(JOB, 1, more), job_of(JOB, 1, body)
    assert (read.handled, read.running) == (known.handled, known.running)
    assert [each[:3] for each in read.queue] == [each[:3] for each in known.queue]
    desk.begin()
    desk.end()
    assert desk[run].spec.command == ("/run", "-x")


def test_a_job_that_is_to_count_as_succeeded_lets_its_children_run() -> None:
    desk = JobDesk()
    desk.took(schedule=None)
    desk.took("acme/child", schedule=None, parents=["nightly"])
    assert desk.ask("succeed").state == "done"
    job = desk.job()
    assert (job.succeeded, job.failures_in_a_row, job.last_success) == (1, 0, desk.now)
    assert len(desk.job("acme/child").running) == 1 and not job.running
    assert desk.ask("succeed", "acme/nobody").state == "refused"


def test_a_job_is_in_trouble_while_its_runs_fail_or_when_it_was_disabled_for_that() -> None:
    desk = JobDesk()
    desk.took(disable_after=2)
    told = []
    for minute, state in enumerate(("TASK_FAILED", "TASK_FINISHED", "TASK_FAILED", "TASK_FAILED")):
        desk.at(60.0 * minute)
        desk.begin()
        desk.end(state=state)
        told.append(trouble_of(desk.job()))
    assert told[:3] == ["its last run failed", "", "its last run failed"]
    assert "2" in told[3] and desk.job().disabled == told[3]
    desk.took(enabled=False)
    assert trouble_of(desk.job()) == ""
