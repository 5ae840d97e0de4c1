"""Instances that are to leave a drained host: replaced within what their app allows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.events import model as ev
from libs.common.spec import Strategy
from services.deployer.core import Snapshot, decide
from services.deployer.model import ASKED, FORCED, App, Instance, State, Wanted
from services.deployer.moving import allowed_missing
from services.deployer.observe import observe
from services.deployer.resync import Row, caught_up
from tests.unit.deployer.world import make_app, make_instance

NOW = 1000.0


def _app(wanted: int, strategy: Strategy, budget: int | str = 0) -> App:
    app = make_app(wanted, 1, strategy)
    return app.model_copy(
        update={"spec": app.spec.model_copy(update={"disruption_budget": budget})}
    )


class Fleet:
    """An app whose hosts do as they are told."""

    def __init__(self, app: App, instances: list[Instance]) -> None:
        self.app = app
        self.of = {each.id: each for each in instances}
        self.born = 0
        self.stopped: list[str] = []

    def ready(self) -> int:
        return sum(each.runs_for_us and each.is_ready(NOW) for each in self.of.values())

    def change(self, name: str, **fields: object) -> None:
        self.of[name] = self.of[name].model_copy(update=fields)  # type: ignore[index]

    def step(self) -> tuple[int, list[str]]:
        """One decision, carried out: births are requested, stops are asked for."""
        decision = decide(Snapshot(self.app, tuple(self.of.values())), NOW)
        for make in decision.make:
            self.born += 1
            name = f"n{self.born}"
            fresh = make_instance(name, state=State.REQUESTED, healthy_since=None, slot=make.slot)
            self.of[fresh.id] = fresh
        names = [str(name) for name, _ in decision.stop]
        for name in names:
            self.change(name, wanted=Wanted.STOP)
        self.stopped += names
        return len(decision.make), names

    def go_on(self) -> None:
        """What was asked for comes about."""
        for name, each in list(self.of.items()):
            if each.wanted is Wanted.STOP:
                self.change(name, state=State.GONE)
            elif each.state is State.REQUESTED:
                self.change(name, state=State.HEALTHY, healthy_since=NOW)


def _fleet(count: int, leaving: int, strategy: Strategy, budget: int | str = 0) -> Fleet:
    instances = [
        make_instance(f"i{n}", slot=n, leaving=ASKED if n < leaving else "", leave_reason="h1 is drained")
        for n in range(count)
    ]  # fmt: skip
    return Fleet(_app(count, strategy, budget), instances)


def test_a_replacement_is_ready_before_the_old_one_is_stopped() -> None:
    fleet = _fleet(4, 2, Strategy(max_surge=1, max_unavailable=0))
    assert fleet.step() == (1, [])
    assert fleet.step() == (0, [])
    fleet.go_on()
    made, stopped = fleet.step()
    assert (made, len(stopped)) == (0, 1)
    fleet.go_on()
    assert fleet.step() == (1, [])


def test_without_a_surge_as_many_as_may_be_missing_go_first() -> None:
    fleet = _fleet(4, 3, Strategy(max_surge=0, max_unavailable=1))
    assert len(fleet.step()[1]) == 1
    assert fleet.step() == (0, [])  # it is still stopping
    fleet.go_on()
    assert fleet.step() == (1, [])


def test_a_disruption_budget_lets_more_go_at_once() -> None:
    fleet = _fleet(10, 8, Strategy(max_surge=1, max_unavailable=0), budget="30%")
    made, stopped = fleet.step()
    assert (made, len(stopped)) == (1, 3)


def test_who_is_missing_already_counts() -> None:
    fleet = _fleet(4, 2, Strategy(max_surge=0, max_unavailable=1))
    fleet.change("i3", state=State.UNHEALTHY, healthy_since=None)
    assert fleet.step() == (0, [])


def test_who_stays_after_all_is_left_alone_and_its_replacement_goes() -> None:
    fleet = _fleet(2, 2, Strategy(max_surge=1, max_unavailable=0))
    assert fleet.step() == (1, [])
    for name in ("i0", "i1"):
        fleet.change(name, leaving="")
    assert fleet.step() == (0, ["n1"])


def test_what_is_forced_goes_at_once_whatever_is_going_on() -> None:
    fleet = _fleet(3, 0, Strategy())
    for name in ("i0", "i1"):
        fleet.change(name, leaving=FORCED, leave_reason="h1 is drained")
    decision = decide(Snapshot(fleet.app, tuple(fleet.of.values())), NOW)
    assert dict(decision.stop) == dict.fromkeys(
        ("i0", "i1"), "h1 is drained; its deadline has passed"
    )


@st.composite
def _strategies(draw: st.DrawFn) -> Strategy:
    surge, unavailable = draw(st.sampled_from([(0, 1), (1, 0), (2, 0), (1, 1), ("50%", "25%")]))
    return Strategy(max_surge=surge, max_unavailable=unavailable)


@given(
    strategy=_strategies(),
    count=st.integers(1, 8),
    leaving=st.integers(1, 8),
    budget=st.integers(0, 3),
    sick=st.lists(st.sampled_from(["sick", "well", "go on", "stay"]), max_size=20),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_drain_never_takes_more_than_the_app_can_spare_and_ends(
    strategy: Strategy, count: int, leaving: int, budget: int, sick: list[str], data: st.DataObject
) -> None:
    fleet = _fleet(count, min(leaving, count), strategy, budget)
    floor = count - allowed_missing(fleet.app)
    for what in [*sick, *["settle"] * (4 * count + 4)]:
        before = fleet.ready()
        fleet.step()
        assert fleet.ready() >= min(before, floor), "stopped more than the app can spare"
        there = sum(each.exists for each in fleet.of.values())
        assert there <= count + strategy.surge(count)
        names = sorted(name for name, each in fleet.of.items() if each.runs_for_us)
        if what in ("go on", "settle"):
            fleet.go_on()
        if what == "settle":
            for name in names:
                if fleet.of[name].state is State.UNHEALTHY:
                    fleet.change(name, state=State.HEALTHY, healthy_since=NOW)
        elif names and what in ("sick", "well", "stay"):
            name = data.draw(st.sampled_from(names))
            match what:
                case "sick":
                    fleet.change(name, state=State.UNHEALTHY, healthy_since=None)
                case "well":
                    fleet.change(name, state=State.HEALTHY, healthy_since=NOW)
                case _:
                    fleet.change(name, leaving="")
    assert not any(each.leaving for each in fleet.of.values() if each.runs_for_us)
    assert fleet.ready() == count


# -- what is heard -------------------------------------------------------------------------------------


def _asked(**more: bool) -> ev.InstanceMoveRequested:
    return ev.InstanceMoveRequested(
        instance="i1", app="shop/web", hostname="h1", reason="h1 is drained", **more
    )


def test_a_request_to_move_is_kept_forced_and_withdrawn() -> None:
    instance = make_instance("i1", hostname="h1", seen=1)
    asked = observe(instance, _asked(), 2, NOW)
    assert (asked.leaving, asked.leave_reason) == (ASKED, "h1 is drained")
    assert observe(asked, _asked(forced=True), 3, NOW).leaving == FORCED
    assert observe(asked, _asked(withdrawn=True), 3, NOW).leaving == ""
    assert observe(asked, _asked(withdrawn=True), 1, NOW) == asked  # an old word


def test_a_request_that_overtakes_older_news_does_not_make_them_stale() -> None:
    fresh = make_instance("i1", state=State.REQUESTED, attempt="", generation=0, seen=1)
    asked = observe(fresh, _asked(), 5, NOW)
    placed = ev.OfferAccepted(
        instance="i1", app="shop/web", attempt="i1.1", offer="o", agent="a", hostname="h1", cpus=1,
        mem_mib=1,
    )  # fmt: skip
    healthy = observe(observe(asked, placed, 3, NOW), _healthy("i1.1", hostname="h1"), 4, NOW)
    assert (healthy.state, healthy.leaving, healthy.hostname) == (State.HEALTHY, ASKED, "h1")
    # One about a host that it has left in the meantime is late.
    moved = make_instance("i1", hostname="h2", seen=7)
    assert observe(moved, _asked(), 6, NOW).leaving == ""


@pytest.mark.parametrize(("host", "leaving"), [("h2", ""), ("h1", ASKED)])
def test_whoever_gets_to_another_host_by_itself_has_moved(host: str, leaving: str) -> None:
    asked = observe(make_instance("i1", hostname="h1", seen=1), _asked(), 2, NOW)
    placed = ev.OfferAccepted(
        instance="i1", app="shop/web", attempt="i1.2", offer="o", agent="a", hostname=host, cpus=1,
        mem_mib=1,
    )  # fmt: skip
    assert observe(asked, placed, 3, NOW).leaving == leaving


def test_a_lost_request_to_move_is_caught_up_with() -> None:
    instance = make_instance("i1", hostname="h1", seen=1)
    row = Row(
        instance="i1", app="shop/web", state="running", version=2, attempt="i1.1", hostname="h1",
        healthy=True, leaving=FORCED,
    )  # fmt: skip
    assert caught_up(instance, row, NOW).leaving == FORCED


# -- an attempt that returns ---------------------------------------------------------------------------


def _healthy(attempt: str, **more: object) -> ev.ContainerHealthy:
    return ev.ContainerHealthy.model_validate(
        {"instance": "i1", "app": "shop/web", "attempt": attempt, "agent": "a1", **more}
    )


def test_an_older_attempt_that_returns_is_the_current_one_again() -> None:
    newer = make_instance("i1", generation=2, attempt="i1.2", exited_generation=1, seen=5)
    assert observe(newer, _healthy("i1.1", address="10.0.0.9"), 6, NOW).attempt == "i1.2"
    back = observe(newer, _healthy("i1.1", address="10.0.0.9", returned=True), 6, NOW)
    assert (back.attempt, back.generation, back.address) == ("i1.1", 2, "10.0.0.9")
    assert back.state is State.HEALTHY
    gone = ev.ContainerExited(
        instance="i1",
        app="shop/web",
        attempt="i1.1",
        agent="a1",
        state="TASK_FAILED",
        returned=True,
    )
    over = observe(back, gone, 7, NOW)
    assert (over.state, over.exited_generation) == (State.EXITED, 2)


def test_one_that_returns_before_its_replacement_was_placed() -> None:
    over = make_instance("i1", state=State.EXITED, exited_generation=1, seen=5)
    assert observe(over, _healthy("i1.1"), 6, NOW).state is State.EXITED
    assert observe(over, _healthy("i1.1", returned=True), 6, NOW).state is State.HEALTHY
