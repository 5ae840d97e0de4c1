"""The attempts of this executor in memory, each with its record in the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from libs.common.errors import Unavailable
from libs.common.task import TaskPayload
from libs.common.telemetry import Log
from libs.mesos.messages import TaskInfo, TaskStatus, UpdateCall
from services.executor.ends import Ends
from services.executor.model import (
    CLEANING,
    ENDED,
    Attempt,
    AttemptId,
    ContainerName,
    Record,
    State,
)
from services.executor.ports import Journal


def _durable(a: Attempt) -> tuple[Any, ...]:
    """What must be in the journal before anything is done about it; the rest a recovery finds out."""
    recycle = a.pool.recycle if a.pool else ""
    told = (a.outcome, a.reported, a.reported_healthy)
    return (a.state, a.container, a.adopting, a.stop, recycle, *told)


class Book:
    """What is known, and what Mesos has yet to acknowledge."""

    def __init__(self, journal: Journal, ends: Ends, log: Log) -> None:
        self._journal = journal
        self._ends = ends
        self._log = log
        self._records = {record.attempt.id: record for record in journal.load()}
        self._unsaved: dict[AttemptId, None] = {}  # the journal took them not, or not as they are
        self._by_container = {
            each.attempt.container: key
            for key, each in self._records.items()
            if not each.attempt.shared
        }
        in_order = sorted(self._records.values(), key=lambda each: each.attempt.payload.generation)
        newest = {each.attempt.payload.instance: each for each in in_order}
        for record in newest.values():
            a = record.attempt
            if record.updates and a.reported in ENDED and a.payload.run is not None:
                ends.recall(a)  # the worker before us may have had no room for it

    @property
    def attempts(self) -> dict[AttemptId, Attempt]:
        """All of them."""
        return {key: record.attempt for key, record in self._records.items()}

    def get(self, attempt: AttemptId) -> Attempt | None:
        """One of them."""
        record = self._records.get(attempt)
        return record.attempt if record else None

    def of_container(self, name: ContainerName) -> AttemptId | None:
        """Whose container has this name."""
        return self._by_container.get(name)

    def lives(self, name: ContainerName) -> bool:
        """Is it an attempt's that is not being cleared away?"""
        owner = self._by_container.get(name)
        found = self.get(owner) if owner is not None else None
        return found is not None and found.state not in CLEANING

    def end_of(self, payload: TaskPayload) -> Attempt | None:
        """The newest attempt at the run, if it is over and Mesos may not know yet how it ended.

        It may be one of an executor before this one.
        """
        every = (each.attempt for each in self._records.values())
        mine = [a for a in every if a.payload.instance == payload.instance]
        newest = max(mine, key=lambda a: a.payload.generation, default=None)
        if newest is None:
            return self._ends.of(payload)
        return newest if newest.outcome is not None else None

    def runs_in(self, name: ContainerName) -> list[Attempt]:
        """Runs that are in this shared container, or about to be, and not told to have ended."""
        every = (each.attempt for each in self._records.values())
        live = (State.STARTING, State.RUNNING, State.STOPPING)
        return [a for a in every if a.shared and a.container == name and a.state in live]

    def wanted_images(self) -> frozenset[str]:
        """Of attempts that have a container, or may yet get one."""
        over = (State.DETACHING, State.DONE)
        every = (each.attempt for each in self._records.values())
        return frozenset(each.payload.spec.image for each in every if each.state not in over)

    def open(self, attempt: Attempt, task: TaskInfo | None) -> None:
        """A new attempt."""
        # First: an end of an earlier try that outlived this one's record could be taken for this one's.
        if attempt.payload.run is not None and not attempt.payload.adopt:
            self._ends.begins(attempt.payload)
        self._keep(Record(attempt, cast("dict[str, Any] | None", task)))

    def save(self, attempt: Attempt, statuses: Sequence[TaskStatus]) -> None:
        """Its new state, and updates that were made of it and are about to be sent."""
        before = self._records[attempt.id]
        made = cast("tuple[dict[str, Any], ...]", tuple(statuses))
        record = replace(before, attempt=attempt, updates=before.updates + made)
        if made or _durable(before.attempt) != _durable(attempt):
            self._keep(record)
        else:
            self._records[attempt.id] = record
        if made and attempt.reported in ENDED and attempt.payload.run is not None:
            self._ends.note(attempt)

    def acknowledged(self, attempt: AttemptId, uuid: str) -> None:
        """Mesos has taken the update."""
        record = self._records.get(attempt)
        if record is None:
            return
        left = tuple(each for each in record.updates if each["uuid"] != uuid)
        self._keep(replace(record, task=None, updates=left))
        if not left and record.attempt.reported in ENDED:
            self._ends.taken(record.attempt)

    def forget(self, status: TaskStatus) -> None:
        """Mesos will never take this update."""
        record = self._records.get(AttemptId(status["task_id"]["value"]))
        if record is not None:
            left = tuple(each for each in record.updates if each["uuid"] != status["uuid"])
            self._keep(replace(record, updates=left))

    def is_saved(self, attempt: AttemptId) -> bool:
        """Would the next worker, and the next executor, find all that they must? If not, it is tried again."""
        record = self._records.get(attempt)
        if record is not None and attempt in self._unsaved:
            self._write(record)
        return self._ends.is_saved(attempt) and attempt not in self._unsaved

    def may_go(self, attempt: AttemptId) -> bool:
        """May the engine forget its container: Mesos knows how the runs in there ended, or whoever follows us would."""
        a = self.get(attempt)
        if a is None:
            return True
        runs = self._records.values() if a.pool is not None else [self._records[attempt]]
        return all(
            not each.updates or self.is_saved(each.attempt.id)
            for each in runs
            if each.attempt.container == a.container
            and each.attempt.payload.run is not None
            and each.attempt.reported in ENDED
        )

    def finished(self, attempt: AttemptId) -> bool:
        """Nothing of it is left on the host, and Mesos knows."""
        record = self._records[attempt]
        return record.attempt.state is State.DONE and not record.updates

    def drop(self, attempt: AttemptId) -> None:
        """Forget it."""
        record = self._records.pop(attempt)
        self._unsaved.pop(attempt, None)
        if self._by_container.get(record.attempt.container) == attempt:
            del self._by_container[record.attempt.container]
        try:
            self._journal.drop(attempt)
        except Unavailable as error:
            # The next worker may find it done once more, and drop it then.
            self._log.error("journal failed", attempt=attempt, error=str(error))

    @property
    def unacknowledged_tasks(self) -> list[TaskInfo]:
        """For SUBSCRIBE."""
        tasks = (record.task for record in self._records.values())
        return [cast(TaskInfo, task) for task in tasks if task is not None]

    @property
    def unacknowledged_updates(self) -> list[UpdateCall]:
        """For SUBSCRIBE, in order for each task."""
        return [
            {"status": cast(TaskStatus, status)}
            for record in self._records.values()
            for status in record.updates
        ]

    def _keep(self, record: Record) -> None:
        before = self._records.get(record.attempt.id)
        if record.attempt.shared:  # the container is another attempt's
            self._records[record.attempt.id] = record
            self._write(record)
            return
        if before is not None and before.attempt.container != record.attempt.container:
            self._by_container.pop(before.attempt.container, None)
        self._records[record.attempt.id] = record
        self._by_container[record.attempt.container] = record.attempt.id
        self._write(record)

    def _write(self, record: Record) -> None:
        try:
            self._journal.put(record)
            self._unsaved.pop(record.attempt.id, None)
        except Unavailable as error:
            self._unsaved[record.attempt.id] = None
            # Labels still tell most of it; to stop working would help nobody.
            self._log.error("journal failed", attempt=record.attempt.id, error=str(error))
