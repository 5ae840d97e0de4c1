"""Logs mask secrets and carry the trace; spans go on across processes; metrics come out."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from libs.common.telemetry import Log, Telemetry, current_traceparent, make_log

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was logged."""
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    """Where the log goes."""
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> Log:
    """A log to it."""
    return make_log("test", stream=stream)


def test_lines_are_json_with_level_service_and_time(log: Log, stream: io.StringIO) -> None:
    log.info("it happened", app="bu/web", count=3)
    log.debug("too fine")
    (line,) = lines(stream)
    assert line["event"] == "it happened"
    assert (line["level"], line["service"], line["app"], line["count"]) == (
        "info",
        "test",
        "bu/web",
        3,
    )
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "name", ["password", "db_password", "token", "Authorization", "api_key", "client_secret"]
)
def test_what_looks_like_a_secret_is_masked(log: Log, stream: io.StringIO, name: str) -> None:
    log.info("a", **{name: "hunter2"})
    log.info("b", headers={name: "hunter2", "accept": "x"}, several=[{name: "hunter2"}])
    assert "hunter2" not in stream.getvalue()
    assert lines(stream)[1]["headers"]["accept"] == "x"


def test_a_traceback_is_part_of_the_line(log: Log, stream: io.StringIO) -> None:
    try:
        raise ValueError("the reason")
    except ValueError:
        log.exception("it failed")
    (line,) = lines(stream)
    assert "the reason" in line["exception"] and "Traceback" in line["exception"]


class Sink:
    """Keeps spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def span(self, finished: ReadableSpan) -> None:
        self.spans.append(finished)


def test_a_trace_goes_on_from_a_traceparent_and_into_the_log(log: Log, stream: io.StringIO) -> None:
    sink = Sink()
    telemetry = Telemetry("test", log, (sink,))
    with telemetry.span("outer", PARENT, app="bu/web"):
        log.info("inside")
        handed_on = current_traceparent()
        with telemetry.span("inner"):
            pass
    assert current_traceparent() == ""
    assert lines(stream)[0]["trace_id"] == PARENT.split("-")[1] == handed_on.split("-")[1]
    inner, outer = sink.spans
    assert (inner.name, outer.name) == ("inner", "outer")
    assert outer.parent is not None and f"{outer.parent.span_id:016x}" == PARENT.split("-")[2]
    assert inner.parent is not None and inner.parent.span_id == outer.context.span_id
    assert dict(outer.attributes or {}) == {"app": "bu/web"}


def test_a_malformed_traceparent_begins_a_new_trace(log: Log) -> None:
    sink = Sink()
    with Telemetry("test", log, (sink,)).span("s", "not-a-traceparent"):
        pass
    assert sink.spans[0].parent is None


def test_a_trace_goes_on_through_a_service_whose_spans_nobody_takes(
    log: Log, stream: io.StringIO
) -> None:
    telemetry = Telemetry("test", log)
    with telemetry.span("outer", PARENT), telemetry.span("inner"):
        log.info("inside")
        assert current_traceparent() == PARENT
    with telemetry.span("new"):
        begun = current_traceparent()
        with telemetry.span("inner"):
            assert current_traceparent() == begun
    assert lines(stream)[0]["trace_id"] == PARENT.split("-")[1] != begun.split("-")[1]
    assert current_traceparent() == ""


def test_metrics_of_two_services_are_apart(log: Log) -> None:
    one, other = Telemetry("one", log), Telemetry("other", log)
    one.counter("things_total", "Things", "kind").labels("a").inc(3)
    other.counter("things_total", "Things", "kind").labels("a").inc()
    assert b'gantry_things_total{kind="a"} 3.0' in one.exposition()
    assert b'gantry_things_total{kind="a"} 1.0' in other.exposition()
