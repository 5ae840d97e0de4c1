"""Reserved resources: spent first, each as it was offered; the executor is paid out of what is reserved for nobody."""

from __future__ import annotations

from typing import Any

import pytest

from libs.mesos import events as mesos
from services.scheduler.model import EXECUTOR_AMOUNTS, Action, Launch
from services.scheduler.offering import MORE_COMES_S
from services.scheduler.planning import plan
from services.scheduler.refusing import OFFERS_COME_S
from tests.unit.scheduler.world import Desk, launches, offer, spec, want

ROLE = {"role": "gantry"}


def _desk() -> Desk:
    desk = Desk()
    desk.subscribe()
    return desk


def _many(desk: Desk, count: int, cpus: float) -> None:
    desk.give(*(want(f"acme-{n}", spec(cpus, 64), "acme/app") for n in range(count)))


def _reserved(desk: Desk, agent: str, cpus: float = 0.0, mem: float = 0.0) -> list[Action]:
    """An agent offers 4 CPUs, 1024 MiB and disk that are reserved for us, and so much for everybody."""
    desk.offers += 1
    made = offer(desk.offers, agent)
    for each in made["resources"]:
        each.update(allocation_info=ROLE, **ROLE)
    for name, amount in (("cpus", cpus), ("mem", mem)):
        if amount:
            scalar = {"value": amount}
            more = {"name": name, "type": "SCALAR", "role": "*", "scalar": scalar}
            made["resources"].append({**more, "allocation_info": ROLE})
    return desk.give(mesos.Offers((made,)))  # type: ignore[arg-type]


def _mixed_offer(number: int) -> dict[str, Any]:
    """2 CPUs reserved for our role, 1 for all; a volume and what may be taken back besides."""
    role = {"role": "gantry"}
    made = offer(number, "a1", cpus=1.0)
    for each in made["resources"]:
        each.update(role="*", allocation_info=role)
    more: list[dict[str, Any]] = [
        {"name": "cpus", **role, "scalar": {"value": 2.0}, "allocation_info": role},
        {"name": "cpus", "role": "*", "scalar": {"value": 8.0}, "revocable": {}},
        {"name": "disk", **role, "scalar": {"value": 999.0}, "disk": {"volume": {}}},
    ]
    made["resources"] += [{"type": "SCALAR", **each} for each in more]
    return made


def test_reserved_resources_are_spent_first_and_as_they_were_offered() -> None:
    desk = _desk()
    _many(desk, 4, 0.8)
    (action,) = [
        each
        for each in desk.give(mesos.Offers((_mixed_offer(1),)))  # type: ignore[arg-type]
        if isinstance(each, Launch)
    ]
    paid = [
        [
            (r["role"], round(r["scalar"]["value"], 3))
            for r in info["resources"]
            if r["name"] == "cpus"
        ]
        for info in action.tasks
    ]
    # The third is paid out of both, and for a fourth there is nothing that is for us.
    assert paid == [[("gantry", 0.8)], [("gantry", 0.8)], [("gantry", 0.4), ("*", 0.4)]]
    assert all(
        r["allocation_info"] == {"role": "gantry"} for i in action.tasks for r in i["resources"]
    )


def test_two_offers_of_an_agent_are_accepted_together() -> None:
    desk = _desk()
    _many(desk, 1, 1.5)
    assert not launches(desk.offer("a1", cpus=1.0))
    (action,) = [each for each in desk.offer("a1", cpus=1.0) if isinstance(each, Launch)]
    assert action.offers == ("o1", "o2")
    assert [r["scalar"]["value"] for r in action.tasks[0]["resources"] if r["name"] == "cpus"] == [
        1.5
    ]


NEED = EXECUTOR_AMOUNTS


@pytest.mark.parametrize(
    ("cpus", "mem"), [(0.0, 0.0), (NEED.cpus, 0.0), (NEED.cpus, 31.0), (0.005, NEED.mem_mib)]
)
def test_an_agent_on_which_the_executor_can_not_start_is_not_chosen(
    cpus: float, mem: float
) -> None:
    """Mesos answers such a launch with TASK_ERROR, each time anew."""
    desk = _desk()
    _many(desk, 1, 0.5)
    assert not launches(_reserved(desk, "a1", cpus, mem))
    desk.tick(OFFERS_COME_S)
    assert desk["acme-0"].delayed == "none of 1 agents has unreserved room for the executor"
    why = next(iter(desk.cluster.volatile.why.values()))
    assert why.refusal.failed == {"unreserved room for the executor": 1}
    assert launches(_reserved(desk, "a2", NEED.cpus, NEED.mem_mib)) == ["acme-0.1"]


def test_two_offers_of_an_agent_may_have_room_for_it_together() -> None:
    desk = _desk()
    _many(desk, 1, 0.5)
    assert not launches(_reserved(desk, "a1", NEED.cpus))
    assert launches(_reserved(desk, "a1", 0.0, NEED.mem_mib)) == ["acme-0.1"]


def test_where_it_runs_already_all_may_be_reserved() -> None:
    desk = _desk()
    _many(desk, 1, 0.5)
    _reserved(desk, "a1", NEED.cpus, NEED.mem_mib)
    desk.tell("acme-0.1", "TASK_RUNNING", agent="a1", container="c")
    desk.give(want("more", spec(0.5), "acme/app"))
    assert launches(_reserved(desk, "a1")) == ["more.1"]
    desk.tell("acme-0.1", "TASK_FAILED", agent="a1")
    desk.tell("more.1", "TASK_FAILED", agent="a1")
    assert not launches(_reserved(desk, "a1") + desk.tick(60.0))  # it has ended with its last task


def test_a_container_is_not_adopted_where_no_executor_can_start() -> None:
    desk = _desk()
    _many(desk, 1, 0.5)
    _reserved(desk, "a1", NEED.cpus, NEED.mem_mib)
    desk.tell("acme-0.1", "TASK_RUNNING", agent="a1", container="c")
    desk.tell("acme-0.1", "TASK_FAILED", agent="a1", reason="REASON_EXECUTOR_TERMINATED")
    assert desk["acme-0"].adopt == "c"
    assert not launches(_reserved(desk, "a1"))
    assert launches(_reserved(desk, "a1", NEED.cpus, NEED.mem_mib)) == ["acme-0.2"]


def test_a_plan_knows_it_though_nobody_offers() -> None:
    desk = _desk()
    _reserved(desk, "a1")
    desk.tick(MORE_COMES_S)
    assert not desk.cluster.volatile.offers
    planned = plan(desk.cluster, "acme/web", spec(0.5), 1, False, desk.now, desk.config)
    assert planned.unplaced == 1 and planned.why is not None
    assert planned.why.failed == {"unreserved room for the executor": 1}
