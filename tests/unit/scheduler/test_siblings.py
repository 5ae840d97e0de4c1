"""Where an app's other instances are is known whoever leads, and before their agents offer anything."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from libs.common.spec import Constraint, ConstraintOperator, InstanceSpec
from libs.mesos import events as mesos
from services.scheduler.cluster import Cluster
from services.scheduler.documents import from_body, to_body
from services.scheduler.model import Instance
from tests.unit.scheduler.world import Desk, launches, offer, spec, want

_O = ConstraintOperator
ZONES = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c"}


def _spec(**more: Any) -> InstanceSpec:
    return spec(0.5, 64).model_copy(update=more)


def _rule(operator: ConstraintOperator, value: str | None = None) -> InstanceSpec:
    return _spec(constraints=(Constraint(attribute="zone", operator=operator, value=value),))


def _offers(desk: Desk, *agents: str) -> list[str]:
    made = []
    for agent in agents:
        desk.offers += 1
        made.append(offer(desk.offers, agent, zone=ZONES[agent]))
    return launches(desk.give(mesos.Offers(tuple(made))))  # type: ignore[arg-type]


def _led_by_another(desk: Desk, without: str = "") -> Desk:
    """What a new leader reads from the store."""
    documents = {each.id: to_body(each) for each in desk.cluster.instances.values()}
    for body in documents.values():
        body.pop(without, None)
    found = [from_body(name, 1, body) for name, body in documents.items()]
    other = Desk(desk.config, desk.now, Cluster(found), offers=desk.offers)
    other.subscribe()
    return other


def test_what_an_older_release_has_left_of_another_agent_does_not_count() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1"))
    _offers(desk, "a1")
    body = to_body(desk["i1"])
    assert from_body("i1", 1, body).attributes == {"zone": "a"}
    assert from_body("i1", 1, {**body, "agent": "b1"}).attributes is None


def _again(desk: Desk) -> Desk:
    desk.give(mesos.Disconnected("cut", True, 1.0))
    desk.subscribe()
    return desk


@pytest.fixture(params=[_again, _led_by_another], ids=["resubscribed", "another leader"])
def anew(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("operator", [_O.UNIQUE, _O.MAX_PER])
def test_a_zone_that_has_its_share_gets_no_more(anew: Any, operator: ConstraintOperator) -> None:
    of = _rule(operator, "1" if operator is _O.MAX_PER else None)
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1", of))
    assert _offers(desk, "a1") == ["i1.1"]
    desk = anew(desk)
    desk.give(want("i2", of))
    assert _offers(desk, "a2") == []
    assert _offers(desk, "b1") == ["i2.1"]


def test_all_of_an_app_stay_in_the_zone_where_it_is(anew: Any) -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1", _rule(_O.CLUSTER)))
    assert _offers(desk, "b1") == ["i1.1"]
    desk = anew(desk)
    desk.give(want("i2", _rule(_O.CLUSTER)))
    assert launches(desk.offer("bare")) == []  # it has no zone
    assert _offers(desk, "a1") == []
    assert _offers(desk, "b2") == ["i2.1"]


def test_those_without_the_attribute_do_not_choose_for_the_others() -> None:
    """An app that had no rule before: where its instances are says nothing."""
    desk = Desk()
    desk.subscribe()
    desk.give(want("i1", _spec()))
    assert launches(desk.offer("bare")) == ["i1.1"]
    desk.give(want("i2", _rule(_O.CLUSTER)))
    assert launches(desk.offer("bare2")) == []
    assert _offers(desk, "a1") == ["i2.1"]


@pytest.mark.parametrize("of", [_rule(_O.GROUP_BY), _spec(spread=("zone",))])
def test_zones_are_kept_even(anew: Any, of: InstanceSpec) -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(*(want(f"i{n}", of) for n in range(3)))
    _offers(desk, "a1", "b1", "c1")
    desk = anew(desk)
    desk.give(want("i3", of), want("i4", of))
    _offers(desk, "a2", "b2")
    zones = Counter(ZONES[each.agent] for each in desk.cluster.instances.values())
    assert zones == {"a": 2, "b": 2, "c": 1}


def test_a_group_that_offers_nothing_stops_the_others() -> None:
    """As a full one does that offers the rest in which nothing fits."""
    desk = Desk()
    desk.subscribe()
    of = _rule(_O.GROUP_BY)
    desk.give(*(want(f"i{n}", of) for n in range(5)))
    assert len(_offers(desk, "a1", "b1")) == 5
    zones = Counter(ZONES[each.agent] for each in desk.cluster.instances.values())
    more, less = sorted(zones, key=lambda zone: -zones[zone])
    desk.give(want("i5", of))
    assert _offers(desk, f"{more}2") == []
    assert _offers(desk, f"{less}2") == ["i5.1"]


def test_a_group_that_is_gone_stops_nobody() -> None:
    desk = Desk()
    desk.subscribe()
    of = _rule(_O.GROUP_BY)
    desk.give(want("i0", of), want("i1", of))
    _offers(desk, "a1", "b1")
    there = {each.agent: each.attempt for each in desk.cluster.instances.values()}
    desk.tell(there["b1"], "TASK_UNREACHABLE", agent="b1")  # type: ignore[index]
    desk.give(want("i2", of), want("i3", of))
    assert len(_offers(desk, "a2")) == 2


def test_a_document_of_an_older_release_says_nothing_of_its_agent() -> None:
    desk = Desk()
    desk.subscribe()
    of = _rule(_O.UNIQUE)
    desk.give(want("i1", of))
    _offers(desk, "a1")
    desk = _led_by_another(desk, without="attributes")
    assert desk["i1"].attributes is None
    _offers(desk, "a1")
    desk.tell("i1.1", "TASK_RUNNING", agent="a1", container="c1")
    assert desk["i1"].attributes == {"zone": "a"}  # it is learned as the agent offers
    desk = _led_by_another(desk)
    desk.give(want("i2", of))
    assert _offers(desk, "a2") == []


class Leaders(RuleBasedStateMachine):
    """Siblings run, leaders and connections come and go, and agents offer in whatever order."""

    APPS = {
        "acme/unique": _rule(_O.UNIQUE),
        "acme/two": _rule(_O.MAX_PER, "2"),
        "acme/one": _rule(_O.CLUSTER),
        "acme/even": _rule(_O.GROUP_BY),
    }

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.desk.subscribe()
        self.made = 0
        self.even: Counter[str] = Counter()

    @rule(app=st.sampled_from(sorted(APPS)))
    def wanted(self, app: str) -> None:
        self.made += 1
        self.desk.give(want(f"i{self.made}", self.APPS[app], app))

    @rule(agent=st.sampled_from(sorted(ZONES)))
    def offered(self, agent: str) -> None:
        _offers(self.desk, agent)

    @rule(n=st.integers(0, 50))
    def ended(self, n: int) -> None:
        """Of the app that is kept even none: who is stopped is not the scheduler's choice."""
        live = [
            each
            for each in self.desk.cluster.instances.values()
            if each.live and each.app != "acme/even"
        ]
        if live:
            each = live[n % len(live)]
            self.desk.tell(each.attempt, "TASK_FAILED", agent=each.agent)

    @rule()
    def subscribed_again(self) -> None:
        self.desk = _again(self.desk)

    @rule()
    def led_by_another(self) -> None:
        self.desk = _led_by_another(self.desk)

    @rule()
    def time_passes(self) -> None:
        self.desk.tick(2.0)

    def zones(self, app: str) -> Counter[str]:
        found: list[Instance] = list(self.desk.cluster.instances.values())
        return Counter(ZONES[each.agent] for each in found if each.app == app and each.live)

    @invariant()
    def rules_hold(self) -> None:
        assert max(self.zones("acme/unique").values(), default=0) <= 1
        assert max(self.zones("acme/two").values(), default=0) <= 2
        assert len(self.zones("acme/one")) <= 1
        before, self.even = self.even, self.zones("acme/even")
        least = min(
            (self.even[zone] for zone in before), default=max(self.even.values(), default=0)
        )
        for zone, count in self.even.items():
            # A zone of which nobody had heard may stay behind, and is the next one then.
            assert count == before[zone] or count - 1 <= least


TestLeaders = Leaders.TestCase
TestLeaders.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
