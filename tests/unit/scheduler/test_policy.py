"""Placement: no constraint is ever violated, no agent overbooked, and bulk places as many as one by one would."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.spec import Constraint, ConstraintOperator, InstanceClass
from services.scheduler.model import AgentId, Amounts, InstanceId
from services.scheduler.policy import Candidate, Need, Placement, place
from tests.unit.scheduler.world import spec

ZONES = ("a", "b", "c", "")
_O = ConstraintOperator


def _candidate(n: int, zone: str, cpus: float, mem: float) -> Candidate:
    attributes = {"zone": zone} if zone else {}
    return Candidate(AgentId(f"a{n}"), f"h{n}", attributes, Amounts(cpus, mem, 0.0))


candidates = st.lists(
    st.tuples(st.sampled_from(ZONES), st.integers(0, 40), st.integers(0, 20)), max_size=8
).map(lambda rows: [_candidate(n, z, c / 10, m * 32.0) for n, (z, c, m) in enumerate(rows)])

rules = st.lists(
    st.sampled_from(
        [
            Constraint(attribute="hostname", operator=_O.UNIQUE),
            Constraint(attribute="zone", operator=_O.GROUP_BY),
            Constraint(attribute="zone", operator=_O.MAX_PER, value="2"),
            Constraint(attribute="zone", operator=_O.CLUSTER),
            Constraint(attribute="zone", operator=_O.CLUSTER, value="b"),
            Constraint(attribute="zone", operator=_O.LIKE, value="a|b"),
            Constraint(attribute="zone", operator=_O.UNLIKE, value="c"),
            Constraint(attribute="zone", operator=_O.IS, value="a"),
        ]
    ),
    max_size=2,
    unique_by=lambda rule: rule.operator,
).map(tuple)


@st.composite
def _needs(draw: st.DrawFn) -> list[Need]:
    shapes = draw(
        st.lists(st.tuples(st.integers(1, 15), st.integers(1, 8), rules), min_size=1, max_size=3)
    )
    needs: list[Need] = []
    for n, (cpus, mem, constraints) in enumerate(shapes):
        of = spec(cpus / 10, mem * 32, constraints)
        count = draw(st.integers(1, 6))
        needs += [Need(InstanceId(f"i{n}-{k}"), f"acme/app{n}", of) for k in range(count)]
    return needs


def _check(needs: list[Need], offered: list[Candidate], result: Placement) -> None:
    by_agent = {each.agent: each for each in offered}
    used: dict[AgentId, Amounts] = defaultdict(Amounts)
    placed: dict[str, list[Candidate]] = defaultdict(list)
    for need in needs:
        assert (need.id in result.placed) != (need.id in result.refused)
        if need.id in result.placed:
            agent = result.placed[need.id]
            used[agent] += Amounts.of(need.spec)
            placed[need.app].append(by_agent[agent])
    for agent, taken in used.items():
        left = by_agent[agent].free - taken
        assert min(left.cpus, left.mem_mib) >= -1e-6
    for need in needs:
        for rule in need.spec.constraints:
            _check_rule(rule, placed[need.app])


def _check_rule(rule: Constraint, where: list[Candidate]) -> None:
    values = [
        c.hostname if rule.attribute == "hostname" else c.attributes.get(rule.attribute, "")
        for c in where
    ]
    counts = Counter(values)
    match rule.operator:
        case _O.UNIQUE:
            assert max(counts.values(), default=0) <= 1
        case _O.MAX_PER:
            assert max(counts.values(), default=0) <= int(rule.value or 0)
        case _O.CLUSTER:
            assert len(counts) <= 1 and (rule.value is None or set(counts) <= {rule.value})
            assert "" not in counts
        case _O.IS:
            assert set(counts) <= {rule.value}
        case _O.LIKE:
            assert all(re.fullmatch(rule.value or "", value) for value in values)
        case _O.UNLIKE:
            assert not any(re.fullmatch(rule.value or "", value) for value in values)
        case _O.GROUP_BY:
            assert "" not in counts


@settings(max_examples=300, deadline=None)
@given(_needs(), candidates)
def test_capacity_and_constraints_hold(needs: list[Need], offered: list[Candidate]) -> None:
    _check(needs, offered, place(needs, offered, {}))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 15), st.integers(1, 8), st.integers(1, 30), candidates, rules)
def test_bulk_places_as_many_as_one_by_one(
    cpus: int, mem: int, count: int, offered: list[Candidate], constraints: tuple[Constraint, ...]
) -> None:
    of = spec(cpus / 10, mem * 32, constraints)
    needs = [Need(InstanceId(f"i{n}"), "acme/web", of) for n in range(count)]
    bulk = place(needs, offered, {})
    left = {each.agent: each for each in offered}
    here: list[dict[str, str]] = []
    one_by_one = 0
    for need in needs:
        agent = place([need], list(left.values()), {"acme/web": here}).placed.get(need.id)
        if agent is None:
            continue
        one_by_one += 1
        there = left[agent]
        free = there.free - Amounts.of(of)
        left[agent] = Candidate(agent, there.hostname, there.attributes, free)
        here.append({**there.attributes, "hostname": there.hostname})
    assert len(bulk.placed) == one_by_one


@settings(max_examples=200, deadline=None)
@given(_needs(), candidates)
def test_nobody_waits_beside_an_agent_that_would_do(
    needs: list[Need], offered: list[Candidate]
) -> None:
    plain = [Need(each.id, each.app, spec(each.spec.resources.cpus)) for each in needs]
    result = place(plain, offered, {})
    free = {each.agent: each.free for each in offered}
    for each in plain:
        if each.id in result.placed:
            free[result.placed[each.id]] -= Amounts.of(each.spec)
    for each in plain:
        if each.id in result.refused:
            need = Amounts.of(each.spec)
            assert not any(f.cpus >= need.cpus and f.mem_mib >= need.mem_mib for f in free.values())


def test_the_fullest_agent_that_fits_is_taken() -> None:
    offered = [_candidate(0, "a", 4.0, 1024), _candidate(1, "a", 1.0, 128)]
    need = Need(InstanceId("i"), "acme/web", spec(0.5))
    assert place([need], offered, {}).placed == {need.id: "a1"}


def test_group_by_spreads_over_zones() -> None:
    offered = [_candidate(n, zone, 4.0, 1024) for n, zone in enumerate("aab")]
    rule = Constraint(attribute="zone", operator=_O.GROUP_BY)
    needs = [Need(InstanceId(f"i{n}"), "acme/web", spec(0.5, 64, (rule,))) for n in range(6)]
    result = place(needs, offered, {})
    zones = {each.agent: each.attributes["zone"] for each in offered}
    assert Counter(zones[agent] for agent in result.placed.values()) == {"a": 3, "b": 3}


def test_siblings_that_run_count() -> None:
    offered = [_candidate(0, "a", 4.0, 1024), _candidate(1, "b", 4.0, 1024)]
    rule = Constraint(attribute="hostname", operator=_O.UNIQUE)
    need = Need(InstanceId("i"), "acme/web", spec(0.5, 64, (rule,)))
    result = place([need], offered, {"acme/web": [{"hostname": "h0"}]})
    assert result.placed == {need.id: "a1"}
    both = [{"hostname": "h0"}, {"hostname": "h1"}]
    assert place([need], offered, {"acme/web": both}).refused == {need.id: {"hostname UNIQUE": 2}}


@pytest.mark.parametrize(("wanted", "goes"), [("thin", "a1"), ("fat", "a0")])
def test_a_class_goes_to_its_own_hosts(wanted: str, goes: str) -> None:
    room = Amounts(4.0, 1024.0, 0.0)
    offered = [
        Candidate(AgentId("a0"), "h0", {"class": "fat"}, room),
        Candidate(AgentId("a1"), "h1", {}, room),
    ]
    of = spec().model_copy(update={"instance_class": InstanceClass(wanted)})
    need = Need(InstanceId("i"), "acme/web", of)
    assert place([need], offered, {}).placed == {need.id: goes}


def test_a_pinned_need_goes_to_its_agent_or_nowhere() -> None:
    offered = [_candidate(0, "a", 4.0, 1024), _candidate(1, "a", 0.1, 1024)]
    need = Need(InstanceId("i"), "acme/web", spec(0.5), AgentId("a1"))
    assert place([need], offered, {}).refused == {
        need.id: {"agent of the container to adopt": 1, "cpus": 1}
    }


def test_a_container_is_adopted_where_it_is_whatever_the_constraints_say_by_now() -> None:
    offered = [_candidate(0, "a", 4.0, 1024), _candidate(1, "b", 4.0, 1024)]
    rule = Constraint(attribute="hostname", operator=_O.UNIQUE)
    need = Need(InstanceId("i"), "acme/web", spec(0.5, 64, (rule,)), AgentId("a0"))
    result = place([need], offered, {"acme/web": [{"hostname": "h0"}]})
    assert result.placed == {need.id: "a0"}
