"""A Journal in memory: it outlives a worker as long as its supervisor does."""

from __future__ import annotations

from libs.common.disk import FULL
from libs.common.errors import Unavailable
from services.executor.journal import decode, encode
from services.executor.model import AttemptId, Record


class MemoryJournal:
    """See Journal. It holds bytes, so that nothing of one worker's objects reaches the next. `full`: it takes none."""

    def __init__(self) -> None:
        self.files: dict[AttemptId, bytes] = {}
        self.full = False

    def load(self) -> list[Record]:
        """See Journal."""
        return [decode(self.files[key]) for key in sorted(self.files)]

    def put(self, record: Record) -> None:
        """See Journal."""
        if self.full:
            raise Unavailable(f"the journal can't be written: {FULL}")
        self.files[record.attempt.id] = encode(record)

    def drop(self, attempt: AttemptId) -> None:
        """See Journal."""
        if attempt in self.files and self.full:
            raise Unavailable(f"the journal can't be written: {FULL}")
        self.files.pop(attempt, None)
