"""What a new leader makes of what was left half done; and statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest

from libs.common.events import model as ev
from services.scheduler.cluster import Cluster
from services.scheduler.jobs.loading import book_of
from services.scheduler.jobs.model import Record, Told
from services.scheduler.jobs.run import JobId, RunState
from services.scheduler.jobs.stats import quantile, stats_of
from services.scheduler.model import State
from tests.unit.scheduler.jobs.world import JOB, JobDesk


def _over() -> tuple[JobDesk, str]:
    """A run that has ended in the store, and whose job was saved before it began."""
    desk = JobDesk()
    desk.took()
    desk.at(0.0)
    job = desk.job()
    instance = desk.begin()
    run = replace(instance.run, outcome="succeeded", ended=desk.now)  # type: ignore[type-var]
    ended = replace(instance, state=State.ENDED, run=run)
    desk.events.clear()
    desk.cluster = Cluster((), {ended.id: 5}, book_of([job], (), [ended], {}))
    return desk, ended.id


def test_an_end_that_was_not_counted_is_counted_and_told_with_its_begin() -> None:
    desk, run = _over()
    desk.tick(0.0)
    assert (desk.job().succeeded, desk.job().running, desk.states()) == (1, {}, ["succeeded"])
    assert [type(each) for each in desk.events] == [ev.JobRunStarted, ev.JobRunFinished]
    desk.tick(1.0)
    assert desk.job().succeeded == 1 and list(desk.records) == [run]


@pytest.mark.parametrize(("saved", "counts"), [(0, 0), (1, 1)])
def test_a_record_counts_unless_its_job_was_saved_with_it(saved: int, counts: int) -> None:
    desk = JobDesk()
    job = desk.took()
    record = Record("r", JobId(JOB), 0.0, "schedule", RunState.SUCCEEDED, 0.0, number=1, version=1)
    record = replace(record, job_version=job.version + saved)
    desk.cluster = Cluster((), {}, book_of([job], (), (), {"r": record}))
    desk.tick(0.0)
    assert desk.job().succeeded == counts


def test_a_run_that_its_job_does_not_know_is_its_and_one_that_is_nowhere_is_not() -> None:
    desk = JobDesk()
    desk.took()
    (run,) = desk.at(0.0)
    job = replace(desk.job(), running={"gone": Told()})
    book = book_of([job], [desk[run]], (), {})
    assert list(book.jobs[job.id].running) == [run]


def test_what_a_child_began_after_counts_once_although_its_job_was_not_saved_with_it() -> None:
    """Or one parent's next success alone would let it run again."""
    desk = JobDesk()
    desk.took("acme/a")
    desk.took("acme/b")
    desk.took("acme/c", schedule=None, parents=["a", "b"])
    desk.now += 1
    desk.passes("acme/a")
    desk.now += 1
    desk.ask("run", "acme/b")
    (parent,) = desk.names("acme/b")
    jobs, begun = list(desk.cluster.jobs.jobs.values()), desk.begin(parent)
    desk.end(parent)
    (run,) = desk.names("acme/c")
    # Its leader died here: both instances are saved, the record of the one that has ended and the jobs are not.
    assert begun.run is not None
    outcome = replace(begun.run, outcome="succeeded", ended=desk.now)
    ended = replace(begun, state=State.ENDED, since=desk.now, run=outcome)
    child = desk[run]
    del desk.records[parent]
    desk.cluster = Cluster((child,), {ended.id: 5}, book_of(jobs, [child], [ended], {}))
    desk.now += 10
    desk.tick(0.0)
    assert desk.names("acme/c") == [run]
    for job in ("acme/b", "acme/c"):
        desk.now += 1
        desk.passes(job)
    assert desk.names("acme/c") == []
    desk.now += 1
    desk.passes("acme/a")
    assert len(desk.names("acme/c")) == 1


def test_statistics_are_those_of_runs_that_went_well() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert quantile([7.0], 0.999) == 7.0
    base = Record("r", JobId(JOB), 0.0, "schedule", RunState.SUCCEEDED, 0.0, began=10.0)
    records = [replace(base, ended=10.0 + n) for n in range(1, 101)]
    records += [replace(base, state=RunState.FAILED, ended=999.0)]
    records += [replace(base, state=RunState.MISSED, began=None)]
    stats = stats_of(records)
    assert (stats["runs"], stats["succeeded"], stats["failed"], stats["missed"]) == (102, 100, 1, 1)
    duration = stats["duration"]
    assert (duration["min"], duration["max"], duration["mean"]) == (1, 100, 50.5)
    assert (duration["median"], duration["p75"]) == (50.5, pytest.approx(75.25))
    assert stats_of([])["duration"]["mean"] is None
