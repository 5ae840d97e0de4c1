"""Offers by capability, and operations on what they hold (fact 4, recording 05b)."""

from __future__ import annotations

from tests.unit.minimesos.support import (
    FRAMEWORK,
    Json,
    VirtualCluster,
    launch_call,
    scalars,
    task,
)


def test_shapes_by_capability() -> None:
    """Fact 4."""
    cluster = VirtualCluster(resources="cpus:1;mem:64;cpus(ro):2")
    old = {**FRAMEWORK, "capabilities": [], "role": "ro"}
    del old["roles"]
    client = cluster.subscribe(old)
    (offer,) = client.offers()
    assert "allocation_info" not in offer
    assert [r["role"] for r in offer["resources"]] == ["ro", "*", "*"]
    assert all("allocation_info" not in r for r in offer["resources"])
    client.call({"type": "TEARDOWN"})
    refined = [*FRAMEWORK["capabilities"], {"type": "RESERVATION_REFINEMENT"}]
    client = cluster.subscribe({**FRAMEWORK, "roles": ["ro"], "capabilities": refined})
    (offer,) = client.offers()
    assert offer["allocation_info"] == {"role": "ro"}
    assert all("role" not in r for r in offer["resources"])
    assert offer["resources"][0]["reservations"] == [{"type": "STATIC", "role": "ro"}]


def test_operations_with_feedback() -> None:
    """RESERVE, CREATE, LAUNCH on the volume, DESTROY, UNRESERVE as recorded in 05b."""
    cluster = VirtualCluster()
    refined = [*FRAMEWORK["capabilities"], {"type": "RESERVATION_REFINEMENT"}]
    info = {**FRAMEWORK, "roles": ["rg"], "capabilities": refined, "principal": "pg"}
    client = cluster.subscribe(info)
    reserved = {
        "name": "disk",
        "type": "SCALAR",
        "scalar": {"value": 100},
        "reservations": [{"type": "DYNAMIC", "role": "rg", "principal": "pg"}],
    }
    disk = {
        "persistence": {"id": "vol1", "principal": "pg"},
        "volume": {"container_path": "data", "mode": "RW"},
    }
    volume = {**reserved, "disk": disk}

    def accept(*operations: Json) -> None:
        call = launch_call(client.offers()[-1], [])
        call["accept"]["operations"] = list(operations)
        client.call(call)
        for told in client.of("UPDATE_OPERATION_STATUS"):
            if "uuid" in told["status"]:
                fields = ("operation_id", "uuid", "agent_id")
                body = {f: told["status"][f] for f in fields}
                call = {"type": "ACKNOWLEDGE_OPERATION_STATUS"}
                client.call({**call, "acknowledge_operation_status": body})
        cluster.advance(1)

    reserve = {"type": "RESERVE", "id": {"value": "op1"}, "reserve": {"resources": [reserved]}}
    accept(reserve)
    assert client.of("UPDATE_OPERATION_STATUS")[-1]["status"]["state"] == "OPERATION_FINISHED"
    create = {"type": "CREATE", "id": {"value": "op2"}, "create": {"volumes": [volume]}}
    agent_id = client.offers()[0]["agent_id"]
    on_volume = {**task("v1", agent_id, "sleep 1"), "resources": [*scalars(), volume]}
    accept(create, {"type": "LAUNCH", "launch": {"task_infos": [on_volume]}})
    client.acknowledge_all()
    cluster.advance(2)
    client.acknowledge_all()
    assert client.states("v1")[-1] == "TASK_FINISHED"
    cluster.advance(1)
    both = client.offers()[-2:]
    call = launch_call(both[0], [])
    call["accept"]["offer_ids"] = [o["id"] for o in both]
    again = {**create, "id": {"value": "op3"}}
    destroy = {"type": "DESTROY", "id": {"value": "op4"}, "destroy": {"volumes": [volume]}}
    unreserve = {
        "type": "UNRESERVE",
        "id": {"value": "op5"},
        "unreserve": {"resources": [reserved]},
    }
    call["accept"]["operations"] = [again, destroy, unreserve]
    client.call(call)
    told = {u["status"]["operation_id"]["value"]: u for u in client.of("UPDATE_OPERATION_STATUS")}
    assert told["op3"]["status"]["state"] == "OPERATION_ERROR"
    assert "Persistence ID 'vol1' is not unique" in told["op3"]["status"]["message"]
    assert told["op5"]["status"]["state"] == "OPERATION_FINISHED"
    cluster.advance(1)
    assert all("reservations" not in r for r in client.offers()[-1]["resources"])
