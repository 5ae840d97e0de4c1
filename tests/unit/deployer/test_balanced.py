"""Instances behind a load balancer: in when ready, out before they are stopped, whatever it forgets or refuses."""

from __future__ import annotations

from libs.common.events import model as ev
from libs.common.events.model import DeployAction
from tests.simulation.loop import World, virtual
from tests.unit.deployer.service_world import BALANCED, site


@virtual
async def test_nothing_is_stopped_before_the_balancer_let_it_go(world: World) -> None:
    async with site(world) as here:
        await here.put(**BALANCED)
        await here.deploy("d1")
        inside = set(here.balancer.serving["shop-web"])
        assert len(inside) == 4
        held = sorted(inside)[0]
        here.balancer.open_requests[held] = 1
        await here.put(image="reg:5000/web:2", **BALANCED)
        ended = await here.deploy("d2")
        assert ended["state"] == "succeeded"
        assert len(here.balancer.serving["shop-web"]) == 4
        assert not inside & set(here.balancer.serving["shop-web"])
        # Each stop came after its removal had succeeded.
        removed = {
            name
            for kind, name, said in here.balancer.history
            if (kind, said) == ("remove", "success")
        }
        assert {name for name, _ in here.scheduler.stopped} <= removed


@virtual
async def test_a_removal_that_misses_its_deadline_is_said_and_tried_on(world: World) -> None:
    async with site(world) as here:
        await here.put(**BALANCED)
        await here.deploy("d1")
        here.balancer.down = True
        asked_at = world.clock.now()
        stopped = await here.deploy("d2", DeployAction.STOP)
        assert stopped["state"] == "succeeded"
        assert world.clock.now() - asked_at > 14
        assert all(
            "the load balancer had not let it go after 15 s: the load balancer is down" in reason
            for _, reason in here.scheduler.stopped
        )
        assert len(here.balancer.serving["shop-web"]) == 4
        here.balancer.down = False

        async def emptied() -> bool:
            return not here.balancer.serving["shop-web"]

        await here.until(emptied)


@virtual
async def test_a_balancer_that_forgets_is_told_again(world: World) -> None:
    async with site(world) as here:
        await here.put(**BALANCED)
        await here.deploy("d1")
        here.balancer.restart()

        async def back() -> bool:
            return len(here.balancer.serving.get("shop-web", {})) == 4

        await here.until(back, 7)
        assert here.scheduler.stopped == []


@virtual
async def test_an_unhealthy_instance_leaves_the_balancer(world: World) -> None:
    async with site(world) as here:
        await here.put(**BALANCED)
        await here.deploy("d1")
        sick = (await here.instances())[0]
        pair = (sick["address"], 80)
        await here.scheduler.tell(sick["instance"], ev.ContainerUnhealthy, message="HTTP 500")

        async def out() -> bool:
            return pair not in here.balancer.serving["shop-web"]

        await here.until(out, 2)
        await here.scheduler.tell(sick["instance"], ev.ContainerHealthy)

        async def back() -> bool:
            return pair in here.balancer.serving["shop-web"]

        await here.until(back, 2)
        await here.scheduler.tell(sick["instance"], ev.ContainerLost)
        await world.clock.sleep(10)
        assert pair in here.balancer.serving["shop-web"]


@virtual
async def test_a_full_balancer_fails_the_release_with_its_words(world: World) -> None:
    async with site(world) as here:
        here.balancer.slots = 4
        await here.put(**BALANCED)
        await here.deploy("d1")
        await here.put(image="reg:5000/web:2", **BALANCED)
        failed = await here.deploy("d2")
        assert failed["state"] == "rolled_back"
        assert "not in the load balancer: all 4 slots are taken" in failed["reason"]


@virtual
async def test_an_adopted_container_stays_in_the_balancer(world: World) -> None:
    async with site(world) as here:
        await here.put(**BALANCED)
        await here.deploy("d1")
        row = (await here.instances())[0]
        name, pair = row["instance"], (row["address"], 80)
        here.scheduler.attempts[name] = 2
        accepted = {"offer": "o", "cpus": 0.1, "mem_mib": 128}
        await here.scheduler.tell(name, ev.OfferAccepted, **accepted)
        await world.clock.sleep(3)
        assert pair in here.balancer.serving["shop-web"]
        await here.scheduler.tell(name, ev.ContainerStarted)
        await here.scheduler.tell(name, ev.ContainerHealthy)
        await world.clock.sleep(3)
        again = next(each for each in await here.instances() if each["instance"] == name)
        assert (again["ready"], again["attempt"], again["restarts"]) == (True, f"{name}.2", 1)
        removed = [each for each in here.balancer.history if each[0] == "remove"]
        assert removed == []


@virtual
async def test_a_restarted_container_is_out_until_it_is_healthy(world: World) -> None:
    async with site(world) as here:
        await here.put(**BALANCED)
        await here.deploy("d1")
        row = (await here.instances())[0]
        name, pair = row["instance"], (row["address"], 80)
        await here.scheduler.tell(name, ev.ContainerExited, state="TASK_FAILED", exit_code=3)
        here.scheduler.attempts[name] = 2
        await here.scheduler.tell(name, ev.ContainerStarted)
        await world.clock.sleep(2)
        assert pair not in here.balancer.serving["shop-web"]
        await here.scheduler.tell(name, ev.ContainerHealthy)
        await world.clock.sleep(2)
        assert pair in here.balancer.serving["shop-web"]
        assert len(here.scheduler.requested) == 4, "the scheduler restarts it, not we"
