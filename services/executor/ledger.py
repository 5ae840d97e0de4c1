"""UseLedger in one small file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson

from libs.common.disk import replace_file, why
from libs.common.errors import Unavailable


class FileLedger:
    """See UseLedger. A file that can't be read is as none: then images stay until they have been of use once more."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def load(self) -> dict[str, float]:
        """See UseLedger."""
        try:
            content = orjson.loads(self._file.read_bytes())
            return {str(name): float(at) for name, at in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def save(self, used_at: Mapping[str, float]) -> None:
        """See UseLedger."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, orjson.dumps(dict(used_at)))
        except OSError as error:
            raise Unavailable(f"{self._file}: {why(error)}") from None
