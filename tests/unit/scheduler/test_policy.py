"""Placement: no constraint is violated, no agent overbooked, and many at once go where one by one they would."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.spec import Constraint, ConstraintOperator, InstanceClass, InstanceSpec
from services.scheduler.model import AgentId, Amounts, InstanceId
from services.scheduler.policy import Candidate, Need, Placement, Shape, place
from services.scheduler.policy.filling import scores
from services.scheduler.policy.search import Order
from tests.unit.scheduler.reference import Reference, value_of, violations
from tests.unit.scheduler.world import spec

ZONES = ("a", "b", "c", "")
_O = ConstraintOperator


def _candidate(n: int, zone: str, cpus: float, mem: float, rack: str = "") -> Candidate:
    attributes = {name: value for name, value in (("zone", zone), ("rack", rack)) if value}
    return Candidate(AgentId(f"a{n}"), f"h{n}", attributes, Amounts(cpus, mem, 0.0))


def _need(name: str, of: InstanceSpec, agent: str = "", app: str = "acme/web") -> Need:
    return Need(InstanceId(name), Shape.of(app, of, AgentId(agent) if agent else None))


candidates = st.lists(
    st.tuples(
        st.sampled_from(ZONES), st.integers(0, 40), st.integers(0, 20), st.sampled_from("xyz")
    ),
    max_size=9,
).map(lambda rows: [_candidate(n, z, c / 10, m * 32.0, r) for n, (z, c, m, r) in enumerate(rows)])

RULES = [
    Constraint(attribute="hostname", operator=_O.UNIQUE),
    Constraint(attribute="hostname", operator=_O.GROUP_BY),
    Constraint(attribute="hostname", operator=_O.MAX_PER, value="2"),
    Constraint(attribute="zone", operator=_O.UNIQUE),
    Constraint(attribute="zone", operator=_O.GROUP_BY),
    Constraint(attribute="zone", operator=_O.GROUP_BY, value="2"),
    Constraint(attribute="zone", operator=_O.GROUP_BY, value="4"),
    Constraint(attribute="rack", operator=_O.GROUP_BY, value="3"),
    Constraint(attribute="zone", operator=_O.MAX_PER, value="2"),
    Constraint(attribute="rack", operator=_O.MAX_PER, value="3"),
    Constraint(attribute="zone", operator=_O.CLUSTER),
    Constraint(attribute="zone", operator=_O.CLUSTER, value="b"),
    Constraint(attribute="zone", operator=_O.LIKE, value="a|b"),
    Constraint(attribute="zone", operator=_O.LIKE, value=".*"),
    Constraint(attribute="zone", operator=_O.UNLIKE, value="c"),
    Constraint(attribute="zone", operator=_O.UNLIKE, value=".*"),
    Constraint(attribute="zone", operator=_O.IS, value="a"),
]
rules = st.lists(
    st.sampled_from(RULES), max_size=3, unique_by=lambda rule: (rule.operator, rule.attribute)
).map(tuple)
spreads = st.sampled_from(
    [(), (), ("zone",), ("hostname",), ("zone", "hostname"), ("rack",), ("zone", "rack")]
)


@st.composite
def _needs(draw: st.DrawFn) -> list[Need]:
    shapes = draw(
        st.lists(
            st.tuples(st.integers(1, 15), st.integers(1, 8), rules, spreads),
            min_size=1,
            max_size=3,
        )
    )
    needs: list[Need] = []
    for n, (cpus, mem, constraints, spread) in enumerate(shapes):
        apart = draw(st.sampled_from([(), ("app0",)])) if n else ()
        of = spec(cpus / 10, mem * 32, constraints).model_copy(
            update={"spread": spread, "apart_from": apart}
        )
        count = draw(st.integers(1, 20))
        needs += [_need(f"i{n}-{k}", of, app=f"acme/app{n}") for k in range(count)]
    return needs


def _where(
    needs: list[Need], offered: list[Candidate], result: Placement
) -> dict[str, list[Candidate]]:
    by_agent = {each.agent: each for each in offered}
    where: dict[str, list[Candidate]] = defaultdict(list)
    for need in needs:
        if need.id in result.placed:
            where[need.shape.app].append(by_agent[result.placed[need.id]])
    return where


@settings(max_examples=300, deadline=None)
@given(_needs(), candidates)
def test_capacity_and_constraints_hold(needs: list[Need], offered: list[Candidate]) -> None:
    result = place(needs, offered)
    used: dict[AgentId, Amounts] = defaultdict(Amounts)
    for need in needs:
        assert (need.id in result.placed) != (need.id in result.refused)
        if need.id in result.placed:
            used[result.placed[need.id]] += need.shape.amounts
    by_agent = {each.agent: each for each in offered}
    for agent, taken in used.items():
        left = by_agent[agent].free - taken
        assert min(left.cpus, left.mem_mib) >= -1e-6
    shapes = {need.shape.app: need.shape for need in needs}
    assert violations(shapes, _where(needs, offered, result), offered) == []
    for refusal in result.refused.values():
        assert refusal.agents == len(offered)
        assert sum(refusal.failed.values()) == len(offered)  # each agent failed something
        assert refusal.nearest


@settings(max_examples=600, deadline=None)
@given(st.integers(1, 15), st.integers(1, 8), st.integers(1, 40), candidates, rules, spreads)
def test_many_at_once_are_placed_as_one_by_one(
    cpus: int,
    mem: int,
    count: int,
    offered: list[Candidate],
    constraints: tuple[Constraint, ...],
    spread: tuple[str, ...],
) -> None:
    """As many or more, and as evenly over values: the reference takes the agents in another order, so not the same."""
    of = spec(cpus / 10, mem * 32, constraints).model_copy(update={"spread": spread})
    needs = [_need(f"i{n}", of) for n in range(count)]
    mine = _where(needs, offered, place(needs, offered)).get("acme/web", [])
    reference = Reference(offered)
    theirs = [each for n in needs if (each := reference.place(n.shape)) is not None]
    wide = {c.attribute for c in constraints if c.operator in (_O.UNIQUE, _O.MAX_PER, _O.GROUP_BY)}
    if len(wide - {"hostname"}) <= 1:
        assert len(mine) >= len(theirs)
    if not wide or wide == {"zone"}:
        if not any(c.operator is _O.CLUSTER for c in constraints):
            assert len(mine) == len(theirs)
        if spread[:1] == ("zone",) and len(mine) == len(theirs):
            # A level of water is the same whoever fills it.
            assert _evenness(mine, "zone", offered) == _evenness(theirs, "zone", offered)
    first = set(spread[:1])
    chosen = any(c.operator is _O.CLUSTER and not c.value for c in constraints)
    if first and wide <= first and len(mine) == len(theirs) and not chosen:
        for attribute in first:
            assert _evenness(mine, attribute, offered) == _evenness(theirs, attribute, offered)


def _evenness(where: list[Candidate], attribute: str, offered: list[Candidate]) -> list[int]:
    counts = Counter(value_of(each, attribute) for each in where)
    return sorted(counts[value] for value in {value_of(each, attribute) for each in offered})


@settings(max_examples=200, deadline=None)
@given(_needs(), candidates)
def test_nobody_waits_beside_an_agent_that_would_do(
    needs: list[Need], offered: list[Candidate]
) -> None:
    result = place(needs, offered)
    state = Reference(offered)
    for need in needs:
        if need.id in result.placed:
            agent = result.placed[need.id]
            state.free[agent] -= need.shape.amounts
    state.where = _where(needs, offered, result)
    apart = {need.shape.app for need in needs if need.shape.apart_from}
    for each in needs:
        # Rooms that others have left since may be free of those that it keeps apart from; never of its own rules.
        if each.id in result.refused and not apart:
            assert state.place(each.shape) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=300),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=20),
)
def test_the_search_finds_the_best_fit(
    free: list[tuple[int, int]], needs: list[tuple[int, int]]
) -> None:
    """The sorted order with its early end finds what looking at all would."""
    vectors = np.array([[*row, 5] for row in free], dtype=np.float64).T.copy()
    weights = np.array([1 / 7, 1 / 13, 0.0])
    order = Order(vectors, weights)
    allowed = np.arange(len(free)) % 5 != 3
    for cpus, mem in needs:
        need = np.array([cpus, mem, 0.0])
        fits = (vectors >= need[:, None]).all(axis=0) & allowed
        every = np.where(fits, scores(vectors, need, weights), np.inf)
        before = vectors.copy()
        found = order.take((cpus, mem, 0.0), allowed)
        assert (found is None) == (not fits.any())
        if found is not None:
            row, number = found
            assert number == 1
            assert every[row] == pytest.approx(every.min(), abs=1e-6)
            before[:, row] -= need
        assert (vectors == before).all()


def test_the_fullest_agent_that_fits_is_taken() -> None:
    offered = [_candidate(0, "a", 4.0, 1024), _candidate(1, "a", 1.0, 128)]
    need = _need("i", spec(0.5))
    assert place([need], offered).placed == {need.id: "a1"}


def test_an_agent_whose_rest_has_the_needs_proportions_is_taken() -> None:
    offered = [_candidate(0, "a", 4.0, 256), _candidate(1, "a", 1.0, 1024)]
    slim, heavy = _need("slim", spec(1.0, 64)), _need("heavy", spec(0.25, 256))
    assert place([slim], offered).placed == {slim.id: "a0"}
    assert place([heavy], offered).placed == {heavy.id: "a1"}


@pytest.mark.parametrize("count", [6, 60])
def test_group_by_and_spread_are_even_over_zones(count: int) -> None:
    offered = [_candidate(n, zone, 40.0, 10240) for n, zone in enumerate("aab")]
    zones = {each.agent: each.attributes["zone"] for each in offered}
    rule = Constraint(attribute="zone", operator=_O.GROUP_BY)
    ruled = spec(0.5, 64, (rule,))
    loose = spec(0.5, 64).model_copy(update={"spread": ("zone", "hostname")})
    for of in (ruled, loose):
        needs = [_need(f"i{n}", of) for n in range(count)]
        result = place(needs, offered)
        spread = Counter(zones[agent] for agent in result.placed.values())
        assert spread == {"a": count // 2, "b": count // 2}
    hosts = Counter(result.placed.values())
    assert abs(hosts[AgentId("a0")] - hosts[AgentId("a1")]) <= 1  # and within a zone over hosts


def test_a_full_zone_stops_group_by_but_not_spread() -> None:
    offered = [_candidate(0, "a", 10.0, 10240), _candidate(1, "b", 1.0, 128)]
    rule = Constraint(attribute="zone", operator=_O.GROUP_BY)
    ruled = [_need(f"i{n}", spec(0.5, 64, (rule,))) for n in range(12)]
    result = place(ruled, offered)
    assert Counter(result.placed.values()) == {"a0": 3, "a1": 2}
    assert {each.nearest for each in result.refused.values()} == {
        "1 of 2 agents would do, none of them has the CPUs (0.5): the most is 0 on h1"
    }
    loose = spec(0.5, 64).model_copy(update={"spread": ("zone",)})
    result = place([_need(f"i{n}", loose) for n in range(12)], offered)
    assert Counter(result.placed.values()) == {"a0": 10, "a1": 2}


@pytest.mark.parametrize("count", [3, 30])
def test_what_a_zone_may_have_goes_to_the_host_whose_turn_it_is(count: int) -> None:
    offered = [_candidate(0, "a", 0.1, 96.0), _candidate(1, "a", 0.2, 64.0)]
    rules = (
        Constraint(attribute="hostname", operator=_O.GROUP_BY),
        Constraint(attribute="zone", operator=_O.MAX_PER, value="2"),
    )
    result = place([_need(f"i{n}", spec(0.1, 32, rules)) for n in range(count)], offered)
    assert Counter(result.placed.values()) == {"a0": 1, "a1": 1}


def test_a_group_that_nobody_has_seen_yet_is_waited_for() -> None:
    offered = [_candidate(0, "a", 10.0, 10240)]
    rule = Constraint(attribute="zone", operator=_O.GROUP_BY, value="2")
    needs = [_need(f"i{n}", spec(0.5, 64, (rule,))) for n in range(3)]
    assert len(place(needs, offered).placed) == 1


def test_siblings_that_run_count() -> None:
    offered = [_candidate(0, "a", 4.0, 1024), _candidate(1, "b", 4.0, 1024)]
    rule = Constraint(attribute="hostname", operator=_O.UNIQUE)
    need = _need("i", spec(0.5, 64, (rule,)))
    result = place([need], offered, {"acme/web": [{"hostname": "h0"}]})
    assert result.placed == {need.id: "a1"}
    both = [{"hostname": "h0"}, {"hostname": "h1"}]
    refusal = place([need], offered, {"acme/web": both}).refused[need.id]
    assert refusal.failed == {"hostname UNIQUE": 2}
    assert refusal.nearest == "none of 2 agents has a hostname without an instance of the app"


@pytest.mark.parametrize("count", [3, 20])
def test_an_app_that_keeps_apart_from_itself_has_one_instance_a_host(count: int) -> None:
    of = spec(0.1).model_copy(update={"apart_from": ("web",)})
    needs = [_need(f"i{n}", of) for n in range(count)]
    result = place(needs, [_candidate(n, "a", 4.0, 1024) for n in range(count - 1)])
    assert Counter(result.placed.values()) == {f"a{n}": 1 for n in range(count - 1)}
    assert len(result.refused) == 1


def test_apart_from_another_app() -> None:
    offered = [_candidate(0, "a", 1.0, 256), _candidate(1, "b", 4.0, 1024)]
    of = spec(0.5).model_copy(update={"apart_from": ("db",)})
    need = _need("i", of)
    assert place([need], offered).placed == {need.id: "a0"}
    assert place([need], offered, {"acme/db": [{"hostname": "h0"}]}).placed == {need.id: "a1"}


@pytest.mark.parametrize("count", [1, 9])
def test_the_zone_in_which_all_are_together_is_one_where_they_may_be(count: int) -> None:
    offered = [_candidate(0, "a", 4.0, 1024), _candidate(1, "b", 2.0, 1024)]
    together = Constraint(attribute="zone", operator=_O.CLUSTER)
    of = spec(0.1, 64, (together,)).model_copy(update={"apart_from": ("db",)})
    result = place(
        [_need(f"i{n}", of) for n in range(count)], offered, {"acme/db": [{"hostname": "h0"}]}
    )
    assert Counter(result.placed.values()) == {"a1": count}


@pytest.mark.parametrize(("wanted", "goes"), [("thin", "a1"), ("fat", "a0"), ("windows", None)])
def test_a_class_goes_to_its_own_hosts(wanted: str, goes: str | None) -> None:
    room = Amounts(4.0, 1024.0, 0.0)
    offered = [
        Candidate(AgentId("a0"), "h0", {"class": "fat"}, room),
        Candidate(AgentId("a1"), "h1", {}, room),
    ]
    of = spec().model_copy(update={"instance_class": InstanceClass(wanted)})
    need = _need("i", of)
    assert place([need], offered).placed.get(need.id) == goes


def test_a_pinned_need_goes_to_its_agent_or_nowhere() -> None:
    offered = [_candidate(0, "a", 4.0, 1024), _candidate(1, "a", 0.1, 1024)]
    need = _need("i", spec(0.5), "a1")
    refusal = place([need], offered).refused[need.id]
    assert refusal.failed == {"agent of the container to adopt": 1, "cpus": 1}


def test_a_container_is_adopted_where_it_is_whatever_the_constraints_say_by_now() -> None:
    offered = [_candidate(0, "a", 4.0, 1024), _candidate(1, "b", 4.0, 1024)]
    rule = Constraint(attribute="hostname", operator=_O.UNIQUE)
    need = _need("i", spec(0.5, 64, (rule,)), "a0")
    result = place([need], offered, {"acme/web": [{"hostname": "h0"}]})
    assert result.placed == {need.id: "a0"}


def test_the_nearest_miss_is_told_in_plain_words() -> None:
    offered = [_candidate(n, "a", 1.0, 512 if n < 3 else 128) for n in range(8)]
    rule = Constraint(attribute="zone", operator=_O.IS, value="b")
    need = _need("i", spec(0.5, 256, (rule,)))
    assert place([need], offered).refused[need.id].nearest == "none of 8 agents is in zone b"
    offered += [_candidate(n, "b", 1.0, 128) for n in range(8, 12)]
    assert place([need], offered).refused[need.id].nearest == (
        "4 of 12 agents would do, none of them has the memory (256 MiB): the most is 128 MiB on h8"
    )
    offered = [_candidate(n, "a", 1.0, 512 if n < 3 else 128) for n in range(8)]
    offered += [_candidate(8, "b", 0.1, 512), _candidate(9, "b", 1.0, 128)]
    refusal = place([need], offered).refused[need.id]
    assert refusal.failed == {"zone IS b": 8, "cpus": 1, "mem": 1}
    assert refusal.nearest == (
        "2 of 10 agents are in zone b, 1 of them has the CPUs (0.5),"
        " none of them has the memory (256 MiB)"
    )
