"""Who is placed when there is not enough for all, who makes room, and what those that wait are told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.events import model as ev
from libs.common.spec import Constraint, ConstraintOperator, InstanceSpec
from libs.mesos import events as mesos
from services.scheduler.api import instance_view, why_of
from services.scheduler.cluster import Cluster
from services.scheduler.core import Input, decide
from services.scheduler.departed import AWAITED_S
from services.scheduler.documents import from_body, to_body
from services.scheduler.evicting import MOST_SHAPES
from services.scheduler.model import Decline, Door, InstanceId, Node, NodeSet, State, Tick, Unwant
from services.scheduler.networks import AddressPool
from services.scheduler.nodes import FORCED
from services.scheduler.offering import MORE_COMES_S
from services.scheduler.planning import plan
from services.scheduler.refusing import OFFERS_COME_S
from services.scheduler.settings import Quota, SchedulerConfig
from services.scheduler.tasks import EXECUTOR_ID
from tests.unit.scheduler.world import (
    FACTORY,
    Desk,
    free,
    kills,
    launches,
    network,
    offer,
    spec,
    want,
)


def _spec(cpus: float = 1.0, **more: Any) -> InstanceSpec:
    return spec(cpus, 64).model_copy(update=more)


def _desk(**config: Any) -> Desk:
    desk = Desk(SchedulerConfig(**config))
    desk.subscribe()
    return desk


def _by_bu(actions: list[Any]) -> Counter[str]:
    return Counter(task.partition("-")[0] for task in launches(actions))


def _many(desk: Desk, bu: str, count: int, of: InstanceSpec) -> None:
    desk.give(*(want(f"{bu}-{n}", of, f"{bu}/app") for n in range(count)))


# -- fair shares, priorities, quotas -------------------------------------------------------------------


def test_business_units_get_equal_dominant_shares_when_there_is_not_enough() -> None:
    """Ghodsi et al. 2011, figure 3: 9 CPUs and 18 GB; one wants <1, 4 GB>, the other <3, 1 GB>: 3 and 2 of them."""
    desk = _desk()
    one = spec(1.0, 4 * 50)
    other = spec(3.0, 1 * 50)
    _many(desk, "acme", 10, one)
    _many(desk, "beta", 10, other)
    desk.offers += 1
    # The executor's own share comes on top.
    launched = desk.offer("a1", cpus=9.01)
    assert _by_bu(launched) == {"acme": 3, "beta": 2}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 30)), min_size=2, max_size=4),
    st.integers(4, 40),
)
def test_no_unit_that_waits_has_less_than_another_by_more_than_a_turn(
    units: list[tuple[int, int]], cpus: int
) -> None:
    desk = _desk()
    for n, (size, count) in enumerate(units):
        _many(desk, f"u{n}", count, spec(size / 10, 4))
    got = _by_bu(desk.offer("a1", cpus=float(cpus)))
    shares = {n: got[f"u{n}"] * size / 10 / cpus for n, (size, _) in enumerate(units)}
    for n, (size, count) in enumerate(units):
        if got[f"u{n}"] < count:  # it waits: nobody has more, but for one turn
            for other, (theirs, _) in enumerate(units):
                turn = max(0.011, theirs / 10 / cpus)
                assert shares[other] <= shares[n] + size / 10 / cpus + turn + 1e-9


def test_a_higher_priority_comes_first_whatever_the_shares_are() -> None:
    desk = _desk()
    _many(desk, "acme", 3, _spec())
    _many(desk, "beta", 3, _spec(priority=10))
    assert _by_bu(desk.offer("a1", cpus=4.0)) == {"beta": 3}


def test_a_unit_gives_no_higher_priority_than_it_may() -> None:
    desk = _desk(max_priorities={"beta": 0})
    _many(desk, "acme", 3, _spec(priority=1))
    _many(desk, "beta", 3, _spec(priority=10))
    assert _by_bu(desk.offer("a1", cpus=3.01)) == {"acme": 3}


@pytest.mark.parametrize("looks", [0, 3])
def test_of_like_needs_of_a_unit_the_one_that_waits_longest_comes_first(looks: int) -> None:
    desk = _desk()
    desk.give(want("old", _spec(), "acme/zeta"))
    for _ in range(looks):
        desk.tick(OFFERS_COME_S)  # it is told why it waits, which is a change
    desk.now += 1.0
    desk.give(want("new", _spec(), "acme/alpha"))
    assert launches(desk.offer("a1", cpus=1.01)) == ["old.1"]


def test_a_quota_is_never_exceeded_and_says_so() -> None:
    desk = _desk(quotas={"acme": Quota(cpus=2.0)})
    _many(desk, "acme", 3, _spec())
    assert _by_bu(desk.offer("a1", cpus=8.0)) == {"acme": 2}
    desk.tick(OFFERS_COME_S)
    assert desk["acme-2"].delayed == "acme has 2 of its quota of 2 cpus"
    for name in ("acme-0", "acme-1"):
        desk.tell(f"{name}.1", "TASK_FAILED")
    desk.tick(2.0)
    assert _by_bu(desk.offer("a1", cpus=8.0)) == {"acme": 2}


# -- addresses -----------------------------------------------------------------------------------------


def test_nothing_is_placed_where_no_address_is_free() -> None:
    desk = _desk()
    desk.give(free(web=1))
    _many(desk, "acme", 2, _spec(0.1))
    assert len(launches(desk.offer("a1"))) == 1
    desk.tick(OFFERS_COME_S)
    assert desk["acme-1"].delayed == "network web has no free address"
    assert not launches(desk.offer("a2"))
    # The one that was placed may not have asked for its address yet: it counts until then.
    desk.give(free(web=1))
    assert not launches(desk.offer("a2"))
    desk.tell("acme-0.1", "TASK_RUNNING", container="c")
    desk.give(free(web=1))
    assert launches(desk.offer("a2")) == ["acme-1.1"]


def test_what_ipam_said_long_ago_and_what_it_never_said_limits_nothing() -> None:
    desk = _desk()
    desk.give(free(web=0, other=0))
    _many(desk, "acme", 1, _spec(0.1))
    assert not launches(desk.offer("a1"))
    later = desk.tick(desk.config.pools_fresh_s + 1)
    assert launches(later + desk.offer("a1")) == ["acme-0.1"]
    desk.tick(MORE_COMES_S)
    _many(desk, "beta", 1, _spec(0.1, network="unheard"))
    assert launches(desk.offer("a2")) == ["beta-0.1"]


def test_one_that_takes_an_address_over_needs_no_free_one() -> None:
    desk = _desk()
    desk.give(free(web=0))
    _many(desk, "acme", 1, _spec(0.1, sticky_key="acme/app/0"))
    assert launches(desk.offer("a1")) == ["acme-0.1"]


def test_an_instance_goes_to_the_zone_of_its_network() -> None:
    desk = _desk()
    desk.give(free(web=network(AddressPool(family=4, free=9), zone="b")))
    _many(desk, "acme", 1, _spec(0.1))
    assert not launches(desk.offer("a1", zone="a"))
    desk.tick(OFFERS_COME_S)
    assert desk["acme-0"].delayed == "none of 1 agents is in zone b, where network web is"
    assert launches(desk.offer("a2", zone="b")) == ["acme-0.1"]


# -- why they wait -------------------------------------------------------------------------------------


def test_of_many_that_wait_each_is_told_once_though_the_nearest_miss_moves() -> None:
    desk = _desk()
    _many(desk, "acme", 1200, _spec(4.0))

    def told(*inputs: Input) -> list[int]:
        desk.events.clear()
        desk.give(*inputs)
        desk.now += OFFERS_COME_S
        for _ in range(6):
            desk.now += 0.1
            desk.offer(f"a{desk.offers}", cpus=0.5 + desk.offers / 100)
        delayed = Counter(e.instance for e in desk.events if isinstance(e, ev.PlacementDelayed))
        return [delayed[f"acme-{n}"] for n in range(1201)]

    assert told() == [1] * 1200 + [0]
    assert told() == [0] * 1201
    assert told(want("acme-1200", _spec(4.0), "acme/app")) == [0] * 1200 + [1]
    desk.now += desk.config.delayed_every_s
    assert told() == [1] * 1201


# -- who makes room ------------------------------------------------------------------------------------


def _full_house(budget: int = 1, priority: int = 0, count: int = 4) -> Desk:
    """One agent with `count` instances that leave no room, and one of priority 10 that has waited."""
    desk = _desk()
    _many(desk, "low", count, _spec(disruption_budget=budget, priority=priority))
    desk.offer("a1", cpus=count + 0.01)
    for n in range(count):
        desk.tell(f"low-{n}.1", "TASK_RUNNING", container=f"c{n}")
    desk.give(want("high", _spec(priority=10), "high/app"))
    desk.offer("a2", cpus=0.5)
    desk.tick(desk.config.preempt_after_s)
    desk.offer("a2", cpus=0.5)
    return desk


def test_a_less_important_instance_makes_room_and_it_is_audited() -> None:
    desk = _full_house()
    (audit,) = [each for each in desk.events if isinstance(each, ev.AuditRecorded)]
    assert (audit.actor, audit.action, audit.allowed) == ("scheduler", "instance.evict", True)
    asked = [each for each in desk.cluster.instances.values() if each.yields_to]
    assert [each.yields_to for each in asked] == ["high"]
    victim = asked[0]
    assert audit.target == f"low/app/instances/{victim.id}"
    assert "for high of high/app, priority 10 over 0" in audit.detail
    assert from_body(victim.id, victim.version, to_body(victim)) == victim  # a new leader goes on
    desk.tick(0.5)
    assert kills(desk.actions) == [f"{victim.id}.1"]
    desk.events.clear()
    desk.tell(f"{victim.id}.1", "TASK_KILLED")
    (exited,) = [each for each in desk.events if isinstance(each, ev.ContainerExited)]
    assert (exited.reason, exited.wanted, exited.final) == (
        "REASON_EXECUTOR_PREEMPTED",
        False,
        False,
    )
    after = desk[victim.id]
    assert (after.state, after.failures, after.yields_to) == (State.PENDING, 0, "")
    desk.tick(30.0)
    assert launches(desk.offer("a1", cpus=1.0)) == ["high.1"]


@pytest.mark.parametrize(
    ("budget", "priority"), [(0, 0), (1, 10), (1, 11)], ids=["no budget", "equal", "higher"]
)
def test_nobody_makes_room_without_a_budget_or_for_its_equal(budget: int, priority: int) -> None:
    desk = _full_house(budget, priority)
    for _ in range(10):
        desk.tick(5.0)
    assert not any(each.yields_to for each in desk.cluster.instances.values())
    assert not kills(desk.actions)


def test_nobody_makes_room_where_more_room_is_no_help() -> None:
    desk = _full_house(priority=10)  # nobody has yet
    desk.give(free(none=0), want("dry", _spec(0.1, priority=20, network="none"), "dry/app"))
    for _ in range(10):
        desk.tick(5.0)
        desk.give(free(none=0))
        desk.offer("a2", cpus=0.5)
    assert desk["dry"].delayed == "network none has no free address"
    assert not any(each.yields_to for each in desk.cluster.instances.values())


def test_nobody_makes_room_while_tasks_run_that_nobody_knows() -> None:
    desk = _full_house(priority=10)  # nobody has yet
    desk.tell("ghost.1", "TASK_RUNNING", container="g")
    desk.give(want("higher", _spec(priority=20), "higher/app"))
    for _ in range(10):
        desk.tick(5.0)
        desk.offer("a2", cpus=0.5)
    assert _asked(desk) == 0
    desk.tell("ghost.1", "TASK_FINISHED")
    _wait(desk)
    assert _asked(desk) == 1


def test_never_more_than_the_budget_are_missing() -> None:
    desk = _full_house(budget=1)
    desk.give(want("high-2", _spec(priority=10), "high/app"))
    for _ in range(20):
        desk.tick(2.0)
        desk.offer("a2", cpus=0.5)
        missing = [
            each
            for each in desk.cluster.instances.values()
            if each.app == "low/app" and (each.yields_to or each.state is not State.RUNNING)
        ]
        assert len(missing) == 1
    ill = _full_house(budget=1)
    for each in ill.cluster.instances.values():
        assert each.app != "low/app" or each.healthy  # the first time all were well


def _spared(budgets: tuple[int, ...]) -> Desk:
    """One agent that is full of an app's instances, each with such a budget, and one that will wait for it."""
    desk = _desk()
    wants = [
        want(f"low-{n}", _spec(disruption_budget=budget), "low/app")
        for n, budget in enumerate(budgets)
    ]
    desk.give(*wants)
    desk.offer("a1", cpus=len(budgets) + 0.01)
    for each in wants:
        desk.tell(f"{each.instance.id}.1", "TASK_RUNNING", container=each.instance.id)
    return desk


def _spared_on_two_agents() -> Desk:
    """Two of an app on one agent and a third on another, each with a budget of one; somebody waits for room."""
    desk = _spared((1, 1))
    desk.give(want("low-2", _spec(disruption_budget=1), "low/app"))
    desk.offer("a3", cpus=1.01)
    desk.tell("low-2.1", "TASK_RUNNING", agent="a3", container="low-2")
    desk.give(want("high", _spec(priority=10), "high/app"))
    return desk


def _asked(desk: Desk) -> int:
    return sum(bool(each.yields_to) for each in desk.cluster.instances.values())


def test_one_that_is_new_is_missing_from_the_start() -> None:
    desk = _spared((1, 1, 1, 1))
    desk.give(want("high", _spec(priority=10), "high/app"))
    desk.offer("a2", cpus=0.5)
    desk.now += desk.config.preempt_after_s
    desk.give(want("low-4", _spec(disruption_budget=1), "low/app"))
    assert _asked(desk) == 0


def _drained(desk: Desk, agent: str, version: int = 1) -> None:
    desk.give(NodeSet(Node(f"host-{agent}", Door.DRAINING, version=version)))


def _wait(desk: Desk, looks: int = 20) -> None:
    for _ in range(looks):
        desk.tick(1.0)


def test_a_percentage_is_of_what_there_is_to_be_now() -> None:
    half = _spec(disruption_budget=4, disruption_budget_pct=50)  # as a release of eight has it
    desk = _desk()
    _many(desk, "low", 8, half)
    desk.offer("a1", cpus=8.01)
    for n in range(8):
        desk.tell(f"low-{n}.1", "TASK_RUNNING", container=f"c{n}")
    for n in range(4, 8):
        desk.give(Unwant(InstanceId(f"low-{n}"), "low/app", "scaled down"))
        desk.tell(f"low-{n}.1", "TASK_KILLED")
    desk.tick(AWAITED_S)
    desk.give(*(want(f"high-{n}", _spec(5.0, priority=10), "high/app") for n in range(4)))
    _wait(desk)
    assert _asked(desk) == 2  # of the four that there are, not four of eight


def test_room_is_not_made_by_what_is_left_of_a_release_that_is_replaced() -> None:
    """Of two, one is stopped for its successor: none would be left. Nor in between, before that is asked for."""
    desk = _spared((1, 1))
    desk.give(want("high", _spec(priority=10), "high/app"))
    desk.give(Unwant(InstanceId("low-0"), "low/app", "a new release"))
    _wait(desk)
    assert _asked(desk) == 0
    desk.give(want("fill", _spec(priority=30), "fill/app"))  # takes what it had
    desk.tell("low-0.1", "TASK_KILLED")
    desk.offer("a1", cpus=1.0)
    _wait(desk)
    assert _asked(desk) == 0
    desk.give(want("low-2", _spec(disruption_budget=1), "low/app"))
    desk.tick(AWAITED_S)
    assert _asked(desk) == 0
    desk.offer("a3", cpus=2.01)
    desk.tell("high.1", "TASK_RUNNING", agent="a3", container="high")
    desk.tell("low-2.1", "TASK_RUNNING", agent="a3", container="low-2")
    desk.give(want("high-2", _spec(priority=10), "high/app"))
    _wait(desk)
    assert _asked(desk) == 1  # now that it runs, one can be spared


def test_who_is_to_move_is_missing_and_nobody_makes_room() -> None:
    desk = _spared_on_two_agents()
    _drained(desk, "a3")
    assert desk["low-2"].leaving
    _wait(desk)
    assert _asked(desk) == 0


def test_nobody_is_asked_to_move_while_another_of_its_app_makes_room() -> None:
    """Its deployer does not know of that one yet, and would take the last that the budget leaves for another."""
    desk = _spared_on_two_agents()
    _wait(desk)
    (victim,) = [each for each in desk.cluster.instances.values() if each.yields_to]
    other = {"low-0", "low-1", "low-2"} - {victim.id}
    _drained(desk, "a1")
    _drained(desk, "a3")
    desk.tick(1.0)
    assert not any(desk[name].leaving for name in other)
    desk.tell(victim.attempt, "TASK_KILLED", agent=victim.agent)
    desk.tick(1.0)
    assert all(desk[name].leaving for name in other)


def test_what_is_forced_to_move_is_told_so_whoever_makes_room() -> None:
    desk = _spared((1, 1))
    desk.give(want("high", _spec(priority=10), "high/app"))
    _wait(desk)
    assert _asked(desk) == 1
    late = Node("host-a1", Door.DRAINING, force=True, overdue_at=desk.now, version=1)
    desk.give(NodeSet(late))
    assert all(each.leaving == FORCED for each in desk.cluster.instances.values() if each.live)


def test_who_finds_nobody_keeps_nobody_else_from_finding_somebody() -> None:
    """More of them than one look has time for, all of them more important."""
    desk = _spared((1, 1))
    vast = [_spec(100.0 + n, priority=20) for n in range(3 * MOST_SHAPES)]
    desk.give(*(want(f"vast-{n}", of, f"vast/{n}") for n, of in enumerate(vast)))
    desk.give(want("high", _spec(priority=10), "high/app"))
    desk.tick(desk.config.preempt_after_s)
    _wait(desk, 10)
    assert [each.yields_to for each in desk.cluster.instances.values() if each.yields_to] == [
        "high"
    ]


def test_of_two_releases_the_smaller_budget_holds() -> None:
    desk = _spared((2, 1, 1))
    desk.give(want("high", _spec(2.0, priority=10), "high/app"))
    for _ in range(20):
        desk.tick(1.0)
        desk.offer("a2", cpus=0.5)
        assert _asked(desk) == 0
    desk = _spared((2, 2, 2))
    desk.give(want("high", _spec(2.0, priority=10), "high/app"))
    for _ in range(20):
        desk.tick(1.0)
    assert _asked(desk) == 2


def test_nobody_makes_room_where_what_others_wait_for_forbids_it() -> None:
    """A release that keeps apart from its own kind waits, and binds the app's other one, which has found no room."""
    desk = _spared((1, 1))
    desk.give(want("web-0", _spec(0.5), "high/web"))
    desk.offer("a1", cpus=0.5)
    desk.tell("web-0.1", "TASK_RUNNING", container="web-0")
    desk.give(want("web-1", _spec(apart_from=("web",)), "high/web"))
    desk.give(want("web-2", _spec(priority=10), "high/web"))
    for _ in range(20):
        desk.tick(1.0)
        assert _asked(desk) == 0
    desk.give(Unwant(InstanceId("web-1"), "high/web", "given up"))
    for _ in range(20):
        desk.tick(1.0)
    assert _asked(desk) == 1


# -- slices, offers, reasons, plans -------------------------------------------------------------------


def test_many_are_placed_in_slices_one_after_the_other() -> None:
    desk = _desk(place_slice=10)
    _many(desk, "acme", 25, _spec(0.1))
    desk.offers += 3
    first = desk.offer("a1", "a2", "a3", cpus=1.01)
    assert len(launches(first)) == 10 and desk.cluster.volatile.more
    second = desk.give(Tick())
    assert len(launches(second)) == 10 and desk.cluster.volatile.more
    assert len(launches(desk.give(Tick()))) == 5 and not desk.cluster.volatile.more


def test_nothing_spins_when_mesos_is_gone_in_the_middle_of_many() -> None:
    desk = _desk(place_slice=10)
    _many(desk, "acme", 25, _spec(0.1))
    desk.offer("a1", cpus=8.0)
    assert desk.cluster.volatile.more
    desk.give(mesos.Disconnected("cut", True, 1.0))
    assert not desk.cluster.volatile.more


def test_an_offer_that_can_not_help_goes_back_at_once_and_others_are_held() -> None:
    desk = _desk()
    rule = Constraint(attribute="zone", operator=ConstraintOperator.IS, value="b")
    desk.give(want("i1", _spec(8.0, constraints=(rule,))))
    back = [each for each in desk.offer("a1", zone="a") if isinstance(each, Decline)]
    assert [each.refuse_s for each in back] == [desk.config.decline_s]
    assert not any(isinstance(each, Decline) for each in desk.offer("a2", zone="b"))
    # A second offer of the same agent makes it large enough.
    assert launches(desk.offer("a2", cpus=4.5, zone="b")) == ["i1.1"]


def test_why_an_instance_waits_is_known_at_once_and_stays_up_to_date() -> None:
    desk = _desk()
    rule = Constraint(attribute="zone", operator=ConstraintOperator.IS, value="b")
    desk.give(want("i1", _spec(1.0, constraints=(rule,))))
    desk.offer("a1", zone="a")

    def view() -> dict[str, Any]:
        instance = desk["i1"]
        shown = instance_view(instance, why_of(desk.cluster, instance))
        return dict(orjson.loads(orjson.dumps(shown)))

    assert view()["waiting"] == "none of 1 agents is in zone b"
    assert view()["why"] == {
        "agents": 1,
        "failed": {"zone IS b": 1},
        "nearest": "none of 1 agents is in zone b",
    }
    desk.offer("a2", "a3", zone="b", cpus=0.5)
    # The one that went back because it can't help is known all the same.
    assert view()["why"]["agents"] == 3
    assert view()["why"]["failed"] == {"zone IS b": 1, "cpus": 2}
    assert "the most is 0.49 on host-a2" in view()["waiting"]
    desk.offer("a4", zone="b")
    assert view()["why"] is None and not desk.cluster.volatile.why


def test_a_plan_says_where_instances_would_go_though_nobody_offers() -> None:
    desk = _desk()
    desk.give(want("i1", _spec(1.0)))
    desk.offer("a1", "a2", cpus=2.01, zone="z1")
    desk.tick(MORE_COMES_S)
    assert not desk.cluster.volatile.offers  # nothing waits: all went back
    planned = plan(desk.cluster, "acme/web", _spec(1.0), 5, False, desk.now, desk.config)
    assert [(each.hostname, each.zone, each.count) for each in planned.places] == [
        ("host-a1", "z1", 1),
        ("host-a2", "z1", 2),
    ]
    assert planned.unplaced == 2 and planned.why is not None
    assert planned.why.nearest.startswith("2 of 2 agents would do, none of them has the CPUs (1)")
    rolled = plan(desk.cluster, "acme/web", _spec(1.0), 4, True, desk.now, desk.config)
    assert rolled.unplaced == 0
    assert desk["i1"].state is State.STAGED and not desk.cluster.volatile.offers


def test_a_plan_in_place_of_others_does_not_bring_their_lost_host_back() -> None:
    desk = _desk()
    desk.give(want("i1", _spec(1.0)))
    desk.offer("a1", cpus=2.01)
    desk.tell("i1.1", "TASK_RUNNING", container="c1")
    desk.tell("i1.1", "TASK_UNREACHABLE", reason="REASON_AGENT_REMOVED")
    planned = plan(desk.cluster, "acme/web", _spec(1.0), 1, True, desk.now, desk.config)
    assert planned.unplaced == 1 and planned.why is not None
    assert planned.why.failed == {"reachable": 1}


def test_a_plan_offers_no_host_that_is_lost_though_nothing_of_ours_is_there() -> None:
    desk = _desk()

    def unplaced() -> int:
        planned = plan(desk.cluster, "acme/web", _spec(1.0), 4, False, desk.now, desk.config)
        if planned.unplaced:
            assert planned.why is not None and planned.why.failed["reachable"] == 1
        return planned.unplaced

    desk.offer("a1", "a2", cpus=2.01)
    assert not unplaced()
    desk.give(mesos.Failure("a1", "e1", 9), mesos.Failure(None, "e1", 9))
    assert not unplaced()  # an executor has ended: its host is there
    desk.give(mesos.Failure("a1", None, None), mesos.Failure("unheard-of", None, None))
    assert unplaced() == 2
    desk.offer("a1", cpus=2.01)
    assert not unplaced()
    desk.give(mesos.Failure("a1", None, None))
    desk.give(want("i1", _spec(3.0)))
    desk.tick(OFFERS_COME_S)
    (why,) = desk.cluster.volatile.why.values()
    assert why.refusal.failed["reachable"] == 1  # nor does who waits hear of its room
    desk.subscribe()
    assert not desk.cluster.volatile.lost


def test_a_full_host_that_is_back_says_so_by_what_runs_there() -> None:
    desk = _desk()
    desk.give(want("i1", _spec(1.0)))
    desk.offer("a1", cpus=2.01)
    desk.tell("i1.1", "TASK_RUNNING", container="c1")
    desk.give(mesos.Failure("a1", None, None))
    desk.tell("i1.1", "TASK_UNREACHABLE", reason="REASON_AGENT_REMOVED")
    assert plan(desk.cluster, "acme/web", _spec(1.0), 1, False, desk.now, desk.config).unplaced
    desk.tell("i1.1", "TASK_RUNNING", reason="REASON_AGENT_REREGISTERED", container="c1")
    assert not plan(desk.cluster, "acme/web", _spec(1.0), 1, False, desk.now, desk.config).unplaced


@pytest.mark.parametrize(("ends", "placed"), [(False, 1), (True, 0)])
def test_an_executor_that_has_ended_needs_room_again_in_what_was_offered_before(
    ends: bool, placed: int
) -> None:
    desk = _desk()
    made = offer(900, "a1", 1.0, 1024.0)
    made["executor_ids"] = [{"value": EXECUTOR_ID}]
    told = [mesos.Failure("a1", EXECUTOR_ID, 9)] if ends else []
    actions = desk.give(mesos.Offers((made,)), *told, want("i1", _spec(1.0)))  # type: ignore[arg-type]
    assert len(launches(actions)) == placed


def test_a_plan_of_a_release_is_not_bound_by_what_the_one_before_keeps_apart_from() -> None:
    desk = _desk()
    desk.give(want("i1", _spec(1.0, apart_from=("web",))))
    desk.offer("a1", cpus=2.01)
    desk.tick(MORE_COMES_S)
    for of, unplaced in ((_spec(1.0), 0), (_spec(1.0, apart_from=("web",)), 1)):
        planned = plan(desk.cluster, "acme/web", of, 2, True, desk.now, desk.config)
        assert planned.unplaced == unplaced


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5))
def test_a_decision_changes_nothing_but_its_draft(count: int, budget: int) -> None:
    desk = _full_house(budget, count=count)

    def state(cluster: Cluster) -> str:
        volatile = cluster.volatile
        roster = volatile.roster
        agents = roster.copy().agents(lambda _: pytest.fail("nothing is dirty"), ())
        return repr(
            (
                cluster.instances,
                cluster.ledger.__dict__,
                volatile.offers,
                volatile.why,
                volatile.networks,
                roster.offers,
                agents.free.tolist(),
                roster.total.tolist(),
            )
        )

    desk.give(Tick())
    before = state(desk.cluster) if not desk.cluster.volatile.roster.dirty else ""
    inputs: list[Input] = [want("new", _spec(0.1), "acme/new"), free(web=3)]
    one = decide(desk.cluster, inputs, desk.now + 1, desk.config, FACTORY)
    other = decide(desk.cluster, inputs, desk.now + 1, desk.config, FACTORY)
    assert one.actions == other.actions and one.changed == other.changed
    if before:
        assert state(desk.cluster) == before


# -- where it was ----------------------------------------------------------------------------------------


def _both(desk: Desk, home_cpus: float = 4.0) -> None:
    """Offers of its home and of an agent that fits better."""
    desk.offers += 2
    two = (offer(90 + desk.offers, "a1", home_cpus), offer(91 + desk.offers, "a2", 1.2, 256.0))
    desk.give(mesos.Offers(two))  # type: ignore[arg-type]


def _failed(failures: int = 1, **of: Any) -> Desk:
    """An instance has failed so often on a1, and waits."""
    desk = _desk()
    desk.give(want("db-1", _spec(1.0, **of), "acme/db"))
    for n in range(1, failures + 1):
        desk.offer("a1")
        desk.tell(f"db-1.{n}", "TASK_RUNNING", container=f"c{n}")
        desk.tell(f"db-1.{n}", "TASK_FAILED")
        desk.tick(desk.config.restart_backoff_max_s)
    return desk


def test_one_that_keeps_its_address_goes_back_to_where_it_was() -> None:
    desk = _failed(sticky_key="acme/db/0")
    _both(desk)
    assert desk["db-1"].agent == "a1"
    desk = _failed()
    _both(desk)
    assert desk["db-1"].agent == "a2"


def test_so_does_the_next_release() -> None:
    desk = _failed(sticky_key="acme/db/0")
    desk.offer("a1")
    desk.tell("db-1.2", "TASK_RUNNING", container="c2")
    desk.give(Unwant(InstanceId("db-1"), "acme/db", "a new release"))
    desk.tell("db-1.2", "TASK_KILLED")
    next_ones = [
        want("db-2", _spec(1.0, sticky_key="acme/db/1"), "acme/db"),
        want("db-3", _spec(1.0, sticky_key="acme/db/0"), "acme/db"),
    ]
    desk.give(*next_ones)
    _both(desk)
    assert (desk["db-2"].agent, desk["db-3"].agent) == ("a2", "a1")


def test_but_not_for_any_price() -> None:
    desk = _failed(failures=3, sticky_key="acme/db/0")
    _both(desk)
    assert desk["db-1"].agent == "a2"
    desk = _failed(sticky_key="acme/db/0")
    _both(desk, home_cpus=0.9)
    assert desk["db-1"].agent == "a2"
    host = Constraint(attribute="hostname", operator=ConstraintOperator.UNLIKE, value="host-a1")
    desk = _failed(sticky_key="acme/db/0")
    desk.give(Unwant(InstanceId("db-1"), "acme/db", "a new release"))
    desk.give(want("db-2", _spec(1.0, sticky_key="acme/db/0", constraints=(host,)), "acme/db"))
    _both(desk)
    assert desk["db-2"].agent == "a2"
