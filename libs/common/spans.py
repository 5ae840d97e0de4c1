"""Finished spans as JSON lines in a file, for `tests/bench` and for a collector that reads files.

One object a line: `{service, name, trace_id, span_id, parent_id, start_ns, end_ns, attributes}`; times are Unix
nanoseconds, ids hex as in W3C traceparent, `parent_id` "" for a root. Several processes may share a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.sdk.trace import ReadableSpan

from libs.common.telemetry import SpanSink

MAX_BYTES = 256 * 1024 * 1024


class SpanFile:
    """A `SpanSink` that appends, one write a span; the file is moved to `<name>.1` when it is full."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._torn = False  # the last line is not whole
        self._file = self._open()

    def span(self, finished: ReadableSpan) -> None:
        """See SpanSink. A disk that is full loses spans, and nothing else."""
        try:
            if os.fstat(self._file).st_size >= self._max_bytes:
                self._rotate()
            line = orjson.dumps(span_line(finished)) + b"\n"
            written = os.write(self._file, b"\n" + line if self._torn else line)
            self._torn = written < len(line)
        except OSError:
            pass

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        mine = os.fstat(self._file)
        if self._path.exists() and self._path.stat().st_ino == mine.st_ino:  # nobody else has
            self._path.rename(f"{self._path}.1")
        # First the new one: the number of a closed file is soon another file's, which would get our lines.
        full, self._file = self._file, self._open()
        os.close(full)


def span_line(finished: ReadableSpan) -> dict[str, Any]:
    """What is written of a span."""
    context, parent = finished.context, finished.parent
    return {
        "service": finished.resource.attributes.get("service.name", ""),
        "name": finished.name,
        "trace_id": f"{context.trace_id:032x}" if context else "",
        "span_id": f"{context.span_id:016x}" if context else "",
        "parent_id": f"{parent.span_id:016x}" if parent else "",
        "start_ns": finished.start_time,
        "end_ns": finished.end_time,
        "attributes": dict(finished.attributes or {}),
    }


def open_sinks(trace_file: Path | None) -> tuple[SpanSink, ...]:
    """The sinks that a configuration asks for."""
    return () if trace_file is None else (SpanFile(trace_file),)
