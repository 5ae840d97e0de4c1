"""Journal in one file that only grows: a line a change, put in order again at each start.

Nothing is synced to the disk: what was written survives the process, and no container survives the machine. A
file a record, replaced by rename, cost 3 ms each: the file system writes such files out at once.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from libs.common.disk import FULL, why
from libs.common.errors import Unavailable
from services.executor.model import Attempt, AttemptId, Record

_COMPACT_BYTES = 16 * 1024 * 1024


def encode(record: Record) -> bytes:
    """A record as JSON."""
    attempt = record.attempt.model_dump(mode="json")
    return orjson.dumps({"attempt": attempt, "task": record.task, "updates": record.updates})


def decode(data: bytes) -> Record:
    """Raises ValueError."""
    content: dict[str, Any] = orjson.loads(data)
    try:
        # Also of a newer worker before us: a spec refuses what its users misspell, and nobody misspelt this.
        attempt = Attempt.model_validate(content["attempt"], extra="ignore")
        return Record(attempt, content["task"], tuple(content["updates"]))
    except (ValidationError, KeyError, TypeError) as error:
        raise ValueError(f"not a record: {error}") from None


class FileJournal:
    """See Journal. The file has mode 0600: an attempt's environment may hold secrets."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._records: dict[AttemptId, bytes] = {}
        self._read()
        self._out = -1
        self._size = 0
        self._behind = False  # does the file lack something of what is known?
        try:
            self._compact()
        except OSError:  # no room for a second file: go on with what there is
            self._reopen()

    def load(self) -> list[Record]:
        """See Journal."""
        return [decode(self._records[key]) for key in sorted(self._records)]

    def put(self, record: Record) -> None:
        """See Journal."""
        data = encode(record)
        self._records[record.attempt.id] = data
        self._append(data)

    def drop(self, attempt: AttemptId) -> None:
        """See Journal."""
        if self._records.pop(attempt, None) is not None:
            self._append(orjson.dumps({"drop": attempt}))

    def _append(self, line: bytes) -> None:
        behind, self._behind = self._behind, True
        try:
            if behind or self._size > _COMPACT_BYTES:
                self._compact()
                return
            # A newline first: a line that was cut short spoils itself only.
            written = os.write(self._out, b"\n" + line)
        except OSError as error:
            raise Unavailable(f"the journal can't be written: {why(error)}") from None
        self._size += written
        if written <= len(line):
            raise Unavailable(f"the journal can't be written: {FULL}")
        self._behind = False

    def _read(self) -> None:
        """What the lines come to; one that is broken is as if it had not been written."""
        try:
            lines = self._file.read_bytes().split(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            return
        for line in lines:
            try:
                content = orjson.loads(line)
                if "drop" in content:
                    self._records.pop(AttemptId(content["drop"]), None)
                else:
                    self._records[decode(line).attempt.id] = line
            except (ValueError, TypeError):
                continue

    def _compact(self) -> None:
        """Write anew what is there, and go on at its end."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        content = b"\n".join(self._records[key] for key in sorted(self._records))
        out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            if os.write(out, content) < len(content):
                raise OSError(errno.ENOSPC, FULL)
            temporary.replace(self._file)
        except OSError:
            os.close(out)
            temporary.unlink(missing_ok=True)
            raise
        if self._out >= 0:
            os.close(self._out)
        self._out, self._size, self._behind = out, len(content), False

    def _reopen(self) -> None:
        try:
            self._out = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:  # nor for a first one: it is made when there is
            self._behind = True
            return
        self._size = os.fstat(self._out).st_size
