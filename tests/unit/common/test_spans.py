"""Spans in a file: what is written, by several processes, and what happens when it is full or can't be written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson

from libs.common.spans import SpanFile, open_sinks
from libs.common.telemetry import SpanSink, Telemetry, make_log

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def telemetry(*sinks: SpanSink) -> Telemetry:
    return Telemetry("test", make_log("test", stream=io.StringIO()), sinks)


def written(file: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


def test_a_span_is_a_line_that_names_its_trace_and_parent(tmp_path: Path) -> None:
    file = tmp_path / "made" / "spans.jsonl"
    source = telemetry(*open_sinks(file))
    with source.span("outer", PARENT, app="bu/web"), source.span("inner"):
        pass
    inner, outer = written(file)
    assert (outer["service"], outer["name"]) == ("gantry-test", "outer")
    assert outer["attributes"] == {"app": "bu/web"}
    assert (outer["trace_id"], outer["parent_id"]) == (PARENT.split("-")[1], PARENT.split("-")[2])
    assert (inner["trace_id"], inner["parent_id"]) == (outer["trace_id"], outer["span_id"])
    assert outer["start_ns"] <= inner["start_ns"] <= inner["end_ns"] <= outer["end_ns"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_two_writers_share_a_file_and_a_full_one_is_put_aside_once(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    one, other = (telemetry(SpanFile(file, max_bytes=1000)) for _ in range(2))
    names = [f"span {n}" for n in range(6)]
    for n, name in enumerate(names):
        with (one, other)[n % 2].span(name):
            pass
    kept = written(tmp_path / "spans.jsonl.1") + written(file)
    assert [each["name"] for each in kept] == names


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    with telemetry(*open_sinks(None)).span("unseen"):
        pass
    assert list(tmp_path.iterdir()) == []
