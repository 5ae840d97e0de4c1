"""How runs have ended, on the host's disk until Mesos' agent has taken it: whoever follows a dead executor can tell."""

from __future__ import annotations

from collections.abc import Container

from libs.common.errors import Unavailable
from libs.common.task import TaskPayload, container_name
from libs.common.telemetry import Log
from services.executor.model import Attempt, AttemptId, Record
from services.executor.ports import Journal


class Ends:
    """The newest end of each run that Mesos may not know. `journal` outlives supervisors, and is an agent's own."""

    def __init__(self, journal: Journal, log: Log) -> None:
        self._journal = journal
        self._log = log
        self._known: dict[str, Attempt] = {}  # by instance
        self._unsaved: dict[AttemptId, Attempt] = {}
        for record in sorted(journal.load(), key=lambda each: each.attempt.payload.generation):
            self._put(record.attempt)
        self._found = dict(self._known)

    def note(self, attempt: Attempt) -> None:
        """It is over, and Mesos is about to be told."""
        self._write(attempt)
        self._put(attempt)

    def recall(self, attempt: Attempt) -> None:
        """An end that Mesos has not taken, and that may not be written here."""
        known = self._known.get(attempt.payload.instance)
        if known is None or known.payload.generation < attempt.payload.generation:
            self.note(attempt)

    def is_saved(self, attempt: AttemptId) -> bool:
        """Would who follows us find it? If not, it is tried again."""
        if attempt in self._unsaved:
            self._write(self._unsaved[attempt])
        return attempt not in self._unsaved

    def _write(self, attempt: Attempt) -> None:
        try:
            self._journal.put(Record(attempt))
            self._unsaved.pop(attempt.id, None)
        except Unavailable as error:
            # Told it is all the same; what its container or init knows of it stays until it is written.
            self._unsaved[attempt.id] = attempt
            self._log.error("end not written", attempt=attempt.id, error=str(error))

    def _put(self, attempt: Attempt) -> None:
        before = self._known.get(attempt.payload.instance)
        self._known[attempt.payload.instance] = attempt
        if before is not None and before.id != attempt.id:
            self._drop(before.id)

    def taken(self, attempt: Attempt) -> None:
        """Mesos knows."""
        known = self._known.get(attempt.payload.instance)
        if known is not None and known.id == attempt.id:
            self._forget(known)

    def begins(self, payload: TaskPayload) -> None:
        """Another try comes, not one that takes over: what is known of those before has been heard, or given up."""
        known = self._known.get(payload.instance)
        if known is not None and known.id != payload.attempt:
            self._forget(known)

    def of(self, payload: TaskPayload) -> Attempt | None:
        """How the try ended that this attempt is to take over.

        The scheduler names its container as it has heard it last: it may know the one that it had in mind for the try.
        """
        known = self._known.get(payload.instance)
        if known is None or not payload.adopt:
            return None
        own = container_name(payload.cluster, known.id)
        return known if payload.adopt in (known.container, own, known.payload.adopt) else None

    def forget_unasked(self, ours: Container[AttemptId]) -> None:
        """What an earlier executor left, and nobody has asked for. Not `ours`: Mesos has yet to take those."""
        for instance, found in self._found.items():
            if self._known.get(instance) is found and found.id not in ours:
                self._forget(found)
        self._found.clear()

    def _forget(self, attempt: Attempt) -> None:
        del self._known[attempt.payload.instance]
        self._drop(attempt.id)

    def _drop(self, attempt: AttemptId) -> None:
        self._unsaved.pop(attempt, None)
        try:
            self._journal.drop(attempt)
        except Unavailable as error:
            # Nobody is told it for another try: that has a container of another name, or begins first.
            self._log.error("end not dropped", attempt=attempt, error=str(error))
