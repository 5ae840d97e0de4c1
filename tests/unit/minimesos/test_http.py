"""Error texts, endpoints and authentication (facts 5, 6, 20), without sockets and with them."""

from __future__ import annotations

import asyncio
import base64
import gzip
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from libs.minimesos.config import MasterConfig
from libs.minimesos.local import Response
from libs.minimesos.units import words
from tests.unit.minimesos.support import (
    FRAMEWORK,
    Json,
    VirtualCluster,
    launch_call,
    minimesos,
    task,
)

SCHEDULER = "/api/v1/scheduler"
BAD_TYPE = "Expecting 'Content-Type' of application/json or application/x-protobuf"
BAD_ACCEPT = "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'"


def text(response: Response) -> tuple[int, str]:
    """Status and body."""
    return response.status, response.body.decode()


@pytest.mark.parametrize(
    ("method", "headers", "body", "expected"),
    [
        ("GET", {}, b"", (405, "405 Method Not Allowed. Expecting one of { 'POST' },"
                               " but received 'GET'.")),
        ("POST", {"Content-Type": "text/plain"}, b"{}", (415, BAD_TYPE)),
        ("POST", {"Content-Type": "application/json; charset=utf-8"}, b"{}", (415, BAD_TYPE)),
        ("POST", {"Content-Type": "application/x-protobuf"}, b"\x08\x01", (415, BAD_TYPE)),
        ("POST", {}, b'{"type": ', (400, "Failed to parse body into JSON:"
                                         " syntax error at line 1 near: ")),
        ("POST", {}, b"", (400, "Failed to parse body into JSON: syntax error at line 1 near: ")),
        ("POST", {}, b"[]", (400, "Failed to convert JSON into Call protobuf:"
                                  " Expecting a JSON object")),
        ("POST", {}, b"{}", (400, "Failed to validate scheduler::Call:"
                                  " Expecting 'type' to be present")),
        ("POST", {}, b'{"type":"SUBSCRIBE"}', (400, "Failed to validate scheduler::Call:"
                                                    " Expecting 'subscribe' to be present")),
        ("POST", {}, b'{"type":"REVIVE"}', (400, "Failed to validate scheduler::Call:"
                                                 " Expecting 'framework_id' to be present")),
        ("POST", {}, b'{"type":"REVIVE","framework_id":{"value":"x"}}',
         (400, "Framework cannot be found")),
    ],
)  # fmt: skip
def test_refused_scheduler_calls(
    method: str, headers: dict[str, str], body: bytes, expected: tuple[int, str]
) -> None:
    """Recorded texts."""
    cluster = VirtualCluster()
    response = cluster.local.master(cluster.now, method, SCHEDULER, body, headers)
    assert text(response) == expected
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    if method == "GET":
        assert response.headers["Allow"] == "POST"


def test_accept_is_looked_at_for_subscribe_only() -> None:
    """406."""
    cluster = VirtualCluster()
    info = {"type": "SUBSCRIBE", "subscribe": {"framework_info": FRAMEWORK}}
    raw = orjson.dumps(info)
    for accept in ("text/plain", "application/x-protobuf"):
        headers = {"Accept": accept}
        response = cluster.local.master(cluster.now, "POST", SCHEDULER, raw, headers)
        assert text(response) == (406, BAD_ACCEPT)
    client = cluster.subscribe()
    assert client.response is not None
    stream = client.response.headers["Mesos-Stream-Id"]
    headers = {"Accept": "text/plain", "Mesos-Stream-Id": stream}
    call = {"type": "REVIVE", "framework_id": client.framework_id}
    assert cluster.post(SCHEDULER, call, headers).status == 202


def test_stream_ids() -> None:
    """Missing, wrong, and where none belongs."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    call = {"type": "REVIVE", "framework_id": client.framework_id}
    missing = "All non-subscribe calls should include the 'Mesos-Stream-Id' header"
    assert text(cluster.post(SCHEDULER, call)) == (400, missing)
    wrong = cluster.post(SCHEDULER, call, {"Mesos-Stream-Id": "x"})
    assert text(wrong) == (
        400,
        "The stream ID 'x' included in this request didn't match the stream ID currently"
        f" associated with framework ID {client.framework_id['value']}",
    )
    info = {"type": "SUBSCRIBE", "subscribe": {"framework_info": FRAMEWORK}}
    given = cluster.post(SCHEDULER, info, {"Mesos-Stream-Id": "x"})
    assert text(given)[1] == "Subscribe calls should not include the 'Mesos-Stream-Id' header"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"capabilities": []},
            "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable",
        ),
        (
            {"role": "a", "roles": []},
            "'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable",
        ),
        (
            {"capabilities": [], "roles": [], "role": "../a"},
            "'FrameworkInfo.role' is not a valid role:"
            " Role '../a' cannot include '..' as a component",
        ),
    ],
)
def test_semantic_errors_are_events(change: Json, message: str) -> None:
    """200, one ERROR, end of stream."""
    cluster = VirtualCluster()
    info = {**FRAMEWORK, **change}
    client = cluster.subscribe({k: v for k, v in info.items() if v != []})
    assert client.events == [{"type": "ERROR", "error": {"message": message}}]
    assert client.ended


def test_suppressed_roles_must_be_the_frameworks_own() -> None:
    """As recorded."""
    cluster = VirtualCluster()
    body = {"framework_info": FRAMEWORK, "suppressed_roles": ["b"]}
    events: list[bytes] = []

    class Sink:
        def record(self, data: bytes) -> None:
            events.append(data)

        def closed(self) -> None:
            events.append(b"end")

    raw = orjson.dumps({"type": "SUBSCRIBE", "subscribe": body})
    cluster.local.master(cluster.now, "POST", SCHEDULER, raw, sink=Sink())
    message = "Suppressed roles { b } are not contained in the set of roles"
    assert events == [orjson.dumps({"type": "ERROR", "error": {"message": message}}), b"end"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/master/health", 200),
        ("/version", 200),
        ("/state", 200),
        ("/master/state", 200),
        ("/state.json", 404),
        ("/state-summary", 200),
        ("/slaves", 200),
        ("/frameworks", 200),
        ("/tasks", 200),
        ("/roles", 200),
        ("/flags", 200),
        ("/metrics/snapshot", 200),
        ("/maintenance/schedule", 200),
        ("/maintenance/status", 200),
        ("/system/stats.json", 200),
        ("/nope", 404),
        ("/redirect", 307),
        ("/master/redirect", 307),
    ],
)
def test_endpoints_of_the_master(path: str, status: int) -> None:
    """With and without `/master`."""
    cluster = VirtualCluster()
    response = cluster.local.master(cluster.now, "GET", path)
    assert response.status == status
    if status == 404:
        assert response.body == b"404 Not Found."
    if status == 307:
        assert response.headers["Location"] == "//127.0.0.1:5050"
    if path.endswith("health"):
        assert response.body == b""


def test_endpoints_of_the_agent() -> None:
    """Also below /slave(1); what is the master's is not there."""
    cluster = VirtualCluster()
    for path, status in (
        ("/state", 200),
        ("/slave(1)/state", 200),
        ("/containers", 200),
        ("/monitor/statistics", 200),
        ("/metrics/snapshot", 200),
        ("/flags", 200),
        ("/redirect", 404),
        ("/monitor/statistics.json", 404),
    ):
        assert cluster.local.agent(0, cluster.now, "GET", path).status == status, path


def test_jsonp_and_gzip() -> None:
    """Small bodies stay as they are."""
    cluster = VirtualCluster()
    now = cluster.now
    plain = cluster.local.master(now, "GET", "/version").body
    wrapped = cluster.local.master(now, "GET", "/version?jsonp=cb")
    assert wrapped.body == b"cb(" + plain + b")"
    assert wrapped.headers["Content-Type"] == "text/javascript"
    headers = {"Accept-Encoding": "gzip, deflate"}
    small = cluster.local.master(now, "GET", "/version", headers=headers)
    assert "Content-Encoding" not in small.headers
    big = cluster.local.master(now, "GET", "/state", headers=headers)
    assert big.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(big.body) == cluster.local.master(now, "GET", "/state").body


def test_a_master_that_does_not_lead() -> None:
    """503, except for what says so itself."""
    cluster = VirtualCluster(agents=0, master=MasterConfig(elected=False))
    for path in ("/state", "/slaves", "/redirect"):
        response = cluster.local.master(cluster.now, "GET", path)
        assert text(response) == (503, "No leader elected")
    for path in ("/health", "/version", "/metrics/snapshot"):
        assert cluster.local.master(cluster.now, "GET", path).status == 200
    assert cluster.get("/metrics/snapshot")["master/elected"] == 0.0
    assert text(cluster.post("/api/v1", {"type": "GET_AGENTS"})) == (503, "No leader elected")


def test_a_standby_sends_its_askers_to_the_leader() -> None:
    """307 to the same path there, except for what it can answer itself."""
    cluster = VirtualCluster(agents=0, master=MasterConfig(leader="10.0.0.1:5050"))
    for path, there in (
        ("/redirect", ""),
        ("/master/redirect", ""),
        ("/state", "/state"),
        ("/slaves?slave_id=S1", "/slaves?slave_id=S1"),
    ):
        response = cluster.local.master(cluster.now, "GET", path)
        assert (response.status, response.headers["Location"]) == (307, f"//10.0.0.1:5050{there}")
    assert cluster.local.master(cluster.now, "GET", "/health").status == 200
    assert cluster.get("/metrics/snapshot")["master/elected"] == 0.0
    asked = cluster.post("/api/v1/scheduler", {"type": "SUBSCRIBE"})
    assert asked.status == 307 and asked.headers["Location"].endswith("/api/v1/scheduler")


def test_basic_authentication() -> None:
    """Realms, principals, open endpoints."""
    config = MasterConfig(
        credentials={"pr": "se"},
        authenticate_http_frameworks=True,
        authenticate_http_readonly=True,
        authenticate_http_readwrite=True,
    )
    cluster = VirtualCluster(agents=0, master=config)
    good = {"Authorization": "Basic " + base64.b64encode(b"pr:se").decode()}
    bad = {"Authorization": "Basic " + base64.b64encode(b"pr:bad").decode()}
    for headers in ({}, bad):
        response = cluster.local.master(cluster.now, "GET", "/state", headers=headers)
        assert text(response) == (401, "401 Unauthorized.")
        assert response.headers["WWW-Authenticate"] == 'Basic realm="mesos-master-readonly"'
    assert cluster.local.master(cluster.now, "GET", "/state", headers=good).status == 200
    assert cluster.local.master(cluster.now, "GET", "/health").status == 200
    call = {"type": "SUBSCRIBE", "subscribe": {"framework_info": {**FRAMEWORK, "principal": "o"}}}
    response = cluster.post(SCHEDULER, call, good)
    assert text(response)[1].endswith(
        "Authenticated principal 'pr' does not match principal 'o' set in `FrameworkInfo`"
    )
    challenge = cluster.post(SCHEDULER, call).headers["WWW-Authenticate"]
    assert challenge == 'Basic realm="mesos-master-scheduler"'
    operator = cluster.post("/api/v1", {"type": "GET_HEALTH"})
    assert operator.headers["WWW-Authenticate"] == 'Basic realm="mesos-master-readwrite"'


# Telegraf's mesos input drops groups by these names; all of them must be there.
MASTER_KEYS = words(
    "cpus_percent cpus_used cpus_total cpus_revocable_percent gpus_total mem_percent disk_used "
    "elected uptime_secs slave_registrations slave_removals slave_reregistrations slaves_active "
    "slaves_inactive slaves_connected slaves_disconnected slaves_unreachable frameworks_active "
    "frameworks_connected frameworks_disconnected frameworks_inactive outstanding_offers "
    "tasks_error tasks_failed tasks_finished tasks_killed tasks_lost tasks_running "
    "tasks_staging tasks_starting tasks_dropped tasks_gone tasks_gone_by_operator tasks_killing "
    "tasks_unreachable invalid_status_updates messages_decline_offers messages_status_update "
    "valid_status_updates event_queue_dispatches event_queue_http_requests event_queue_messages"
)


def test_metrics_have_the_keys_monitoring_knows() -> None:
    """All floats."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    client.launch([task("t1", client.offers()[0]["agent_id"])])
    client.acknowledge_all()
    metrics = cluster.get("/metrics/snapshot")
    assert all(isinstance(value, float) for value in metrics.values())
    missing = [key for key in MASTER_KEYS if f"master/{key}" not in metrics]
    assert not missing
    for key in ("system/cpus_total", "system/mem_total_bytes", "registrar/registry_size_bytes"):
        assert key in metrics
    assert any(key.startswith("allocator/") for key in metrics)
    assert metrics["master/tasks_running"] == 1
    assert metrics["master/cpus_used"] == 0.1
    agent = orjson.loads(cluster.local.agent(0, cluster.now, "GET", "/metrics/snapshot").body)
    for key in ("registered", "cpus_total", "tasks_running", "executors_running", "mem_percent"):
        assert f"slave/{key}" in agent
    assert agent["slave/registered"] == 1


def test_the_operator_stream() -> None:
    """SUBSCRIBED with the state, then events; other media types are refused."""
    cluster = VirtualCluster()
    operator = cluster.watch()
    assert set(operator.of("SUBSCRIBED")[0]["get_state"]) == {
        "get_tasks",
        "get_executors",
        "get_frameworks",
        "get_agents",
    }
    client = cluster.subscribe()
    client.launch([task("t1", client.offers()[0]["agent_id"])])
    client.acknowledge_all()
    kinds = [e["type"] for e in operator.events if e["type"] != "HEARTBEAT"]
    assert kinds == [
        "SUBSCRIBED",
        "FRAMEWORK_ADDED",
        "TASK_ADDED",
        "TASK_UPDATED",
        "TASK_UPDATED",
    ]
    update = operator.of("TASK_UPDATED")[0]
    # The status is the update's, the state the latest one known.
    assert update["status"]["state"] == "TASK_STARTING"
    assert set(update) == {"framework_id", "status", "state"}
    raw = b'{"type":"SUBSCRIBE"}'
    headers = {"Accept": "application/recordio"}
    response = cluster.local.master(cluster.now, "POST", "/api/v1", raw, headers)
    assert text(response) == (406, BAD_ACCEPT)


async def test_on_the_wire() -> None:
    """Headers, chunks and records of a real socket."""
    async with minimesos("all", "--port=0", "--agent_port=0", "--virtual") as process:
        address = urlsplit(process.master)
        assert address.hostname is not None
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        body = orjson.dumps({"type": "SUBSCRIBE", "subscribe": {"framework_info": FRAMEWORK}})
        head = (
            f"POST {SCHEDULER} HTTP/1.1\r\nHost: x\r\ncontent-type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        raw = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = raw.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert status == "HTTP/1.1 200 OK"
        assert set(headers) == {"Date", "Transfer-Encoding", "Mesos-Stream-Id", "Content-Type"}
        records: list[Any] = []
        for _ in range(3):
            size = int(await reader.readline(), 16)
            chunk = (await reader.readexactly(size + 2))[:-2]
            length, _, data = chunk.partition(b"\n")
            assert int(length) == len(data), "one record a chunk"
            records.append(orjson.loads(data))
        assert [r["type"] for r in records] == ["SUBSCRIBED", "HEARTBEAT", "OFFERS"]
        async with aiohttp.ClientSession() as session:
            (offer,) = records[2]["offers"]["offers"]
            call = launch_call(offer, [task("t1", offer["agent_id"])])
            call["framework_id"] = records[0]["subscribed"]["framework_id"]
            given = {"Mesos-Stream-Id": headers["Mesos-Stream-Id"]}
            async with session.post(process.master + SCHEDULER, json=call, headers=given) as r:
                assert r.status == 202
                assert set(r.headers) == {"Date", "Content-Length"}
        writer.close()
