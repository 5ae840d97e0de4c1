"""Why instances wait, and who makes room for them, when nobody offers anything: all is full, or others have it."""

from __future__ import annotations

from typing import Any

from libs.common.events import model as ev
from libs.common.spec import Constraint, ConstraintOperator, InstanceSpec
from libs.mesos import events as mesos
from services.scheduler.api import why_of
from services.scheduler.cluster import Cluster
from services.scheduler.offering import MORE_COMES_S
from services.scheduler.policy.explain import NOTHING_YET
from services.scheduler.refusing import LOOK_EVERY_S, MOST_LOOKED_AT, OFFERS_COME_S
from services.scheduler.settings import Quota, SchedulerConfig
from tests.unit.scheduler.world import Desk, free, kills, launches, spec, want


def _spec(cpus: float = 1.0, **more: Any) -> InstanceSpec:
    return spec(cpus, 64).model_copy(update=more)


def _full(count: int = 2, agents: int = 1, **more: Any) -> Desk:
    """Agents without room and hence without offers, with `count` healthy instances each."""
    desk = Desk(SchedulerConfig(quotas={"poor": Quota(cpus=0.5)}))
    desk.subscribe()
    desk.give(*(want(f"low-{n}", _spec(**more), "low/app") for n in range(count * agents)))
    desk.offer(*(f"a{n}" for n in range(agents)), cpus=count + 0.01, zone="a")
    for each in list(desk.cluster.instances.values()):
        desk.tell(each.attempt, "TASK_RUNNING", agent=each.agent, container=f"c-{each.id}")
    assert not desk.cluster.volatile.offers
    desk.events.clear()
    return desk


def _why(desk: Desk, name: str, alarm: str = "") -> str:
    why = why_of(desk.cluster, desk[name], alarm)
    return why.nearest if why is not None else ""


def test_who_waits_in_a_full_cluster_is_told_why() -> None:
    desk = _full(agents=3)
    desk.now += OFFERS_COME_S  # since the subscription
    rule = Constraint(attribute="zone", operator=ConstraintOperator.IS, value="b")
    desk.give(want("new"), want("elsewhere", spec(constraints=(rule,)), "acme/b"))
    full = "3 of 3 agents would do, none of them has the CPUs (0.5): the most is 0 on host-a0"
    assert _why(desk, "new") == full and _why(desk, "elsewhere") == "none of 3 agents is in zone b"
    desk.tick(OFFERS_COME_S / 2)
    assert not desk["new"].delayed  # a master may be about to offer something
    desk.tick(OFFERS_COME_S / 2)
    told = {each.instance: each for each in desk.events if isinstance(each, ev.PlacementDelayed)}
    assert told["new"].message == full
    assert (told["new"].agents, told["new"].failed) == (3, {"cpus": 3})
    assert told["elsewhere"].failed == {"zone IS b": 3}


def test_who_waits_for_what_others_have_is_told_so() -> None:
    desk = _full()
    desk.give(want("small", _spec(0.1), "acme/small"))
    desk.offer("a9", cpus=4.0)
    desk.tick(MORE_COMES_S)  # and nothing more comes of it
    desk.give(want("new"))
    desk.tick(OFFERS_COME_S)
    assert desk["new"].delayed == "1 of 2 agents would do, none of them is offered by Mesos now"
    (event,) = [each for each in desk.events if isinstance(each, ev.PlacementDelayed)]
    assert event.failed == {"cpus": 1, "offered now": 1}
    assert launches(desk.offer("a9", cpus=3.0)) == ["new.1"]


def test_agents_that_mesos_can_not_reach_are_counted_as_such() -> None:
    desk = _full(agents=2)
    desk.give(want("new"))
    on_a1 = [each for each in desk.cluster.instances.values() if each.agent == "a1"]
    for each in on_a1:
        desk.tell(each.attempt, "TASK_UNREACHABLE", agent="a1")
    desk.tick(OFFERS_COME_S)
    (why,) = desk.cluster.volatile.why.values()
    assert (why.refusal.agents, why.refusal.failed) == (2, {"reachable": 1, "cpus": 1})


def test_who_waits_just_after_a_subscription_is_told_that_nothing_has_been_offered() -> None:
    desk = _full()
    desk.subscribe()
    desk.give(want("new"))
    assert _why(desk, "new") == NOTHING_YET  # what is free on the agents is not known
    desk.tick(OFFERS_COME_S)
    assert _why(desk, "new").startswith("1 of 1 agent would do")


def test_who_waits_without_a_subscription_is_told_so() -> None:
    desk = _full()
    desk.give(want("new"))
    desk.tick(OFFERS_COME_S)
    desk.give(mesos.Disconnected("cut", True, 1.0), want("newer", app="acme/other"))
    for name in ("new", "newer"):
        assert _why(desk, name) == "the scheduler is not subscribed to Mesos"
        assert _why(desk, name, "Mesos: Framework has been removed").endswith("has been removed")
    assert _why(desk, "low-0") == ""  # it runs
    desk.subscribe()
    assert _why(desk, "newer") == NOTHING_YET


def test_who_waits_for_the_launch_rate_is_told_so() -> None:
    desk = Desk(SchedulerConfig(launches_per_s=0.5))
    desk.subscribe()
    desk.give(want("huge", spec(9.0), "acme/huge"))
    desk.give(*(want(f"i{n}", _spec(1.0), f"acme/a{n}") for n in range(3)))
    assert launches(desk.offer("a1", cpus=8.0)) == ["i0.1"]
    slow = "the cluster launches no more than 0.5 a second"
    assert _why(desk, "huge").startswith("1 of 1 agent would do")  # that is what is in its way
    assert [_why(desk, f"i{n}") for n in range(3)] == ["", slow, slow]
    desk.now += 2.0
    assert launches(desk.offer("a1", cpus=7.0)) == ["i1.1"]
    assert [_why(desk, f"i{n}") for n in range(3)] == ["", "", slow]
    assert not [each for each in desk.events if getattr(each, "message", "") == slow]
    desk.now += 2.0
    assert launches(desk.offer("a1", cpus=6.0)) == ["i2.1"]


def test_a_limit_is_told_whether_there_are_offers_or_not() -> None:
    desk = _full()
    desk.give(free(dry=0), want("dry", _spec(0.1, network="dry"), "acme/dry"))
    desk.give(want("poor", _spec(0.6), "poor/app"))
    desk.tick(OFFERS_COME_S)
    assert desk["dry"].delayed == "network dry has no free address"
    assert desk["poor"].delayed == "poor has 0 of its quota of 0.5 cpus"


def test_less_important_ones_make_room_though_nobody_offers_anything() -> None:
    desk = _full(disruption_budget=1)
    desk.give(want("high", _spec(priority=10), "high/app"))
    for _ in range(12):
        desk.tick(1.0)
    (victim,) = [each for each in desk.cluster.instances.values() if each.yields_to]
    assert victim.yields_to == "high" and kills(desk.actions)[0] == victim.attempt
    desk.tell(victim.attempt, "TASK_KILLED", agent=victim.agent)
    desk.tick(5.0)
    assert launches(desk.offer("a0", cpus=1.0)) == ["high.1"]


def test_so_they_do_for_a_new_leader() -> None:
    old = _full(disruption_budget=1)
    old.give(want("high", _spec(priority=10), "high/app"))
    desk = Desk(old.config, old.now, Cluster(old.cluster.instances.values()))
    desk.subscribe()
    for _ in range(12):
        desk.tick(1.0)
    assert [each.yields_to for each in desk.cluster.instances.values() if each.yields_to] == [
        "high"
    ]


def test_thousands_of_shapes_are_looked_at_some_at_a_time() -> None:
    count = 2 * MOST_LOOKED_AT + 1
    desk = _full()
    desk.give(*(want(f"i{n}", spec(0.5 + n / 1000), f"acme/a{n}") for n in range(count)))
    why = desk.cluster.volatile.why
    assert len(why) == MOST_LOOKED_AT
    for _ in range(2):
        desk.tick(0.1)
    why = desk.cluster.volatile.why
    assert len(why) == count
    first = sorted(each.at for each in why.values())
    desk.tick(0.1)
    assert sorted(each.at for each in desk.cluster.volatile.why.values()) == first  # just now
    desk.tick(LOOK_EVERY_S)
    again = [each for each in desk.cluster.volatile.why.values() if each.at == desk.now]
    assert len(again) == MOST_LOOKED_AT
