"""The core's decisions by example."""

from __future__ import annotations

import pytest

from libs.common.events import model as ev
from libs.common.events.model import DeployAction
from libs.common.spec import Strategy
from services.deployer.core import PAUSE_DEADLINE_S, Snapshot, check_move, decide
from services.deployer.model import Deployment, DeploymentId, DeployState, Goal, State, Wanted
from tests.unit.deployer.world import World, make_app, make_deployment, make_instance


def roll(
    before: int, wanted: int, strategy: Strategy, *, release: int | None = 2, **fields: object
) -> World:
    world = World(make_app(before, 1 if before else None, strategy))
    world.populate(before)
    goal = Goal(release=release, wanted=wanted)
    deployment = make_deployment(world.app, goal, world.now, **fields)
    world.app = world.app.model_copy(update={"deployment": deployment})
    return world


def ended(world: World) -> Deployment:
    assert len(world.ended) == 1
    return world.ended[0]


def test_a_first_release_makes_all_at_once() -> None:
    world = roll(0, 10, Strategy(max_surge=1))
    decision = world.sweep()
    assert len(decision.make) == 10  # nothing runs, so the surge bounds what is above the wanted
    assert [each.slot for each in decision.make] == list(range(10))


def test_a_roll_goes_in_batches_of_the_surge() -> None:
    world = roll(10, 10, Strategy(max_surge=3))
    decision = world.sweep()
    assert (len(decision.make), len(decision.stop)) == (3, 0)
    for name in list(world.docs)[10:]:
        world.start(name)
        world.tell(name, ev.ContainerHealthy)
    while world.wire:
        world.deliver(0)
    decision = world.sweep()
    assert (len(decision.make), len(decision.stop)) == (0, 3)


def test_unavailable_lets_old_ones_go_first() -> None:
    decision = roll(10, 10, Strategy(max_surge=0, max_unavailable=2)).sweep()
    assert (len(decision.make), len(decision.stop)) == (0, 2)


def test_min_ready_holds_the_next_batch_back() -> None:
    world = roll(2, 2, Strategy(max_surge=1, min_ready_s=30))
    world.sweep()
    name = list(world.docs)[2]
    world.docs[name] = make_instance(
        name, release=2, healthy_since=world.now, min_ready_s=30.0, deployment="d1", slot=2
    )
    decision = world.sweep()
    assert not decision.stop
    assert decision.recheck_s == 30
    world.now += 30
    assert world.sweep().stop


def test_too_many_failures_turn_back_and_say_why() -> None:
    world = roll(4, 4, Strategy(max_surge=2, max_failures=1))
    world.sweep()
    for name in list(world.docs)[4:]:
        world.start(name)
        world.crash(name, final=False)
    while world.wire:
        world.deliver(0)
    decision = world.sweep()
    told = decision.events[-1]
    assert isinstance(told, ev.DeployProgressed)
    assert told.state == "rolling_back"
    assert "2 failures of new instances, 1 allowed" in told.reason
    assert "TASK_FAILED, exit code 1" in told.reason
    world.settle()
    assert ended(world).state is DeployState.ROLLED_BACK
    assert (world.app.release, world.app.wanted) == (1, 4)
    assert {each.release for each in world.docs.values() if each.runs_for_us} == {1}


def test_without_auto_rollback_it_fails_and_stays() -> None:
    world = roll(4, 4, Strategy(max_surge=2, max_failures=0, auto_rollback=False))
    world.sweep()
    world.start(list(world.docs)[4])
    world.crash(list(world.docs)[4], final=False)
    while world.wire:
        world.deliver(0)
    world.sweep()
    assert ended(world).state is DeployState.FAILED
    assert world.app.release == 1


def test_a_first_release_that_fails_leaves_nothing_behind() -> None:
    world = roll(0, 3, Strategy(max_failures=0))
    world.sweep()
    world.start(next(iter(world.docs)))
    world.crash(next(iter(world.docs)), final=True)
    world.deliver(0)
    world.deliver(0)
    world.settle()
    assert ended(world).state is DeployState.FAILED
    assert "there is no release to go back to" in ended(world).reason
    assert not [each for each in world.docs.values() if each.state is not State.GONE]


def test_a_way_back_that_fails_ends_too() -> None:
    world = roll(2, 2, Strategy(max_surge=0, max_unavailable=2, deadline_s=60))
    for _ in range(200):
        world.sweep()
        if world.app.deployment is None:
            break
        for name, doc in list(world.docs.items()):
            if doc.wanted is Wanted.STOP and world.alive.get(name, 0) > 0:
                world.obey(name)
        while world.wire:
            world.deliver(0)
        world.now += 5
    assert ended(world).state is DeployState.FAILED
    assert "and the way back failed" in ended(world).reason
    assert "no progress for 60 s" in ended(world).reason


def test_the_deadline_says_what_instances_wait_for() -> None:
    world = roll(0, 3, Strategy(deadline_s=60, auto_rollback=False))
    world.sweep()
    for name in world.docs:
        world.tell(name, ev.PlacementDelayed, agents=5, failed={"mem": 5}, message="5 of 5: mem")
    while world.wire:
        world.deliver(0)
    world.now += 61
    world.sweep()
    reason = ended(world).reason
    assert reason == "no progress for 60 s: 0 of 3 ready; 3 not placed: 5 of 5: mem"


def test_old_ones_that_do_not_confirm_their_stop_do_not_undo_a_release() -> None:
    world = roll(1, 1, Strategy(max_surge=1, deadline_s=60))
    world.sweep()
    name = list(world.docs)[1]
    world.start(name)
    world.tell(name, ev.ContainerHealthy)
    while world.wire:
        world.deliver(0)
    world.sweep()
    world.now += 61
    world.sweep()
    assert ended(world).state is DeployState.SUCCEEDED
    assert "1 old instances have not confirmed their stop" in ended(world).reason


def test_a_stop_that_is_not_confirmed_fails_and_restarts_nothing() -> None:
    world = roll(2, 0, Strategy(deadline_s=60), release=1, action=DeployAction.STOP)
    world.sweep()
    world.now += 61
    decision = world.sweep()
    assert ended(world).state is DeployState.FAILED
    assert not decision.make
    assert world.app.wanted == 0


def test_a_lost_old_host_does_not_hold_up_a_release() -> None:
    world = roll(2, 2, Strategy(max_surge=1))
    world.docs = {
        name: doc.model_copy(update={"state": State.LOST, "healthy_since": None})
        if name == "old0"
        else doc
        for name, doc in world.docs.items()
    }
    world.alive = {"old0": -1, "old1": 1}  # type: ignore[dict-item]
    world.settle()
    assert ended(world).state is DeployState.SUCCEEDED


def test_restart_replaces_instances_of_the_same_release() -> None:
    world = roll(3, 3, Strategy(max_surge=1), release=1)
    deployment = world.app.deployment
    assert deployment is not None
    goal = Goal(release=1, wanted=3, restart=True)
    world.app = world.app.model_copy(
        update={"deployment": deployment.model_copy(update={"goal": goal})}
    )
    world.settle()
    assert ended(world).state is DeployState.SUCCEEDED
    assert len(world.made) == 3
    assert {each.id for each in world.docs.values() if each.runs_for_us} == {
        each.id for each in world.made
    }


def test_scale_in_stops_the_unready_then_the_newest() -> None:
    world = roll(4, 2, Strategy(), release=1)
    for n, name in enumerate(sorted(world.docs)):
        world.docs[name] = world.docs[name].model_copy(update={"created_at": float(n)})
    world.docs["old1"] = world.docs["old1"].model_copy(  # type: ignore[index]
        update={"state": State.UNHEALTHY}
    )
    assert [name for name, _ in world.sweep().stop] == ["old1", "old3"]


def test_progress_events_only_when_counts_change() -> None:
    world = roll(2, 2, Strategy(max_surge=1))
    world.sweep()
    world.sweep()
    count = len(world.events)
    world.now += 1
    world.sweep()
    assert len(world.events) == count


def test_a_pause_makes_no_step_but_keeps_the_count_up() -> None:
    world = roll(3, 3, Strategy(max_surge=1))
    deployment = world.app.deployment
    assert deployment is not None
    paused = deployment.model_copy(
        update={"state": DeployState.PAUSED, "paused_at": world.now, "reason": "paused by ann"}
    )
    world.app = world.app.model_copy(update={"deployment": paused})
    assert not world.sweep().make
    world.crash(next(iter(world.docs)), final=True)
    world.deliver(0)
    assert [each.release for each in world.sweep().make] == [1]
    world.now += PAUSE_DEADLINE_S
    world.sweep()
    world.settle()
    assert ended(world).state is DeployState.ROLLED_BACK
    assert "paused for longer than 24 h" in ended(world).reason


def test_between_deployments_the_dead_are_replaced_ever_slower() -> None:
    world = World(make_app(2, 1))
    world.populate(2)
    assert not world.sweep().make
    pauses = []
    for _ in range(6):
        name = next(each.id for each in world.docs.values() if each.runs_for_us)
        world.alive[name] = 1
        world.crash(name, final=True)
        world.deliver(0)
        decision = world.sweep()
        pauses.append(decision.recheck_s or 0.0)
        if not decision.make:
            world.now += pauses[-1]
            assert len(world.sweep().make) == 1
        assert all(each.deployment == "" for each in world.made)
    assert pauses[:3] == [0.0, 0.0, 0.0]
    assert pauses[3:] == [4.0, 4.0, 8.0]


def test_between_deployments_too_many_are_stopped_others_releases_first() -> None:
    app = make_app(1, 2)
    mine, other = make_instance("a", release=2), make_instance("b", release=1)
    decision = decide(Snapshot(app, (mine, other)), 10.0)
    assert [name for name, _ in decision.stop] == ["b"]


def test_an_image_that_is_not_resolved_in_time_fails() -> None:
    app = make_app(1, 1)
    accepted = Deployment(
        id=DeploymentId("d1"),
        app=app.id,
        action=DeployAction.RELEASE,
        actor="ann",
        state=DeployState.ACCEPTED,
        created_at=0,
        image="reg/web:2",
        reason="connection refused",
    )
    app = app.model_copy(update={"deployment": accepted})
    assert decide(Snapshot(app, ()), 29.0).recheck_s == 1
    decision = decide(Snapshot(app, ()), 30.0)
    assert decision.ended is not None
    expected = "image reg/web:2 was not resolved within 30 s: connection refused"
    assert decision.ended.reason == expected
    assert decision.app.wanted == 1


def test_the_table_of_moves_is_held() -> None:
    with pytest.raises(ValueError, match="can't go from succeeded"):
        check_move(DeployState.SUCCEEDED, DeployState.ROLLING)
