"""A trace through HTTP: whoever is called works in the caller's trace, by a socket and within a process alike."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from libs.common.clock import SystemClock
from libs.common.http import Access, HttpApp, Request, Response, Route, reply
from libs.common.peers import LocalServices, PeerClient
from libs.common.serve import serve
from libs.common.telemetry import Telemetry, current_traceparent, make_log
from tests.unit.common.helpers import Table


class Called:
    """A service: what it logs, and the spans that it ends."""

    def __init__(self, *, traced: bool = True) -> None:
        self.written = io.StringIO()
        self.spans: list[ReadableSpan] = []
        self.seen: list[str] = []
        log = make_log("called", stream=self.written)
        self.telemetry = Telemetry("called", log, (self,) if traced else ())
        self.app = HttpApp(
            [
                Route("GET", "/v1/things/{name}", self.handle, Access.PUBLIC),
                Route("GET", "/broken", self.breaks, Access.PUBLIC),
                Route("GET", "/healthz", self.handle, Access.PUBLIC, traced=False),
            ],
            Table({}),
            monotonic=SystemClock().monotonic,
            on_error=lambda _request, error: log.error("broken", error=str(error)),
            tracer=self.telemetry,
        )

    def span(self, finished: ReadableSpan) -> None:
        """See SpanSink."""
        self.spans.append(finished)

    async def handle(self, request: Request) -> Response:
        self.seen.append(current_traceparent())
        self.telemetry.log.info("handled", path=request.path)
        return reply({})

    async def breaks(self, request: Request) -> Response:
        raise RuntimeError("a bug")

    def logged(self) -> list[str]:
        """The trace id of each line, "" where there is none."""
        return [
            json.loads(each).get("trace_id", "") for each in self.written.getvalue().splitlines()
        ]


@asynccontextmanager
async def called_by(called: Called, how: str, tmp_path: Path) -> AsyncIterator[PeerClient]:
    """A client of the service."""
    async with AsyncExitStack() as stack:
        if how == "local":
            client = PeerClient(None, {}, LocalServices({"peer": called.app}))
        else:
            url = await stack.enter_async_context(serve(called.app, f"unix:{tmp_path}/a.sock"))
            client = PeerClient(None, {"peer": url})
        stack.push_async_callback(client.close)
        yield client


@pytest.mark.parametrize("how", ["socket", "local"])
@pytest.mark.parametrize("traced", [True, False])
async def test_a_handler_works_in_its_callers_trace(tmp_path: Path, how: str, traced: bool) -> None:
    called = Called(traced=traced)
    caller = Telemetry("caller", make_log("caller", stream=io.StringIO()), (Called(),))
    async with called_by(called, how, tmp_path) as client:
        with caller.span("asking") as asking:
            await client.call("peer", "GET", "/v1/things/one", headers={"x-request-id": "r" * 8})
            answer = await client.open("peer", "/v1/things/two")
            assert answer.status == 200
            assert (await client.call("peer", "GET", "/broken")).status == 500
        trace = f"{asking.get_span_context().trace_id:032x}"
        assert [each.split("-")[1] for each in called.seen] == [trace, trace]
        assert called.logged() == [trace] * 3
        await client.call("peer", "GET", "/v1/things/three")  # of nobody's trace: one of its own
        assert called.logged()[-1] not in ("", trace)
    if traced:
        names = ["GET /v1/things/{name}"] * 2 + ["GET /broken"] + ["GET /v1/things/{name}"]
        assert [each.name for each in called.spans] == names
        parents = [each.parent.span_id if each.parent else 0 for each in called.spans]
        assert parents == [asking.get_span_context().span_id] * 3 + [0]
        assert dict(called.spans[0].attributes or {}) == {"request_id": "r" * 8, "status": 200}
        assert dict(called.spans[2].attributes or {}) == {"status": 500}


async def test_what_is_asked_all_the_time_has_no_span(tmp_path: Path) -> None:
    called = Called()
    async with called_by(called, "socket", tmp_path) as client:
        await client.call("peer", "GET", "/healthz")
        await client.call("peer", "GET", "/nothing")
    assert called.seen == [""] and not called.spans
