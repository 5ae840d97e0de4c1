"""Agents that die, hang, return, leave, drain; masters that die (facts 12, 16-19)."""

from __future__ import annotations

import pytest

from libs.minimesos.config import MasterConfig
from tests.unit.minimesos.support import (
    FRAMEWORK,
    Json,
    Recorder,
    VirtualCluster,
    partition_aware,
    task,
)

AWARE = partition_aware({**FRAMEWORK, "roles": ["p"]})
PLAIN = {**FRAMEWORK, "roles": ["l"]}


def running(cluster: VirtualCluster, info: Json, name: str) -> Recorder:
    """A framework with one running task; it wants no more offers."""
    client = cluster.subscribe(info)
    cluster.advance(1)
    client.launch([task(name, client.offers()[-1]["agent_id"])])
    client.acknowledge_all()
    client.call({"type": "SUPPRESS"})
    return client


def test_a_checkpointed_task_survives_its_agent() -> None:
    """Back in time: RESCIND and nothing else."""
    cluster = VirtualCluster()
    client = running(cluster, AWARE, "t1")
    client.call({"type": "REVIVE"})
    before = client.states("t1")
    cluster.local.crash_agent(0, cluster.now)
    assert len(client.of("RESCIND")) == 1
    cluster.advance(5)
    cluster.local.start_agent(0, cluster.now)
    cluster.advance(60)
    assert client.states("t1") == before
    assert not client.of("FAILURE")
    client.call({"type": "KILL", "kill": {"task_id": {"value": "t1"}}})
    assert client.states("t1")[-1] == "TASK_KILLED"


@pytest.mark.parametrize("how", ["crash", "hang"])
def test_an_unreachable_agent(how: str) -> None:
    """After ping_timeout x (max + 1/2): UNREACHABLE or LOST, FAILURE; RUNNING when it returns."""
    cluster = VirtualCluster()
    operator = cluster.watch()
    aware, plain = running(cluster, AWARE, "p1"), running(cluster, PLAIN, "l1")
    agent_id = aware.statuses("p1")[0]["agent_id"]
    if how == "crash":
        cluster.local.crash_agent(0, cluster.now)
    else:
        cluster.local.hang_agent(0, True, cluster.now)
    cluster.advance(8.9)
    assert aware.states("p1")[-1] == "TASK_RUNNING"
    cluster.advance(3.2)
    status = aware.statuses("p1")[-1]
    assert status["state"] == "TASK_UNREACHABLE"
    assert status["reason"] == "REASON_AGENT_REMOVED"
    assert status["message"] == "health check timed out"
    assert "unreachable_time" in status
    assert plain.states("l1")[-1] == "TASK_LOST"
    assert aware.of("FAILURE") == plain.of("FAILURE") == [{"agent_id": agent_id}]
    assert not operator.of("AGENT_REMOVED")
    tasks = cluster.operator("GET_TASKS")
    assert [t["state"] for t in tasks["unreachable_tasks"]] == ["TASK_UNREACHABLE", "TASK_LOST"]
    asked = {"tasks": [{"task_id": {"value": "p1"}, "agent_id": agent_id}]}
    aware.call({"type": "RECONCILE", "reconcile": asked})
    assert aware.states("p1")[-1] == "TASK_UNREACHABLE"
    if how == "crash":
        cluster.local.start_agent(0, cluster.now)
    else:
        cluster.local.hang_agent(0, False, cluster.now)
    cluster.advance(1)
    for client, name in ((aware, "p1"), (plain, "l1")):
        status = client.statuses(name)[-1]
        assert status["state"] == "TASK_RUNNING"
        assert status["reason"] == "REASON_AGENT_REREGISTERED"
        assert status["message"] == "Unreachable agent re-reregistered"
    assert len(operator.of("AGENT_ADDED")) == 1
    assert len(cluster.operator("GET_TASKS")["tasks"]) == 2


def test_without_checkpoint_tasks_are_lost_at_once() -> None:
    """Fact 17, also when the agent itself lives on: it must kill what was given up."""
    cluster = VirtualCluster()
    client = running(cluster, {**PLAIN, "checkpoint": False}, "t1")
    cluster.local.partition(0, True, cluster.now)
    status = client.statuses("t1")[-1]
    assert status["state"] == "TASK_LOST"
    assert status["reason"] == "REASON_AGENT_DISCONNECTED"
    cluster.local.partition(0, False, cluster.now)
    cluster.advance(1)
    agent = cluster.local.agent(0, cluster.now, "GET", "/state").body
    assert b'"tasks":[]' in agent


def test_a_new_agent_at_the_same_address_replaces_the_old_one() -> None:
    """Its tasks are lost for both kinds of frameworks."""
    cluster = VirtualCluster()
    operator = cluster.watch()
    aware = running(cluster, AWARE, "p1")
    cluster.local.crash_agent(0, cluster.now)
    cluster.local._agents[0].disk.values.clear()
    cluster.local.start_agent(0, cluster.now)
    status = aware.statuses("p1")[-1]
    assert status["state"] == "TASK_LOST"
    assert status["message"] == "Agent host0 removed: a new agent registered at the same address"
    assert len(operator.of("AGENT_REMOVED")) == len(operator.of("AGENT_ADDED")) == 1
    assert operator.of("AGENT_ADDED")[0]["agent"]["agent_info"]["id"]["value"].endswith("-S1")


def test_unregistering() -> None:
    """SIGUSR1: TASK_LOST, AGENT_REMOVED, FAILURE."""
    cluster = VirtualCluster()
    operator = cluster.watch()
    aware = running(cluster, AWARE, "p1")
    cluster.local.unregister_agent(0, cluster.now)
    assert aware.statuses("p1")[-1]["message"] == "Agent host0 removed: the agent unregistered"
    assert operator.of("AGENT_REMOVED")
    assert aware.of("FAILURE")


def test_marking_gone() -> None:
    """TASK_GONE_BY_OPERATOR, later reconciliation says the same; unknown agents are 404."""
    cluster = VirtualCluster()
    aware, plain = running(cluster, AWARE, "p1"), running(cluster, PLAIN, "l1")
    agent_id = aware.statuses("p1")[0]["agent_id"]
    cluster.operator("MARK_AGENT_GONE", agent_id=agent_id)
    status = aware.statuses("p1")[-1]
    assert status["state"] == "TASK_GONE_BY_OPERATOR"
    assert status["reason"] == "REASON_AGENT_REMOVED_BY_OPERATOR"
    assert plain.states("l1")[-1] == "TASK_LOST"
    asked = {"tasks": [{"task_id": {"value": "p1"}, "agent_id": agent_id}]}
    aware.call({"type": "RECONCILE", "reconcile": asked})
    assert aware.statuses("p1")[-1]["message"] == "Reconciliation: Task is gone"
    nobody = {"type": "MARK_AGENT_GONE", "mark_agent_gone": {"agent_id": {"value": "nope"}}}
    response = cluster.post("/api/v1", nobody)
    assert (response.status, response.body) == (404, b"Agent 'nope' not found")


def test_draining() -> None:
    """RESCIND, TASK_KILLED with REASON_AGENT_DRAINING, DRAINED, and back with REACTIVATE."""
    cluster = VirtualCluster()
    aware = running(cluster, AWARE, "p1")
    aware.call({"type": "REVIVE"})
    agent_id = aware.statuses("p1")[0]["agent_id"]
    cluster.operator("DRAIN_AGENT", agent_id=agent_id, max_grace_period={"seconds": 3})
    assert aware.of("RESCIND")
    status = aware.statuses("p1")[-1]
    assert (status["state"], status["reason"]) == ("TASK_KILLED", "REASON_AGENT_DRAINING")
    (agent,) = cluster.operator("GET_AGENTS")["agents"]
    assert agent["drain_info"]["state"] == "DRAINING"
    aware.acknowledge_all()
    (agent,) = cluster.operator("GET_AGENTS")["agents"]
    assert agent["deactivated"]
    assert not agent["active"]
    assert agent["drain_info"] == {
        "state": "DRAINED",
        "config": {"max_grace_period": {"nanoseconds": 3_000_000_000}, "mark_gone": False},
    }
    offers = len(aware.offers())
    cluster.advance(5)
    assert len(aware.offers()) == offers
    cluster.operator("REACTIVATE_AGENT", agent_id=agent_id)
    assert len(aware.offers()) == offers + 1


def test_drain_until_gone() -> None:
    """mark_gone: the task is GONE_BY_OPERATOR and the agent leaves."""
    cluster = VirtualCluster()
    aware = running(cluster, AWARE, "p1")
    agent_id = aware.statuses("p1")[0]["agent_id"]
    cluster.operator("DRAIN_AGENT", agent_id=agent_id, mark_gone=True)
    assert aware.states("p1")[-1] == "TASK_GONE_BY_OPERATOR"
    aware.acknowledge_all()
    assert cluster.operator("GET_AGENTS")["agents"] == []


def test_draining_goes_on_under_a_new_master() -> None:
    """And an agent that missed its reactivation learns of it."""
    cluster = VirtualCluster()
    aware = running(cluster, AWARE, "p1")
    agent_id = aware.statuses("p1")[0]["agent_id"]
    cluster.local.partition(0, True, cluster.now)
    cluster.operator("DRAIN_AGENT", agent_id=agent_id)
    cluster.local.crash_master(cluster.now)
    cluster.local.start_master(cluster.now)
    again = cluster.subscribe(AWARE, aware.framework_id)
    cluster.local.partition(0, False, cluster.now)
    assert again.states("p1") == ["TASK_KILLED"]
    again.acknowledge_all()
    (agent,) = cluster.operator("GET_AGENTS")["agents"]
    assert agent["drain_info"]["state"] == "DRAINED"
    cluster.local.crash_agent(0, cluster.now)
    cluster.operator("REACTIVATE_AGENT", agent_id=agent_id)
    cluster.local.start_agent(0, cluster.now)
    again.launch([task("p2", agent_id)])
    again.acknowledge_all()
    assert again.states("p2")[-1] == "TASK_RUNNING"


def test_maintenance() -> None:
    """RESCIND, offers with unavailability, an inverse offer, the framework's answer."""
    cluster = VirtualCluster()
    client = cluster.subscribe()
    machine = {"hostname": "host0", "ip": "127.0.0.1"}
    window = {
        "machine_ids": [machine],
        "unavailability": {
            "start": {"nanoseconds": 1_900_000_000_000_000_000},
            "duration": {"nanoseconds": 3_600_000_000_000},
        },
    }
    cluster.operator("UPDATE_MAINTENANCE_SCHEDULE", schedule={"windows": [window]})
    assert len(client.of("RESCIND")) == 1
    assert client.offers()[-1]["unavailability"] == window["unavailability"]
    (inverse,) = client.of("INVERSE_OFFERS")[0]["inverse_offers"]
    assert inverse["unavailability"] == window["unavailability"]
    client.call(
        {
            "type": "ACCEPT_INVERSE_OFFERS",
            "accept_inverse_offers": {"inverse_offer_ids": [inverse["id"]]},
        }
    )
    (draining,) = cluster.operator("GET_MAINTENANCE_STATUS")["status"]["draining_machines"]
    assert draining["statuses"][0]["status"] == "ACCEPT"
    cluster.operator("UPDATE_MAINTENANCE_SCHEDULE", schedule={"windows": []})
    assert "unavailability" not in client.offers()[-1]
    assert cluster.operator("GET_MAINTENANCE_SCHEDULE") == {"schedule": {}}


def test_a_master_comes_back_with_the_same_agents_and_tasks() -> None:
    """New master id, old framework and agent ids; silence until the agent is back (fact 12)."""
    cluster = VirtualCluster()
    client = running(cluster, AWARE, "p1")
    old = cluster.get("/state")["id"]
    cluster.local.partition(0, True, cluster.now)
    cluster.local.crash_master(cluster.now)
    assert client.ended
    assert cluster.local.master(cluster.now, "GET", "/health").status == 0
    cluster.advance(1)
    cluster.local.start_master(cluster.now)
    again = cluster.subscribe(AWARE, client.framework_id)
    assert again.framework_id == client.framework_id
    agent_id = client.statuses("p1")[0]["agent_id"]
    asked: Json = {"tasks": [{"task_id": {"value": "p1"}, "agent_id": agent_id}]}
    again.call({"type": "RECONCILE", "reconcile": asked})
    again.call({"type": "RECONCILE", "reconcile": {"tasks": [{"task_id": {"value": "x"}}]}})
    assert not again.of("UPDATE")
    recovered = cluster.operator("GET_AGENTS")["recovered_agents"]
    assert [a["id"] for a in recovered] == [agent_id]
    cluster.local.partition(0, False, cluster.now)
    cluster.advance(1)
    assert not again.of("UPDATE")
    again.call({"type": "RECONCILE", "reconcile": {"tasks": []}})
    assert again.states("p1") == ["TASK_RUNNING"]
    assert cluster.get("/state")["id"] != old
    assert again.offers()[-1]["id"]["value"].startswith(cluster.get("/state")["id"])


def test_an_agent_that_does_not_return_to_a_new_master_is_unreachable() -> None:
    """After agent_reregister_timeout."""
    cluster = VirtualCluster(master=MasterConfig(agent_reregister_timeout_s=60))
    client = running(cluster, AWARE, "p1")
    agent_id = client.statuses("p1")[0]["agent_id"]
    cluster.local.crash_agent(0, cluster.now)
    cluster.local.crash_master(cluster.now)
    cluster.local.start_master(cluster.now)
    again = cluster.subscribe(AWARE, client.framework_id)
    cluster.advance(61)
    asked = {"tasks": [{"task_id": {"value": "p1"}, "agent_id": agent_id}]}
    again.call({"type": "RECONCILE", "reconcile": asked})
    assert again.states("p1") == ["TASK_UNREACHABLE"]


def test_a_launch_that_was_lost_on_its_way_is_reported() -> None:
    """The agent never got it: TASK_DROPPED after it returns."""
    cluster = VirtualCluster()
    aware = cluster.subscribe(AWARE)
    offer = aware.offers()[-1]
    cluster.local.hang_agent(0, True, cluster.now)
    aware.launch([task("p1", offer["agent_id"])])
    assert aware.states("p1") == []
    cluster.local.crash_agent(0, cluster.now)
    cluster.local.hang_agent(0, False, cluster.now)
    cluster.local.start_agent(0, cluster.now)
    cluster.advance(1)
    assert aware.states("p1") == ["TASK_DROPPED"]


def test_the_same_seed_gives_the_same_events() -> None:
    """Determinism of a run with faults."""

    def run() -> list[Json]:
        cluster = VirtualCluster(agents=3)
        client = cluster.subscribe(AWARE)
        for index in range(6):
            cluster.advance(1)
            client.launch([task(f"t{index}", client.offers()[-1]["agent_id"], "sleep 7")])
            client.acknowledge_all()
            cluster.local.crash_agent(index % 3, cluster.now)
            cluster.advance(2)
            cluster.local.start_agent(index % 3, cluster.now)
        cluster.advance(30)
        client.acknowledge_all()
        return client.events

    assert run() == run()
