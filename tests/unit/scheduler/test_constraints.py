"""Constraints mean what Marathon's documentation says of them: who lacks the attribute, numbers, groups."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from libs.common.spec import Constraint, ConstraintOperator, InstanceSpec
from libs.mesos import events as mesos
from libs.minimesos.resources_read import attributes_from_flag
from services.scheduler.api import why_of
from services.scheduler.model import AgentId, Amounts, InstanceId
from services.scheduler.policy import Candidate, Need, Shape, place
from tests.unit.scheduler.world import Desk, launches, offer, spec, want

_O = ConstraintOperator
SIZES = [1, 4, 40]
"""One; a few, which are searched for; many, which are filled in at once."""


def _rule(operator: ConstraintOperator, value: str | None = None, of: str = "zone") -> InstanceSpec:
    return spec(0.1, 4, (Constraint(attribute=of, operator=operator, value=value),))


def _candidate(name: str, **attributes: str) -> Candidate:
    return Candidate(AgentId(name), f"host-{name}", attributes, Amounts(90.0, 90_000.0, 0.0))


def _needs(of: InstanceSpec, count: int) -> list[Need]:
    return [Need(InstanceId(f"i{n}"), Shape.of("acme/web", of)) for n in range(count)]


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize(
    "of",
    [
        _rule(_O.UNIQUE),
        _rule(_O.MAX_PER, "100"),
        _rule(_O.GROUP_BY),
        _rule(_O.CLUSTER),
        _rule(_O.CLUSTER, "a"),
        _rule(_O.LIKE, ".*"),
        _rule(_O.LIKE, ""),
        _rule(_O.IS, "a"),
        _rule(_O.IS, ""),
    ],
    ids=lambda of: f"{of.constraints[0].operator} {of.constraints[0].value or ''}",
)
def test_who_lacks_the_attribute_is_refused(of: InstanceSpec, count: int) -> None:
    result = place(_needs(of, count), [_candidate("bare"), _candidate("other", rack="r")])
    assert not result.placed
    (name,) = {each for refusal in result.refused.values() for each in refusal.failed}
    assert name.startswith("zone ")


@pytest.mark.parametrize("count", SIZES)
def test_only_unlike_lets_those_through_that_lack_the_attribute(count: int) -> None:
    result = place(_needs(_rule(_O.UNLIKE, ".*"), count), [_candidate("z", zone="a")])
    assert not result.placed
    bare = [_candidate("z", zone="a"), _candidate("bare")]
    result = place(_needs(_rule(_O.UNLIKE, ".*"), count), bare)
    assert list(result.placed.values()) == ["bare"] * count


# -- types of attributes


def _offered(desk: Desk, agent: str, flag: str, cpus: float = 4.0) -> list[str]:
    desk.offers += 1
    found: Any = {**offer(desk.offers, agent, cpus), "attributes": attributes_from_flag(flag)}
    return launches(desk.give(mesos.Offers((found,))))


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.subscribe()
    return made


def test_numbers_of_many_digits_are_told_apart(desk: Desk) -> None:
    desk.give(*(want(f"i{n}", _rule(_O.UNIQUE, of="rack")) for n in (1, 2, 3)))
    assert len(_offered(desk, "a1", "rack:20240101")) == 1
    assert len(_offered(desk, "a2", "rack:20240102")) == 1
    assert len(_offered(desk, "a3", "rack:20240102")) == 0


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("rack:20240101", "20240101"),
        ("rack:0.8", "0.8"),
        ("rack:0.8", "0.80"),
        ("rack:0.8", "0.8001"),
        ("rack:[8-9,1-3]", "[1-3,8-9]"),
        ("rack:{b,a}", "{a,b}"),
    ],
)
def test_is_compares_text_and_numbers(desk: Desk, flag: str, wanted: str) -> None:
    desk.give(want("i1", _rule(_O.IS, wanted, of="rack")))
    assert _offered(desk, "a1", "rack:0.81") == []
    assert _offered(desk, "a2", flag) == ["i1.1"]


def test_like_looks_at_numbers_as_they_are_written(desk: Desk) -> None:
    desk.give(want("i1", _rule(_O.LIKE, "2024[0-9]{4}", of="rack")))
    assert _offered(desk, "a1", "rack:20230101") == []
    assert _offered(desk, "a2", "rack:20240101") == ["i1.1"]


# -- GROUP_BY with a number


def _zones(desk: Desk) -> str:
    instances = desk.cluster.instances.values()
    return "".join(sorted(str(each.agent)[0] for each in instances if each.agent))


@pytest.mark.parametrize("count", [3, 30])
def test_a_value_that_is_known_is_not_in_use(desk: Desk, count: int) -> None:
    """Of three zones one offers nothing for now: nobody gets a second instance before it has its first."""
    _offered(desk, "c1", "zone:c")
    desk.give(mesos.Rescind(f"o{desk.offers}"))
    desk.give(*(want(f"i{n}", _rule(_O.GROUP_BY, "3")) for n in range(count)))
    _offered(desk, "a1", "zone:a")
    _offered(desk, "b1", "zone:b")
    _offered(desk, "a2", "zone:a")
    assert _zones(desk) == "ab"
    waiting = next(each for each in desk.cluster.instances.values() if not each.agent)
    why = why_of(desk.cluster, waiting)
    assert why is not None
    assert why.failed["zone GROUP_BY 3"] > 0
    assert why.nearest == "1 of 4 agents would do, none of them is offered by Mesos now"
    _offered(desk, "c1", "zone:c", cpus=0.15)  # and the executor is there
    assert set(_zones(desk)) == set("abc")


@pytest.mark.parametrize("count", [4, 40])
def test_more_values_than_the_number_are_of_use_too(count: int) -> None:
    offered = [_candidate(zone, zone=zone) for zone in "abcd"]
    placed = place(_needs(_rule(_O.GROUP_BY, "2"), count), offered).placed
    assert Counter(placed.values()) == dict.fromkeys("abcd", count // 4)


@pytest.mark.parametrize("count", [5, 50])
def test_too_few_values_have_one_instance_each(count: int) -> None:
    offered = [_candidate(zone, zone=zone) for zone in "abc"]
    result = place(_needs(_rule(_O.GROUP_BY, "4"), count), offered)
    assert sorted(result.placed.values()) == ["a", "b", "c"]
    told = {refusal.nearest for refusal in result.refused.values()}
    assert told == {"none of 3 agents has a zone that is not in use yet"}


@pytest.mark.parametrize("count", [2, 20])
def test_values_of_siblings_elsewhere_are_in_use(count: int) -> None:
    there = {"acme/web": [{"hostname": "gone-1"}, {"hostname": "gone-2"}]}
    needs = _needs(_rule(_O.GROUP_BY, "3", of="hostname"), count)
    assert len(place(needs, [_candidate("a")], there).placed) == count
    assert len(place(needs, [_candidate("a")], {"acme/web": there["acme/web"][:1]}).placed) == 1


def test_the_roomiest_zone_is_chosen_whatever_the_number() -> None:
    small = [Candidate(AgentId(f"a{n}"), f"a{n}", {"zone": "a"}, Amounts(0.1, 4.0)) for n in "123"]
    large = [Candidate(AgentId(f"b{n}"), f"b{n}", {"zone": "b"}, Amounts(1.0, 99.0)) for n in "12"]
    rules = (
        Constraint(attribute="zone", operator=_O.CLUSTER),
        Constraint(attribute="hostname", operator=_O.GROUP_BY, value="2"),
    )
    placed = place(_needs(spec(0.1, 4, rules), 12), [*small, *large]).placed
    assert Counter(placed.values()) == {"b1": 6, "b2": 6}
