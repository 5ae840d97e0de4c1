"""Behaviour of a cluster in virtual time, seen through the scheduler API (facts 1-13)."""

from __future__ import annotations

import base64

import orjson
import pytest

from libs.minimesos.config import MasterConfig
from tests.unit.minimesos.support import (
    FRAMEWORK,
    Json,
    VirtualCluster,
    executor_task,
    launch_call,
    partition_aware,
    scalars,
    task,
)


def test_a_subscription_begins_with_subscribed_heartbeat_offers() -> None:
    """And heartbeats go on every 15 s."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    assert [e["type"] for e in client.events] == ["SUBSCRIBED", "HEARTBEAT", "OFFERS"]
    subscribed = client.of("SUBSCRIBED")[0]
    assert subscribed["heartbeat_interval_seconds"] == 15.0
    assert client.framework_id["value"].endswith("-0000")
    assert subscribed["master_info"]["capabilities"] == [
        {"type": "AGENT_UPDATE"},
        {"type": "AGENT_DRAINING"},
        {"type": "QUOTA_V2"},
    ]
    (offer,) = client.offers()
    assert offer["id"]["value"].endswith("-O0")
    assert offer["agent_id"]["value"].endswith("-S0")
    assert [r["name"] for r in offer["resources"]] == ["ports", "cpus", "mem", "disk"]
    cluster.advance(46)
    assert len(client.of("HEARTBEAT")) == 4


def test_a_task_runs_to_its_end() -> None:
    """STARTING, RUNNING, FINISHED; the next update only after the acknowledgement."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    client.launch([task("t1", client.offers()[0]["agent_id"], "sleep 10")])
    assert client.states("t1") == ["TASK_STARTING"]
    client.acknowledge_all()
    cluster.advance(10)
    client.acknowledge_all()
    assert client.states("t1") == ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]
    last = client.statuses("t1")[-1]
    assert last["message"] == "Command exited with status 0"
    assert len(base64.b64decode(last["uuid"])) == 16
    cluster.advance(2)
    offered = client.offers()[-1]["resources"]
    assert {r["name"] for r in offered} >= {"cpus", "mem"}
    assert not cluster.operator("GET_TASKS")["tasks"]


def test_an_unacknowledged_update_is_repeated_with_its_uuid() -> None:
    """After 10 s, then 20 s."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    client.launch([task("t1", client.offers()[0]["agent_id"])])
    cluster.advance(9.9)
    assert len(client.statuses("t1")) == 1
    cluster.advance(0.2)
    assert len(client.statuses("t1")) == 2
    cluster.advance(20)
    uuids = {s["uuid"] for s in client.statuses("t1")}
    assert len(client.statuses("t1")) == 3
    assert len(uuids) == 1


def test_reconciliation_tells_the_unacknowledged_state() -> None:
    """Fact 12, and the answers for tasks that nobody knows."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    aware = cluster.subscribe(partition_aware())
    agent_id = client.offers()[0]["agent_id"]
    client.launch([task("t1", agent_id)])
    client.call({"type": "RECONCILE", "reconcile": {"tasks": []}})
    answer = client.statuses("t1")[-1]
    assert answer["state"] == "TASK_STARTING"
    assert answer["reason"] == "REASON_RECONCILIATION"
    assert answer["message"] == "Reconciliation: Latest task state"
    assert "uuid" not in answer
    asked = [
        {"task_id": {"value": "a"}},
        {"task_id": {"value": "b"}, "agent_id": agent_id},
        {"task_id": {"value": "c"}, "agent_id": {"value": "bogus-S9"}},
    ]
    for recorder, states in (
        (client, ["TASK_LOST"] * 3),
        (aware, ["TASK_UNKNOWN", "TASK_GONE", "TASK_UNKNOWN"]),
    ):
        recorder.call({"type": "RECONCILE", "reconcile": {"tasks": asked}})
        assert [recorder.states(name)[-1] for name in "abc"] == states
        assert recorder.statuses("b")[-1]["message"].endswith("unknown to the agent")


def test_killing() -> None:
    """A running task, and one that does not exist."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    client.launch([task("t1", client.offers()[0]["agent_id"])])
    client.acknowledge_all()
    client.call({"type": "KILL", "kill": {"task_id": {"value": "t1"}}})
    client.acknowledge_all()
    assert client.states("t1")[-1] == "TASK_KILLED"
    client.call({"type": "KILL", "kill": {"task_id": {"value": "ghost"}}})
    assert client.states("ghost") == ["TASK_LOST"]


@pytest.mark.parametrize(
    ("refuse_s", "next_offer_s"), [(0.0, 1.0), (0.5, 2.0), (2.0, 3.0), (5.0, 6.0), (-1.0, 6.0)]
)
def test_a_declined_offer_returns_with_the_batch_after_its_filter(
    refuse_s: float, next_offer_s: float
) -> None:
    """Timing of fact 9, declined right after a batch."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    cluster.advance(1.01)
    offer = client.offers()[0]
    body = {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": refuse_s}}
    client.call({"type": "DECLINE", "decline": body})
    cluster.advance(next_offer_s - 0.05)
    assert len(client.offers()) == 1
    cluster.advance(0.1)
    assert len(client.offers()) == 2


def test_revive_and_suppress() -> None:
    """REVIVE clears filters at once; SUPPRESS holds until then."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    body = {"offer_ids": [client.offers()[0]["id"]], "filters": {"refuse_seconds": 1000}}
    client.call({"type": "DECLINE", "decline": body})
    cluster.advance(5)
    assert len(client.offers()) == 1
    client.call({"type": "SUPPRESS"})
    client.call({"type": "REVIVE"})
    assert len(client.offers()) == 2


def test_offers_expire_when_the_master_is_told_so() -> None:
    """--offer_timeout: RESCIND, offered again, the old id is no longer valid."""
    cluster = VirtualCluster(master=MasterConfig(offer_timeout_s=5))
    client = cluster.subscribe()
    offer = client.offers()[0]
    cluster.advance(5)
    assert client.of("RESCIND") == [{"offer_id": offer["id"]}]
    client.call(launch_call(offer, [task("t1", offer["agent_id"])]))
    status = client.statuses("t1")[0]
    assert status["state"] == "TASK_LOST"
    assert status["reason"] == "REASON_INVALID_OFFERS"
    assert status["message"].endswith("is no longer valid")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"task_id": {"value": "b/9"}}, "'b/9' contains invalid characters"),
        ({"task_id": {"value": ""}}, "ID must not be empty"),
        ({"agent_id": {"value": "zzz"}}, "Task uses invalid agent zzz while agent"),
        ({"resources": []}, "Task uses no resources"),
        ({"resources": scalars(100)}, "required by task and its executor is more than available"),
        ({"command": None}, "Task should have at least one (but not both) of CommandInfo"),
        ({"resources": scalars(-1)}, "Resource 'cpus:-1' is invalid"),
    ],
)
def test_tasks_that_cannot_be_launched(change: Json, text: str) -> None:
    """TASK_ERROR with Mesos' words; valid siblings run."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    agent_id = client.offers()[0]["agent_id"]
    bad = {**task("bad", agent_id), **change}
    client.launch([bad, task("good", agent_id)])
    errors = [u["status"] for u in client.of("UPDATE") if u["status"]["state"] == "TASK_ERROR"]
    (error,) = errors
    assert error["reason"] == "REASON_TASK_INVALID"
    assert text in error["message"]
    client.acknowledge_all()
    assert client.states("good")[-1] == "TASK_RUNNING"


def test_an_id_in_use_is_refused_and_a_terminal_one_may_be_used_again() -> None:
    """Within one launch and over time."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    agent_id = client.offers()[0]["agent_id"]
    client.launch([task("t", agent_id, "sleep 3"), task("t", agent_id, "sleep 3")])
    assert "Task has duplicate ID: t" in [s.get("message") for s in client.statuses("t")]
    client.acknowledge_all()
    cluster.advance(4)
    client.acknowledge_all()
    cluster.advance(1)
    client.launch([task("t", agent_id, "sleep 3")])
    client.acknowledge_all()
    assert client.states("t")[-2:] == ["TASK_STARTING", "TASK_RUNNING"]


def test_another_executor_under_the_same_id_is_an_error() -> None:
    """With both ExecutorInfos in text format."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    agent_id = client.offers()[0]["agent_id"]
    client.launch([executor_task("x1", agent_id)])
    client.acknowledge_all()
    cluster.advance(1)
    client.launch([executor_task("x2", agent_id, command="something else")])
    error = client.statuses("x2")[0]
    assert error["state"] == "TASK_ERROR"
    assert error["message"].startswith("ExecutorInfo is not compatible with existing ExecutorInfo")
    assert 'value: "something else"' in error["message"]
    cluster.advance(1)
    assert client.offers()[-1]["executor_ids"] == [{"value": "e1"}]


def test_a_group_is_launched_whole_or_not_at_all() -> None:
    """REASON_TASK_GROUP_INVALID for all."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    offer = client.offers()[0]
    executor = {
        "type": "DEFAULT",
        "executor_id": {"value": "g"},
        "resources": [*scalars(), {"name": "disk", "type": "SCALAR", "scalar": {"value": 10}}],
    }
    tasks = [task("a", offer["agent_id"]), {**task("b", offer["agent_id"])}]
    tasks[1]["resources"] = scalars(100)

    def launch(group: list[Json]) -> None:
        body = {"executor": executor, "task_group": {"tasks": group}}
        operation = {"type": "LAUNCH_GROUP", "launch_group": body}
        call = launch_call(client.offers()[-1], [])
        call["accept"]["operations"] = [operation]
        assert client.call(call).status == 202

    launch(tasks)
    assert [client.states(name) for name in "ab"] == [["TASK_ERROR"]] * 2
    assert client.statuses("a")[0]["reason"] == "REASON_TASK_GROUP_INVALID"
    cluster.advance(1)
    tasks[1]["resources"] = scalars()
    launch(tasks)
    client.acknowledge_all()
    assert [client.states(name)[-1] for name in "ab"] == ["TASK_RUNNING"] * 2


def test_failover_keeps_id_and_tasks() -> None:
    """The old stream ends with an ERROR; calls need the new stream id (facts 7, 8)."""
    cluster = VirtualCluster()
    first = cluster.subscribe()
    first.launch([task("t1", first.offers()[0]["agent_id"])])
    first.acknowledge_all()
    second = cluster.subscribe(framework_id=first.framework_id)
    assert first.of("ERROR") == [{"message": "Framework failed over"}]
    assert first.ended
    assert second.framework_id == first.framework_id
    assert first.call({"type": "REVIVE"}).status == 400
    second.call({"type": "RECONCILE", "reconcile": {"tasks": []}})
    assert second.states("t1") == ["TASK_RUNNING"]


def test_a_framework_that_stays_away_is_removed() -> None:
    """After failover_timeout: its tasks end, its id is refused."""
    cluster = VirtualCluster()
    operator = cluster.watch()
    client = cluster.subscribe({**FRAMEWORK, "failover_timeout": 20})
    client.launch([task("t1", client.offers()[0]["agent_id"])])
    assert client.response is not None
    assert client.response.stream is not None
    cluster.local.disconnect(client.response.stream, cluster.now)
    assert client.call({"type": "REVIVE"}).status == 403
    cluster.advance(19)
    assert not operator.of("FRAMEWORK_REMOVED")
    cluster.advance(2)
    assert operator.of("FRAMEWORK_REMOVED")
    assert operator.of("TASK_UPDATED")[-1]["state"] == "TASK_KILLED"
    again = cluster.subscribe(framework_id=client.framework_id)
    assert again.of("ERROR") == [{"message": "Framework has been removed"}]
    assert again.ended


def test_an_update_waits_for_a_disconnected_framework() -> None:
    """It comes right after the new subscription."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    client.launch([task("t1", client.offers()[0]["agent_id"], "sleep 5")])
    client.acknowledge_all()
    assert client.response is not None
    assert client.response.stream is not None
    cluster.local.disconnect(client.response.stream, cluster.now)
    cluster.advance(8)
    back = cluster.subscribe(framework_id=client.framework_id)
    assert back.states("t1") == ["TASK_FINISHED"]


def test_teardown_ends_everything() -> None:
    """Stream, tasks, and later calls."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    client.launch([task("t1", client.offers()[0]["agent_id"])])
    assert client.call({"type": "TEARDOWN"}).status == 202
    assert client.ended
    response = client.call({"type": "REVIVE"})
    assert (response.status, response.body) == (400, b"Framework cannot be found")
    assert cluster.get("/state")["frameworks"] == []
    other = cluster.subscribe()
    assert sum(r["scalar"]["value"] for r in other.offers()[-1]["resources"][1:2]) == 4.0


def test_messages_are_compact_json_bytes() -> None:
    """No spaces, doubles with `.0`."""
    cluster = VirtualCluster()
    raw: list[bytes] = []

    class Sink:
        def record(self, data: bytes) -> None:
            raw.append(data)

        def closed(self) -> None:
            pass

    body = orjson.dumps({"type": "SUBSCRIBE", "subscribe": {"framework_info": FRAMEWORK}})
    cluster.local.master(cluster.now, "POST", "/api/v1/scheduler", body, sink=Sink())
    assert raw[1] == b'{"type":"HEARTBEAT"}'
    assert b'"heartbeat_interval_seconds":15.0' in raw[0]
    assert all(orjson.dumps(orjson.loads(data)) == data for data in raw)
