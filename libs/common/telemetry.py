"""Logs, traces and metrics of one service.

Logs are JSON lines (structlog) with the trace id; values under names that look like secrets are masked. Traces
are OpenTelemetry's; the context travels as `traceparent` in HTTP headers and event headers. Metrics are
prometheus-client's, one registry a service.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

import structlog
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from libs.common.logfile import LogStream

_SECRET_WORDS = ("secret", "password", "token", "authorization", "api_key", "credential")
_PROPAGATOR = TraceContextTextMapPropagator()
_STDERR = LogStream()


class Log(Protocol):
    """A structured logger: an event in plain words, and values by name."""

    def debug(self, event: str, **values: Any) -> Any: ...
    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...
    def error(self, event: str, **values: Any) -> Any: ...
    def exception(self, event: str, **values: Any) -> Any: ...


def _mask(_logger: Any, _method: str, values: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in values.items():
        values[name] = _masked(name, value)
    return values


def _masked(name: str, value: Any) -> Any:
    if any(word in name.lower() for word in _SECRET_WORDS):
        return "***"
    if isinstance(value, Mapping):
        return {each: _masked(str(each), inner) for each, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked("", inner) for inner in value]
    return value


def _trace_id(
    _logger: Any, _method: str, values: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        values["trace_id"] = f"{context.trace_id:032x}"
    return values


def make_log(
    service: str, *, stream: TextIO | None = None, level: str = "info", **bound: Any
) -> Log:
    """A logger of JSON lines to `stream` (default: standard error). A line that can't be written is lost."""
    logger: Log = structlog.wrap_logger(
        structlog.WriteLogger(LogStream(stream) if stream else _STDERR),  # type: ignore[arg-type]
        processors=[
            structlog.processors.add_log_level,
            _trace_id,
            _mask,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        service=service,
        **bound,
    )
    return logger


class SpanSink(Protocol):
    """Where finished spans go."""

    def span(self, finished: ReadableSpan) -> None:
        """Take one span; must not block."""
        ...


class _SinkExporter(SpanExporter):
    def __init__(self, sink: SpanSink) -> None:
        self._sink = sink

    def export(self, spans: Any) -> SpanExportResult:
        for each in spans:
            self._sink.span(each)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        return None


class Telemetry:
    """What a service reports about itself."""

    def __init__(self, service: str, log: Log, sinks: tuple[SpanSink, ...] = ()) -> None:
        self.service = service
        self.log = log
        self.registry = CollectorRegistry()
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": f"gantry-{service}"}), shutdown_on_exit=False
        )
        self.traced = bool(sinks)  # does anybody take the spans
        for sink in sinks:
            self._provider.add_span_processor(SimpleSpanProcessor(_SinkExporter(sink)))
        self._tracer = self._provider.get_tracer("gantry")
        self.http_seconds = Histogram(
            "gantry_http_request_seconds",
            "Time to answer, by route template",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.events_handled = Counter(
            "gantry_events_handled_total",
            "Events handled, by topic and outcome",
            ("topic", "outcome"),
            registry=self.registry,
        )

        self.lags: dict[str, int] = {}  # by consumer group
        self._lag = self.gauge("consumer_lag", "Events a group has yet to handle", "group")
        self._largest_lag = self.gauge(
            "consumer_lag_largest", "The same of its partition that has most", "group"
        )

    def lagging(self, group: str, by_partition: Collection[int]) -> None:
        """Say how far behind a consumer group is."""
        self.lags[group] = sum(by_partition)
        self._lag.labels(group).set(self.lags[group])
        self._largest_lag.labels(group).set(max(by_partition, default=0))

    @contextmanager
    def span(self, name: str, traceparent: str = "", **attributes: Any) -> Iterator[trace.Span]:
        """A span under `traceparent`, or under the current one when that is empty."""
        parent = _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
        if not self.traced:
            with self._unseen(parent) as unseen:
                yield unseen
            return
        with self._tracer.start_as_current_span(
            name, context=parent, attributes=attributes, record_exception=False
        ) as span:
            yield span

    @contextmanager
    def _unseen(self, parent: Context | None) -> Iterator[trace.Span]:
        """A span that nobody takes is an id of its trace: for the log, and for whoever goes on with it elsewhere."""
        span = trace.get_current_span(parent)
        if not span.get_span_context().is_valid:
            ids, flags = self._provider.id_generator, trace.TraceFlags(trace.TraceFlags.SAMPLED)
            begun = trace.SpanContext(ids.generate_trace_id(), ids.generate_span_id(), False, flags)
            span = trace.NonRecordingSpan(begun)
        token = context.attach(trace.set_span_in_context(span, parent))
        try:
            yield span
        finally:
            context.detach(token)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter in this service's registry; `name` without prefix."""
        return Counter(f"gantry_{name}", text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge in this service's registry; `name` without prefix."""
        return Gauge(f"gantry_{name}", text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, *labels: str) -> Histogram:
        """A histogram in this service's registry; `name` without prefix."""
        return Histogram(f"gantry_{name}", text, labels, registry=self.registry)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def current_traceparent() -> str:
    """The W3C traceparent of the current span, or ""."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")
