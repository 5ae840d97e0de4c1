"""Offers: nobody starves, neither an instance that fits nor another framework. Against a master as it is measured."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from libs.common.spec import Constraint, ConstraintOperator
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    Action,
    Decline,
    InstanceId,
    Revive,
    State,
)
from services.scheduler.offering import AHEAD_S, MORE_COMES_S
from services.scheduler.settings import Quota, SchedulerConfig
from tests.unit.scheduler.allocator import AGENTS, Master
from tests.unit.scheduler.world import Desk, free, launches, spec, unwant, want

ROUNDS = 5
"""Cycles of the allocator in which whoever fits has a place: what is held is bounded, and so is every refusal."""

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.sampled_from([1, 5, 9])),  # tenths of a CPU
        st.tuples(st.just("ask"), st.integers(1, 2)),
        st.tuples(st.sampled_from(["stop", "fail"]), st.integers(1, 20)),
        st.tuples(st.sampled_from(["hold", "free"]), st.integers(0, len(AGENTS) - 1)),
        st.tuples(st.just("wait"), st.sampled_from([1, 3, 20])),
    ),
    max_size=25,
)


def _do(master: Master, what: str, n: int, wanted: int) -> None:
    desk = master.desk
    match what:
        case "want":
            master.take(desk.give(want(f"i{wanted}", spec(n / 10))))
        case "ask":  # beyond its quota
            master.take(desk.give(want(f"poor{n}", spec(0.5), "poor/app")))
        case "stop" if n <= wanted:
            master.take(desk.give(unwant(f"i{n}")))
        case "fail" if master.tasks:
            task = sorted(master.tasks)[n % len(master.tasks)]
            agent, cpus = master.tasks.pop(task)
            master.free[agent] += cpus
            master.take(desk.tell(task, "TASK_FAILED", agent=agent))
        case "hold":
            master.elsewhere.add(AGENTS[n])
        case "free":
            master.elsewhere.discard(AGENTS[n])
        case "wait":
            for _ in range(n):
                master.cycle()
        case _:
            pass


@given(STEPS)
@example([*[("want", 9)] * 4, ("wait", 20), ("stop", 1)])  # room behind a long refusal
@example([("hold", 0), ("hold", 1), ("hold", 2), ("want", 5), ("wait", 20)])
@settings(max_examples=80, deadline=None)
def test_whoever_fits_is_placed_within_a_few_rounds_and_nothing_is_hoarded(
    steps: list[tuple[str, int]],
) -> None:
    desk = Desk(
        SchedulerConfig(restart_backoff_s=20.0, decline_s=600.0, quotas={"poor": Quota(cpus=0.3)})
    )
    master = Master(desk)
    master.take(desk.subscribe())
    wanted = 0
    for what, n in steps:
        wanted += what == "want"
        _do(master, what, n, wanted)
    master.elsewhere.clear()
    for _ in range(ROUNDS):
        master.cycle()
    room = dict(master.free)
    for agent, cpus in master.out.values():
        room[agent] += cpus
    pending = [each for each in desk.cluster.instances.values() if each.state is State.PENDING]
    pending = [each for each in pending if not each.app.startswith("poor/")]
    for each in pending:
        if desk.now - each.not_before >= ROUNDS:
            assert max(room.values()) < each.spec.resources.cpus + EXECUTOR_AMOUNTS.cpus + 0.001
    soon = [each for each in pending if each.not_before <= desk.now + AHEAD_S]
    just_now = desk.now - desk.cluster.volatile.launched_at < MORE_COMES_S
    if not soon and not just_now:  # others may have what helps nobody here
        assert not master.out and master.suppressed
    for held in desk.cluster.volatile.offers.values():
        assert desk.now - held.received_at <= desk.config.offer_hold_s


def test_nothing_is_held_for_who_waits_for_its_back_off_and_it_is_placed_in_time() -> None:
    desk = Desk(SchedulerConfig(restart_backoff_s=60.0))
    master = Master(desk)
    master.take(desk.subscribe())
    master.take(desk.give(want("i1")))
    master.cycle()
    (task,) = master.tasks
    agent, cpus = master.tasks.pop(task)
    master.free[agent] += cpus
    failed_at = desk.now
    master.take(desk.tell(task, "TASK_FAILED", agent=agent))
    offered = master.offered
    while desk.now < failed_at + 60.0 - AHEAD_S - 1.0:
        master.cycle()
        if desk.now - desk.cluster.volatile.launched_at >= MORE_COMES_S:
            assert master.suppressed and not master.out
    assert master.offered <= offered + len(AGENTS)
    while desk[InstanceId("i1")].state is State.PENDING:
        master.cycle()
    assert desk.now - failed_at <= 60.0 + 1.0


def test_nothing_is_held_for_who_is_at_a_limit_and_it_is_placed_when_that_is_lifted() -> None:
    desk = Desk(SchedulerConfig(quotas={"poor": Quota(cpus=0.6)}))
    master = Master(desk)
    master.take(desk.subscribe())
    master.take(desk.give(free(dry=0), want("had", app="poor/a"), want("more", app="poor/a")))
    dry = spec().model_copy(update={"network": "dry"})
    master.take(desk.give(want("dry", dry)))
    for _ in range(20):
        master.cycle()
        master.take(desk.give(free(dry=0)))
    assert master.suppressed and not master.out
    assert desk[InstanceId("more")].state is desk[InstanceId("dry")].state is State.PENDING
    offered = master.offered
    for _ in range(20):
        master.cycle()
        master.take(desk.give(free(dry=0)))
    assert master.offered == offered
    master.take(desk.give(free(dry=1)))
    master.take(desk.give(unwant("had")))
    for _ in range(3):
        master.cycle()
    states = [desk[InstanceId(name)].state for name in ("more", "dry")]
    assert states == [State.RUNNING, State.RUNNING]


def test_who_is_at_a_limit_makes_no_offer_useful_for_others() -> None:
    desk = Desk(SchedulerConfig(quotas={"poor": Quota(cpus=0.1)}))
    desk.subscribe()
    rule = Constraint(attribute="zone", operator=ConstraintOperator.IS, value="b")
    desk.give(want("poor", app="poor/app"), want("huge", spec(8.0, constraints=(rule,))))
    back = [each for each in desk.offer("a1", zone="a") if isinstance(each, Decline)]
    assert [each.refuse_s for each in back] == [desk.config.decline_s]
    assert not any(isinstance(each, Decline) for each in desk.offer("a2", zone="b"))


def test_a_pending_one_ends_the_longest_refusal_at_once() -> None:
    desk = Desk()
    master = Master(desk)
    master.take(desk.subscribe())
    for _ in range(3):
        master.cycle()
    assert master.suppressed
    master.take(desk.give(want("i1")))
    assert not master.suppressed and not master.filtered
    master.cycle()
    assert desk[InstanceId("i1")].state is State.RUNNING


def test_what_was_given_back_is_asked_for_when_something_new_needs_it() -> None:
    desk = Desk(SchedulerConfig(decline_s=600.0))
    desk.subscribe()
    desk.give(want("huge", spec(50.0)))
    desk.offer("a1")
    desk.now += desk.config.offer_hold_s - 1
    desk.offer("a2", cpus=1.0)

    def asks(actions: list[Action]) -> bool:
        return any(isinstance(each, Revive) for each in actions)

    desk.now += 1.5
    given_back = desk.give()
    assert any(isinstance(each, Decline) for each in given_back)
    assert not asks(given_back)  # others may have it: `huge` did not need it
    assert asks(desk.give(want("new", spec(2.0))))
    assert launches(desk.offer("a1")) == ["new.1"]
    desk.now += 1.5
    assert not asks(desk.give(want("newer", spec(9.0))))  # nothing has been given back since
