"""Journal in files: one JSON file an attempt, replaced whole.

Nothing is synced to the disk: a file that was renamed survives the process, and no container survives the machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from pydantic import ValidationError

from libs.common.errors import Unavailable
from services.executor.model import Attempt, AttemptId, Record

_SUFFIX = ".json"


def encode(record: Record) -> bytes:
    """A record as JSON."""
    attempt = record.attempt.model_dump(mode="json")
    return orjson.dumps({"attempt": attempt, "task": record.task, "updates": record.updates})


def decode(data: bytes) -> Record:
    """Raises ValueError."""
    content: dict[str, Any] = orjson.loads(data)
    try:
        attempt = Attempt.model_validate(content["attempt"])
        return Record(attempt, content["task"], tuple(content["updates"]))
    except (ValidationError, KeyError, TypeError) as error:
        raise ValueError(f"not a record: {error}") from None


class FileJournal:
    """See Journal. The directory is made (mode 0700: an attempt's environment may hold secrets)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self) -> list[Record]:
        """See Journal. A file that can't be read is set aside: labels tell the rest."""
        records = []
        for file in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                records.append(decode(file.read_bytes()))
            except (OSError, ValueError):
                file.rename(file.with_suffix(".broken"))
        return records

    def put(self, record: Record) -> None:
        """See Journal."""
        file = self._file(record.attempt.id)
        temporary = f"{file}.new"
        try:
            with open(temporary, "wb", opener=_private) as out:
                out.write(encode(record))
            os.replace(temporary, file)  # noqa: PTH105 - this is done often, and Path is slow
        except OSError as error:
            raise Unavailable(f"the journal can't be written: {error.strerror}") from None

    def drop(self, attempt: AttemptId) -> None:
        """See Journal."""
        Path(self._file(attempt)).unlink(missing_ok=True)

    def _file(self, attempt: AttemptId) -> str:
        return f"{self._directory}/{quote(attempt, safe='')}{_SUFFIX}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
