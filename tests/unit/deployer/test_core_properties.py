"""Properties of the pure core under any course of events."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.spec import Strategy
from services.deployer.model import (
    DeployState,
    Goal,
    State,
    Wanted,
)
from tests.unit.deployer.world import World, make_app, make_deployment

amounts = st.one_of(st.integers(0, 3), st.sampled_from(["0%", "10%", "25%", "50%", "100%"]))


@st.composite
def strategies(draw: st.DrawFn) -> Strategy:
    surge, unavailable = draw(amounts), draw(amounts)
    if surge in (0, "0%") and unavailable in (0, "0%"):
        surge = 1
    return Strategy(
        max_surge=surge,
        max_unavailable=unavailable,
        deadline_s=draw(st.sampled_from([20.0, 100.0])),
        max_failures=draw(st.integers(0, 3)),
        auto_rollback=draw(st.booleans()),
    )


ACTIONS = ["sweep", "start", "healthy", "unhealthy", "crash", "die", "lost", "obey"]
ACTIONS += ["deliver", "deliver", "deliver", "double", "lose", "time"]
courses = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1000), st.sampled_from([0.5, 3.0, 15.0])),
    max_size=120,
)


def rolling_world(strategy: Strategy, before: int, wanted: int, release: int) -> World:
    world = World(make_app(before, 1 if before else None, strategy))
    world.populate(before)
    deployment = make_deployment(world.app, Goal(release=release, wanted=wanted), world.now)
    world.app = world.app.model_copy(update={"deployment": deployment})
    return world


def act(world: World, action: str, pick: int, delay_s: float) -> None:
    if action == "sweep":
        world.sweep()
    elif action == "time":
        world.now += delay_s
    elif action in ("deliver", "double", "lose"):
        if world.wire:
            index = pick % len(world.wire)
            if action == "lose":
                world.wire.pop(index)
            else:
                world.deliver(index, keep=action == "double")
    elif world.docs:
        names = sorted(world.docs)
        name = names[pick % len(names)]
        alive, doc = world.alive.get(name, 0), world.docs[name]
        if action == "start" and alive == 0:
            world.start(name)
        elif alive <= 0:
            return
        elif action in ("crash", "die"):
            world.crash(name, final=action == "die")
        elif action == "obey":
            if doc.wanted is Wanted.STOP:
                world.obey(name)
        elif action in ("healthy", "unhealthy", "lost"):
            kinds: dict[str, type[Event]] = {
                "healthy": ev.ContainerHealthy,
                "unhealthy": ev.ContainerUnhealthy,
                "lost": ev.ContainerLost,
            }
            world.tell(name, kinds[action])


worlds = {
    "strategy": strategies(),
    "before": st.integers(0, 8),
    "wanted": st.integers(0, 8),
    "release": st.integers(1, 2),
    "course": courses,
}


@settings(max_examples=150, deadline=None)
@given(**worlds)
def test_bounds_hold_and_every_deployment_ends(
    strategy: Strategy,
    before: int,
    wanted: int,
    release: int,
    course: list[tuple[str, int, float]],
) -> None:
    world = rolling_world(strategy, before, wanted, release)
    for action, pick, delay_s in course:
        act(world, action, pick, delay_s)  # World.sweep checks the bounds at each decision
    # From here on nothing is heard of any instance any more: the deadlines alone must end it.
    ended = world.wait_for_end(step_s=strategy.deadline_s / 4)
    assert ended.state in (DeployState.SUCCEEDED, DeployState.FAILED, DeployState.ROLLED_BACK)


@settings(max_examples=100, deadline=None)
@given(**worlds)
def test_a_deployment_that_ended_makes_no_instances(
    strategy: Strategy,
    before: int,
    wanted: int,
    release: int,
    course: list[tuple[str, int, float]],
) -> None:
    world = rolling_world(strategy, before, wanted, release)
    made_after_end: list[str] = []
    for action, pick, delay_s in course:
        had_ended, count = bool(world.ended), len(world.made)
        act(world, action, pick, delay_s)
        if had_ended:
            made_after_end += [each.deployment for each in world.made[count:]]
            assert all(each.release == world.app.release for each in world.made[count:])
    assert not any(made_after_end)
    failed = [each for each in world.ended if each.state is not DeployState.SUCCEEDED]
    if failed:
        states = [getattr(event, "state", "") for event in world.events]
        on_way_back = states.index("rolling_back") if "rolling_back" in states else len(states)
        assert set(states[on_way_back:-1]) <= {"rolling_back"}, "the way back is never left again"
        assert world.app.release == (1 if before else None)
        assert all(each.rollback for each in world.made if each.release == world.app.release != 2)


@settings(max_examples=100, deadline=None)
@given(**worlds)
def test_when_all_goes_well_from_some_point_on_the_wanted_state_is_reached(
    strategy: Strategy,
    before: int,
    wanted: int,
    release: int,
    course: list[tuple[str, int, float]],
) -> None:
    world = rolling_world(strategy, before, wanted, release)
    for action, pick, delay_s in course:
        act(world, action, pick, delay_s)
    world.settle()
    assert world.app.deployment is None
    for _ in range(80):  # lost hosts come back, replacements may be held back for a minute
        world.settle(rounds=1)
        for name, doc in list(world.docs.items()):
            if doc.state is State.LOST and world.alive.get(name, 0) > 0:
                world.tell(name, ev.ContainerHealthy)
            world._live_on(name, world.docs[name], True)
        while world.wire:
            world.deliver(0)
        world.now += 5.0
    run = [each for each in world.docs.values() if each.runs_for_us]
    ended = world.ended[-1]
    if world.app.release is not None or ended.state is DeployState.ROLLED_BACK:
        assert len(run) == world.app.wanted
    if ended.state is DeployState.SUCCEEDED:
        assert {each.release for each in run} <= {release}


@given(strategy=strategies(), before=st.integers(1, 6), wanted=st.integers(0, 6))
def test_a_roll_that_only_succeeds_takes_no_failure_path(
    strategy: Strategy, before: int, wanted: int
) -> None:
    world = rolling_world(strategy, before, wanted, 2)
    world.settle()
    assert [each.state for each in world.ended] == [DeployState.SUCCEEDED]
    assert world.app.release == 2
    assert world.app.wanted == wanted
