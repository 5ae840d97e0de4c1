"""The deployer's loops, end to end against a scheduler of few rules, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from joserfc import jws
from joserfc.jwk import OKPKey

from libs.common.actor import Actor
from libs.common.bus.base import Record
from libs.common.events import model as ev
from libs.common.events import seal, to_record
from libs.common.events.model import DeployAction
from libs.common.http import Role
from libs.common.proofs import SIGNATURE
from services.deployer.model import DeployerConfig
from services.deployer.store import DEPLOYMENTS
from tests.simulation.loop import World, virtual
from tests.unit.deployer.fake_scheduler import APP
from tests.unit.deployer.service_world import site


@virtual
async def test_release_roll_and_rollback(world: World) -> None:
    async with site(world) as here:
        assert (await here.put()).status == 201
        first = await here.deploy("d1")
        assert (first["state"], first["release"], first["counts"]["ready"]) == ("succeeded", 1, 4)
        await here.put(image="reg:5000/web:2")
        second = await here.deploy("d2")
        assert (second["state"], second["release"]) == ("succeeded", 2)
        rows = await here.instances()
        assert [row["release"] for row in rows] == [2] * 4
        assert all(row["ready"] and row["address"] and row["agent"] == "a1" for row in rows)
        back = await here.deploy("d3", DeployAction.ROLLBACK)
        assert (back["state"], back["release"]) == ("succeeded", 1)
        assert {row["release"] for row in await here.instances()} == {1}
        app = await here.get(f"/v1/apps/{APP}")
        assert (app["release"], app["previous"], app["wanted"]) == (1, 2, 4)
        releases = (await here.get(f"/v1/apps/{APP}/releases"))["releases"]
        assert [(each["release"], each["current"]) for each in releases] == [(2, False), (1, True)]
        assert releases[0]["image"] == f"reg:5000/web@sha256:{2:064x}"
        assert len(here.of(ev.DeploySucceeded)) == 3


@virtual
async def test_a_broken_release_goes_back_by_itself(world: World) -> None:
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        here.scheduler.broken = {"3"}
        await here.put(image="reg:5000/web:3")
        failed = await here.deploy("d2")
        assert failed["state"] == "rolled_back"
        assert "TASK_FAILED, exit code 1" in failed["reason"]
        rows = await here.instances()
        assert [(row["release"], row["ready"]) for row in rows] == [(1, True)] * 4
        told = here.of(ev.DeployFailed)
        assert [each.state for each in told] == ["rolled_back"]


@virtual
async def test_an_image_that_does_not_exist_fails_within_seconds(world: World) -> None:
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        asked_at = world.clock.now()
        await here.put(image="reg:5000/web:nope")
        failed = await here.deploy("d2")
        assert failed["state"] == "failed"
        assert failed["reason"] == "image reg:5000/web:nope: registry reg:5000 has no such image"
        assert failed["ended_at"] - asked_at < 3
        assert [row["release"] for row in await here.instances()] == [1] * 4
        assert (await here.get(f"/v1/apps/{APP}"))["release"] == 1


@virtual
async def test_a_registry_that_is_away_is_waited_for(world: World) -> None:
    async with site(world) as here:
        await here.put()
        here.images.down = True
        await here.ask(DeployAction.RELEASE, "d1")
        await world.clock.sleep(10)
        here.images.down = False
        assert (await here.ended("d1"))["state"] == "succeeded"
        here.images.down = True
        failed = await here.deploy("d2")
        assert failed["state"] == "failed"
        assert "not resolved within 30 s: registry reg:5000 can't be reached" in failed["reason"]


@virtual
async def test_scale_out_in_stop_and_restart(world: World) -> None:
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        assert (await here.deploy("d2", DeployAction.SCALE, instances=9))["state"] == "succeeded"
        assert len(await here.instances()) == 9
        assert (await here.deploy("d3", DeployAction.SCALE, instances=2))["state"] == "succeeded"
        assert len(await here.instances()) == 2
        app = await here.get(f"/v1/apps/{APP}")
        assert app["spec"]["instances"] == 2
        kept = {row["instance"] for row in await here.instances()}
        assert (await here.deploy("d4", DeployAction.RESTART))["state"] == "succeeded"
        assert not kept & {row["instance"] for row in await here.instances()}
        assert (await here.deploy("d5", DeployAction.STOP))["state"] == "succeeded"
        assert await here.instances() == []
        assert (await here.deploy("d6", DeployAction.RESTART))["state"] == "succeeded"
        assert len(await here.instances()) == 2


ALONE = {"instances": 1, "strategy": {"max_surge": 0, "max_unavailable": 1}}


@virtual
async def test_an_address_of_its_own_is_for_one_instance_or_named_by_slot(world: World) -> None:
    async with site(world) as here:
        await here.put(**ALONE, address={"requested": "10.0.0.7"})
        assert (await here.deploy("d1"))["state"] == "succeeded"
        refused = await here.deploy("d2", DeployAction.SCALE, instances=2)
        assert refused["state"] == "refused" and "address of its own" in refused["reason"]
        await here.put(**{**ALONE, "instances": 2}, address={"reservation": "db-{slot}"})
        assert (await here.deploy("d3"))["state"] == "succeeded"
        assert (await here.deploy("d4"))["state"] == "succeeded"
        wishes = [each.spec.address for each in here.of(ev.InstanceRequested)]
        certain, *named = [each.requested or each.reservation for each in wishes if each]
        assert certain == "10.0.0.7"
        assert sorted(named) == ["db-0", "db-0", "db-1", "db-1"]


@virtual
async def test_no_place_is_said_and_ends_at_the_deadline(world: World) -> None:
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        here.scheduler.full = True
        await here.ask(DeployAction.SCALE, "d2", instances=6)

        async def waiting() -> Any:
            return [row for row in await here.instances() if row["waiting"]]

        rows = await here.until(waiting)
        assert rows[0]["waiting"] == "not placed: no agent has 128 MiB"
        failed = await here.ended("d2")
        assert failed["state"] == "rolled_back"
        assert "2 not placed: no agent has 128 MiB" in failed["reason"]
        assert len(await here.instances()) == 4


@virtual
async def test_what_dies_for_good_is_replaced(world: World) -> None:
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        victim = (await here.instances())[0]["instance"]
        here.scheduler.running.pop(victim)
        await here.scheduler.tell(victim, ev.ContainerExited, state="TASK_LOST", final=True)

        async def healed() -> bool:
            rows = await here.instances()
            return (
                victim not in {row["instance"] for row in rows}
                and len([row for row in rows if row["ready"]]) == 4
            )

        await here.until(healed, 5)
        gone = [row for row in await here.instances(gone="1") if row["state"] == "gone"]
        assert [row["last_exit"] for row in gone] == ["TASK_LOST"]


@virtual
async def test_one_at_a_time_unless_forced(world: World) -> None:
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        here.scheduler.full = True
        await here.put(image="reg:5000/web:2")
        await here.ask(DeployAction.RELEASE, "d2")
        await world.clock.sleep(2)
        refused = await here.deploy("d3", DeployAction.SCALE, instances=5)
        assert refused["state"] == "refused"
        assert "deployment d2 (release by ann) is rolling" in refused["reason"]
        here.scheduler.full = False
        taken = await here.deploy("d4", DeployAction.SCALE, instances=5, force=True)
        assert taken["state"] == "succeeded"
        over = await here.get("/v1/deployments/d2")
        assert (over["state"], over["reason"]) == (
            "superseded",
            "deployment d4 of ann took over",
        )
        assert {row["release"] for row in await here.instances()} == {1}
        allowed = {each.request_id: each.allowed for each in here.of(ev.AuditRecorded)}
        assert (allowed["d2"], allowed["d3"], allowed["d4"]) == (True, False, True)


@virtual
async def test_a_first_release_is_not_taken_over_by_what_needs_it(world: World) -> None:
    async with site(world) as here:
        await here.put()
        here.scheduler.full = True
        await here.ask(DeployAction.RELEASE, "d1")
        await world.clock.sleep(2)
        for number, (action, instances) in enumerate(
            [(DeployAction.SCALE, 5), (DeployAction.RESTART, None)]
        ):
            refused = await here.deploy(f"r{number}", action, instances=instances, force=True)
            said = "nothing of shop/web has been released yet"
            assert (refused["state"], refused["reason"]) == ("refused", said)
        assert (await here.get("/v1/deployments/d1"))["state"] == "rolling"
        stopped = await here.deploy("d2", DeployAction.STOP, force=True)
        assert stopped["state"] == "succeeded"


@virtual
async def test_a_request_that_comes_twice_is_one(world: World) -> None:
    async with site(world) as here:
        await here.put()
        for _ in range(3):
            await here.ask(DeployAction.RELEASE, "d1")
        await here.ended("d1")
        await here.ask(DeployAction.RELEASE, "d1")
        await world.clock.sleep(5)
        assert len((await here.get(f"/v1/deployments?app={APP}"))["deployments"]) == 1
        assert len(here.of(ev.InstanceRequested)) == 4


@virtual
async def test_requests_that_must_not_be_are_refused(world: World) -> None:
    async with site(world) as here:
        await here.put()
        other = Actor("eve", "bank", Role.ADMIN)
        viewer = Actor("vic", "shop", Role.VIEWER)
        cases: dict[str, dict[str, Any]] = {
            "eve may not act for business unit shop": {"actor": other},
            "vic is viewer in shop; this needs deployer": {"actor": viewer},
            "nothing of shop/web has been released yet": {
                "action": DeployAction.SCALE,
                "instances": 3,
            },
            "there is no release before the current one": {"action": DeployAction.ROLLBACK},
            "there is no release 7 of shop/web": {"action": DeployAction.ROLLBACK, "release": 7},
            "there is no app shop/none; put its spec first": {"app": "shop/none"},
        }
        for number, (reason, fields) in enumerate(cases.items()):
            refused = await here.deploy(f"r{number}", **fields)
            assert (refused["state"], refused["reason"]) == ("refused", reason)
        assert len(here.of(ev.DeployFailed)) == len(cases)
        ids = [each.allowed for each in here.of(ev.AuditRecorded) if each.action != "app.put"]
        assert ids == [False] * len(cases)


@virtual
async def test_pause_resume_and_abort(world: World) -> None:
    async with site(world) as here:
        await here.put(strategy={"max_surge": 1, "min_ready_s": 5})
        await here.deploy("d1")
        await here.put(image="reg:5000/web:2", strategy={"max_surge": 1, "min_ready_s": 5})
        await here.ask(DeployAction.RELEASE, "d2")
        await world.clock.sleep(3)
        assert (await here.call("POST", "/v1/deployments/d2/pause")).status == 200
        assert (await here.call("POST", "/v1/deployments/d2/pause")).status == 409
        await world.clock.sleep(60)
        assert len(here.of(ev.InstanceRequested)) == 5
        paused = await here.get("/v1/deployments/d2")
        assert (paused["state"], paused["reason"]) == ("paused", "paused by ann")
        assert (await here.call("POST", "/v1/deployments/d2/resume")).status == 200
        await world.clock.sleep(8)
        assert (await here.call("POST", "/v1/deployments/d2/abort")).status == 200
        ended = await here.ended("d2")
        assert (ended["state"], ended["reason"]) == ("aborted", "aborted by ann")
        assert {row["release"] for row in await here.instances()} == {1}
        assert (await here.call("POST", "/v1/deployments/d2/abort")).status == 409
        assert (await here.call("POST", "/v1/deployments/none/abort")).status == 404


@virtual
async def test_requests_that_nobody_heard_are_made_again(world: World) -> None:
    async with site(world) as here:
        here.scheduler.deaf = True
        await here.put(strategy={"deadline_s": 300})
        await here.ask(DeployAction.RELEASE, "d1")
        await world.clock.sleep(20)
        here.scheduler.deaf = False
        assert (await here.ended("d1"))["state"] == "succeeded"
        here.scheduler.deaf = True
        await here.ask(DeployAction.STOP, "d2")
        await world.clock.sleep(20)
        here.scheduler.deaf = False
        assert (await here.ended("d2"))["state"] == "succeeded"


@virtual
async def test_three_replicas_never_make_one_too_many(world: World) -> None:
    async with site(world, replicas=3) as here:
        await here.put(instances=30, strategy={"max_surge": "10%", "deadline_s": 60})
        for number in range(1, 4):
            await here.put(
                image=f"reg:5000/web:{number}",
                instances=30,
                strategy={"max_surge": "10%", "deadline_s": 60},
            )
            await here.ask(DeployAction.RELEASE, f"d{number}")
            while (await here.call("GET", f"/v1/deployments/d{number}")).status != 200 or not (
                await here.get(f"/v1/deployments/d{number}")
            )["ended_at"]:
                assert len(await here.instances()) <= 33
                assert len(here.scheduler.running) <= 33
                await world.clock.sleep(0.05)
            assert (await here.get(f"/v1/deployments/d{number}"))["state"] == "succeeded"
        assert len(set(here.scheduler.requested)) == 90


@virtual
async def test_documents_of_the_gone_are_forgotten_and_nothing_comes_back(world: World) -> None:
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        await here.deploy("d2", DeployAction.STOP)
        assert len(await here.instances(gone="1")) == 4
        await world.clock.sleep(3700)
        assert await here.instances(gone="1") == []
        await world.clock.sleep(100)
        assert len(here.of(ev.InstanceRequested)) == 4


@virtual
async def test_many_events_make_few_writes(world: World) -> None:
    async with site(world) as here:
        await here.put(instances=150, strategy={"max_surge": "25%"})
        await here.deploy("d1")
        await here.put(instances=150, image="reg:5000/web:2", strategy={"max_surge": "25%"})
        await here.deploy("d2")
        progressed = len(here.of(ev.DeployProgressed))
        assert progressed < 120


@virtual
async def test_events_that_never_come_are_made_up_for(world: World) -> None:
    async with site(world) as here:
        await here.put()
        here.scheduler.mute = True
        first = await here.deploy("d1")
        assert first["state"] == "succeeded"
        lost = sorted(here.scheduler.running)[0]
        del here.scheduler.running[lost]

        async def replaced() -> bool:
            rows = await here.instances()
            return len(rows) == 4 and lost not in {row["instance"] for row in rows}

        await here.until(replaced, 400)
        stopped = await here.deploy("d2", DeployAction.STOP)
        assert stopped["state"] == "succeeded"


@virtual
async def test_old_releases_are_forgotten_but_those_of_use(world: World) -> None:
    async with site(world, config=DeployerConfig(keep_releases=2)) as here:
        here.images.known.update({f"reg:5000/web:{n}": n for n in range(1, 8)})
        await here.put()
        for number in range(1, 5):
            await here.put(image=f"reg:5000/web:{number}")
            await here.deploy(f"d{number}")
        await here.deploy("d5", DeployAction.ROLLBACK, release=3)
        for number in range(5, 8):
            here.scheduler.broken = {str(number)}
            await here.put(image=f"reg:5000/web:{number}")
            assert (await here.deploy(f"e{number}"))["state"] == "rolled_back"
        await world.clock.sleep(4500)  # the last instances of the broken ones are forgotten, too

        async def numbers() -> list[int]:
            releases = (await here.get(f"/v1/apps/{APP}/releases"))["releases"]
            return [each["release"] for each in releases]

        left = await numbers()
        assert left[:2] == [7, 6]
        assert {3, 4} <= set(left)  # in use, and the one before it
        assert not {1, 2} & set(left)
        assert {row["release"] for row in await here.instances()} == {3}
        gone = await here.deploy("d9", DeployAction.ROLLBACK, release=1)
        assert gone["state"] == "refused"


@virtual
async def test_old_deployments_are_forgotten(world: World) -> None:
    async with site(world, config=DeployerConfig(keep_deployments_s=7200)) as here:
        await here.put()
        await here.deploy("d1")
        await here.ask(DeployAction.SCALE, "never", app="shop/nothing", instances=3)
        await world.clock.sleep(6000)
        await here.deploy("d2", DeployAction.RESTART)
        assert await here.store_ids(DEPLOYMENTS) == {"d1", "d2", "never"}
        await world.clock.sleep(2000)
        assert await here.store_ids(DEPLOYMENTS) == {"d2"}
        assert (await here.get(f"/v1/apps/{APP}"))["release"] == 1


@virtual
async def test_a_request_that_waits_for_its_signers_key_holds_no_deployment_up(
    world: World,
) -> None:
    async with site(world) as here:
        await here.put()
        here.peers.gateway_away = True
        await here.bus.publish([foreign_request()])
        await here.ask(DeployAction.RELEASE, "d1")
        requests, heard = ["deploy.requested"], ["container.healthy", "offer.accepted"]
        await world.clock.sleep(30)
        # One partition of requests waits, in order; nothing of it is dead, and all else has been heard.
        assert sum((await here.bus.lag("deployer-asks", requests)).values()) >= 1
        assert not any(
            here.bus.log.topics["dead.deployer-asks"].partitions[n].end for n in range(8)
        )
        await here.hand(here.asked(DeployAction.RELEASE, "d2"))
        assert (await here.ended("d2", 60.0))["state"] == "succeeded"
        assert sum((await here.bus.lag("deployer", heard)).values()) == 0
        here.peers.gateway_away = False

        async def caught_up() -> bool:
            return not any((await here.bus.lag("deployer-asks", requests)).values())

        await here.until(caught_up)
        refused = [each for each in here.of(ev.AuditRecorded) if not each.allowed]
        assert [each.actor for each in refused] == ["unproven:mallory"]


def foreign_request() -> Record:
    """Of a producer, signed with a key that only the gateway could know."""
    event = ev.DeployRequested(
        deployment="shop.x", app=APP, action=DeployAction.STOP, actor="mallory"
    )
    (sealed,) = seal([event], source="x", sequence=1, now=0.0)
    record = to_record(sealed)
    signature = jws.serialize_compact(
        {"alg": "Ed25519", "kid": "pk-0001"},
        b"{}",
        OKPKey.generate_key("Ed25519"),
        algorithms=["Ed25519"],
    )
    named = dict(record.headers) | {"ce_source": b"/shop/x", SIGNATURE: signature.encode()}
    return replace(record, headers=tuple(named.items()))
