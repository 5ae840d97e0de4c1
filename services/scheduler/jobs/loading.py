"""What a new leader makes of the stored jobs, runs and records: who led before may have died between two writes. Pure.

The order of writes is instances, records, jobs. So there may be runs that their job does not know yet, and runs that
are over and that their job has not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from services.scheduler.jobs.book import JobBook
from services.scheduler.jobs.model import Job, Record, Told
from services.scheduler.jobs.run import JobId
from services.scheduler.model import Instance


def book_of(
    jobs: Iterable[Job],
    live: Iterable[Instance],
    over: Iterable[Instance],
    records: Mapping[str, Record],
) -> JobBook:
    """The book of jobs. `over` are runs' instances that have ended, `records` theirs and the newest of all."""
    known: dict[JobId, Job] = {job.id: job for job in jobs}
    there: dict[str, JobId] = {}
    untold: list[Instance] = []
    for instance in live:
        if instance.run is None:
            continue
        job = known.get(instance.run.job)
        there[instance.id] = instance.run.job
        if instance.untold:
            untold.append(instance)
        if job is not None and instance.id not in job.running:
            known[job.id] = replace(job.having(instance.id, Told()), last_run=instance.id)
    left = [
        record
        for record in records.values()
        if (job := known.get(record.job)) is not None and record.job_version > job.version
    ]
    ended = {instance.id: instance for instance in over}
    left += [Record.of(each) for each in ended.values() if each.id not in records]
    counted = {record.run for record in left}
    for job in list(known.values()):
        # Neither there nor over: the store has gone back in time, or was mended by hand.
        gone = [run for run in job.running if run not in there and run not in counted]
        for run in gone:
            known[job.id] = known[job.id].without(run)
    left.sort(key=lambda record: (not record.version, record.ended or 0.0))
    book = JobBook(known.values(), left, {*ended, *records})
    for instance in untold:
        book.look_by(there[instance.id], instance.not_before)  # its job may not say so
    return book
