"""Fairness, filters and reservations in the allocator alone."""

from __future__ import annotations

from collections.abc import Mapping

from libs.minimesos.master.allocator import Allocator, Grant, refuse_duration_s
from libs.minimesos.master.constraints import RoleConstraint, parse_constraints
from libs.minimesos.resources_read import resources_from_flag

NO_CONSTRAINTS: Mapping[str, RoleConstraint] = {}


def allocator(**agents: str) -> Allocator:
    """One with agents by name."""
    made = Allocator("cpus:0.01|mem:32", filter_gpus=True, interval_s=1.0)
    for name, resources in agents.items():
        made.add_agent(name, resources_from_flag(resources), name, [], active=True)
    return made


def add(made: Allocator, name: str, *roles: str, capabilities: tuple[str, ...] = ()) -> None:
    """A framework in some roles."""
    made.set_framework(name, roles, frozenset(capabilities), (), NO_CONSTRAINTS, {}, active=True)


def give_back(made: Allocator, grants: list[Grant], refuse_s: float | None, now: float) -> None:
    """Decline everything."""
    for grant in grants:
        made.recover(grant.framework_id, grant.agent_id, grant.resources, now, refuse_s)


def test_everything_free_goes_to_one_framework() -> None:
    """In its role."""
    made = allocator(a="cpus:4;mem:100", b="cpus:2;mem:50")
    add(made, "f", "r")
    grants = made.allocate(0.0)
    assert [(g.framework_id, g.role, g.agent_id) for g in grants] == [
        ("f", "r", "a"),
        ("f", "r", "b"),
    ]
    assert made.allocate(0.0) == []


def test_roles_share_by_dominant_resource() -> None:
    """The role that holds less gets the next agent."""
    made = allocator(a="cpus:8;mem:100", b="cpus:1;mem:10", c="cpus:1;mem:10")
    add(made, "f", "x")
    add(made, "g", "y")
    got = {g.agent_id: g.framework_id for g in made.allocate(0.0)}
    assert got == {"a": "f", "b": "g", "c": "g"}


def test_weights_tilt_the_shares() -> None:
    """Twice the weight, twice the share."""
    agents = {f"a{i}": "cpus:1;mem:32" for i in range(9)}
    made = allocator(**agents)
    made.weights = {"y": 2.0}
    add(made, "f", "x")
    add(made, "g", "y")
    owners = [g.framework_id for g in made.allocate(0.0)]
    assert (owners.count("f"), owners.count("g")) == (3, 6)


def test_equal_shares_go_by_name_and_the_outer_role_first() -> None:
    """As recorded with roles rr, rr/x and *."""
    made = allocator(a="cpus:4;mem:4096", b="cpus:2;mem:2048;cpus(rr):1;mem(rr):512")
    add(made, "f", "rr", "rr/x", "*")
    got = [(g.agent_id, g.role) for g in made.allocate(0.0)]
    assert got == [("a", "*"), ("b", "rr")]


def test_reserved_resources_are_offered_to_their_role_only() -> None:
    """And to roles below it."""
    made = allocator(a="cpus:1;mem:32;cpus(r):2")
    add(made, "f", "other")
    (grant,) = made.allocate(0.0)
    assert grant.resources.scalar("cpus") == 1
    add(made, "g", "r/below")
    (grant,) = made.allocate(0.0)
    assert (grant.framework_id, grant.resources.scalar("cpus")) == ("g", 2)


def test_a_filter_holds_for_its_time_and_for_what_it_covers() -> None:
    """A filter on a small rest does not block a bigger offer."""
    made = allocator(a="cpus:4;mem:100")
    add(made, "f", "r")
    (grant,) = made.allocate(0.0)
    half = resources_from_flag("cpus:2;mem:50").allocated("r")
    made.recover("f", "a", half, 0.0, 60.0)
    assert made.allocate(1.0) == []
    made.recover("f", "a", grant.resources - half, 1.0)
    assert len(made.allocate(1.0)) == 1


def test_a_short_filter_lives_for_one_interval() -> None:
    """0.5 s holds back the next batch; 0 does nothing."""
    made = allocator(a="cpus:4;mem:100")
    add(made, "f", "r")
    give_back(made, made.allocate(0.0), 0.5, 0.1)
    assert made.allocate(1.0) == []
    grants = made.allocate(1.2)
    assert grants
    give_back(made, grants, 0.0, 1.3)
    assert made.allocate(1.3)


def test_refuse_seconds_are_taken_as_mesos_takes_them() -> None:
    """Negative: the default; absurd: a year."""
    assert refuse_duration_s(-1.0) == 5.0
    assert refuse_duration_s(1e12) == 31_536_000.0


def test_revive_clears_filters_and_suppress_stops_offers() -> None:
    """By role."""
    made = allocator(a="cpus:4;mem:100")
    add(made, "f", "r")
    give_back(made, made.allocate(0.0), 1000.0, 0.0)
    assert made.allocate(10.0) == []
    made.revive("f", ["r"])
    give_back(made, made.allocate(10.0), None, 10.0)
    made.suppress("f", ["r"])
    assert made.allocate(11.0) == []


def test_gpus_are_for_those_who_know_them() -> None:
    """filter_gpu_resources is on."""
    made = allocator(a="cpus:4;mem:100;gpus:1")
    add(made, "f", "r")
    assert made.allocate(0.0) == []
    add(made, "g", "r", capabilities=("GPU_RESOURCES",))
    assert [g.framework_id for g in made.allocate(0.0)] == ["g"]


def test_less_than_the_minimum_is_not_offered() -> None:
    """cpus:0.01|mem:32."""
    made = allocator(a="cpus:0.005;mem:16;disk:100")
    add(made, "f", "r")
    assert made.allocate(0.0) == []


def test_constraints_select_agents_by_attribute() -> None:
    """text_equals, exists and their opposites."""
    made = Allocator("", filter_gpus=True, interval_s=1.0)
    for name in ("r1", "r2"):
        attributes = [{"name": "rack", "type": "TEXT", "text": {"value": name}}]
        resources = resources_from_flag("cpus:1;mem:32")
        made.add_agent(name, resources, name, attributes, active=True)

    def offered(predicate: dict[str, object]) -> list[str]:
        constraint = {"selector": {"attribute_name": "rack"}, "predicate": predicate}
        message = {"role_constraints": {"r": {"groups": [{"attribute_constraints": [constraint]}]}}}
        made.set_framework(
            "f", ("r",), frozenset(), (), parse_constraints(message), {}, active=True
        )
        grants = made.allocate(0.0)
        give_back(made, grants, None, 0.0)
        return sorted(g.agent_id for g in grants)

    assert offered({"text_equals": {"value": "r1"}}) == ["r1"]
    assert offered({"text_not_equals": {"value": "r1"}}) == ["r2"]
    assert offered({"text_matches": {"regex": "r[12]"}}) == ["r1", "r2"]
    assert offered({"exists": {}}) == ["r1", "r2"]
    assert offered({"not_exists": {}}) == []


def test_nothing_is_held_twice_and_nothing_is_lost() -> None:
    """Free plus granted is always the total."""
    made = allocator(a="cpus:4;mem:100;ports:[1-10]", b="cpus:2;mem:50")
    for name, role in (("f", "x"), ("g", "y"), ("h", "x")):
        add(made, name, role)
    for step in range(20):
        grants = made.allocate(float(step))
        for agent in ("a", "b"):
            mine = [g.resources.unallocated() for g in grants if g.agent_id == agent]
            total = made.free(agent)
            for resources in mine:
                total = total + resources
            assert total == made.total(agent)
        give_back(made, grants, None, float(step))
