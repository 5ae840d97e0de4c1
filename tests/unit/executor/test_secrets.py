"""Secrets and registry logins on fakes: asked for once, given to the container, kept nowhere else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from libs.common.delivery import DeliveredLogin, DeliveredSecret, Delivery
from libs.common.errors import GantryError, NotFound, Unavailable
from services.executor.model import Login, SecretFile
from tests.fakes.docker import FakeImage
from tests.simulation.loop import World, virtual
from tests.unit.executor.world import ExecutorWorld

REFS = ({"name": "db", "env": "DB_PASSWORD"}, {"name": "tls", "file": "/run/secrets/tls"})
MARKER = "marker-of-a-value"
GIVEN = Delivery(
    secrets=(
        DeliveredSecret.of("db", "DB_PASSWORD", None, MARKER.encode()),
        DeliveredSecret.of("tls", None, "/run/secrets/tls", b"\xff" + MARKER.encode()),
    )
)
NO_TEXT = DeliveredSecret.of("db", "DB_PASSWORD", None, b"\xff" + MARKER.encode())
SOLD = "registry/private@sha256:2"
LOGIN = Login("ci", MARKER)


def known(it: ExecutorWorld, attempt: str, what: Delivery | GantryError = GIVEN) -> None:
    it.deliveries.known[attempt] = what


def told(it: ExecutorWorld) -> str:
    """All that others get to see or that is written down."""
    return f"{it.journal.files} {it.agent.statuses} {[c.spec.labels for c in it.docker.containers.values()]}"


@virtual
async def test_values_are_in_the_container_and_nowhere_else(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        known(it, "web.1")
        it.launch("web.1", secrets=REFS, env={"PLAIN": "1"})
        await it.settle()
        assert it.agent.states("web.1") == ["TASK_RUNNING"]
        spec = it.container("web.1").spec
        assert spec.env == {"PLAIN": "1", "DB_PASSWORD": MARKER}
        assert spec.secret_files == (SecretFile("/run/secrets/tls", b"\xff" + MARKER.encode()),)
        assert it.deliveries.asked == ["web.1"]
        assert MARKER not in told(it) and MARKER not in f"{spec}"
        assert "DB_PASSWORD" in told(it)  # the marker would be there, too
        assert it.service._attempts._hands._delivered == {}
        # Another worker takes it up without asking again.
        await it.restart(group)
        await it.settle()
        assert it.deliveries.asked == ["web.1"]
        it.kill("web.1")
        await it.settle()
        it.check_clean()
        await it.crash()


@virtual
async def test_without_secrets_nobody_is_asked(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle()
        assert it.agent.states("web.1") == ["TASK_RUNNING"]
        assert it.deliveries.asked == []
        await it.crash()


WRONG: list[tuple[Delivery | GantryError, str]] = [
    (NotFound("business unit bu has no secret 'tls'"), "has no secret 'tls'"),
    (Unavailable("deployer can't be reached"), "deployer can't be reached"),
    (Delivery(secrets=GIVEN.secrets[:1]), "nothing was told of tls"),
    (Delivery(secrets=(NO_TEXT, GIVEN.secrets[1])), "db is not text"),
]


@pytest.mark.parametrize(("answer", "why"), WRONG)
def test_what_cannot_be_had_fails_the_attempt(answer: Delivery | GantryError, why: str) -> None:
    @virtual
    async def check(world: World) -> None:
        it = ExecutorWorld(world, secrets_deadline_s=20)
        async with asyncio.TaskGroup() as group:
            it.start(group)
            known(it, "web.1", answer)
            it.launch("web.1", secrets=REFS)
            await it.settle(25)
            assert it.agent.states("web.1")[-1] == "TASK_FAILED"
            message = it.agent.last("web.1")["message"]
            assert "secrets db, tls can't be had" in message and why in message
            assert MARKER not in message
            it.check_clean()
            await it.crash()

    check()


@virtual
async def test_it_waits_for_a_deployer_that_is_away(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        known(it, "web.1", Unavailable("deployer can't be reached"))
        it.launch("web.1", secrets=REFS)
        it.launch("plain.1")
        await it.settle(12)
        assert it.agent.states("plain.1") == ["TASK_RUNNING"]
        assert it.agent.states("web.1") == ["TASK_STARTING"]
        assert it.agent.last("web.1")["message"] == "waiting for: secrets"
        known(it, "web.1")
        await it.settle(6)
        assert it.agent.states("web.1")[-1] == "TASK_RUNNING"
        await it.crash()


@virtual
async def test_a_stop_while_it_waits_ends_it(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        known(it, "web.1", Unavailable("deployer can't be reached"))
        it.launch("web.1", secrets=REFS)
        await it.settle(3)
        it.kill("web.1")
        await it.settle(10)
        assert it.agent.states("web.1")[-1] == "TASK_KILLED"
        it.check_clean()
        await it.crash()


@virtual
async def test_a_worker_that_lost_them_asks_again(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.latency_s = {"create": 5.0}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        known(it, "web.1")
        it.launch("web.1", secrets=REFS)
        await it.settle(1)
        await it.restart(group)
        await it.settle(12)
        assert it.agent.states("web.1")[-1] == "TASK_RUNNING"
        assert it.deliveries.asked == ["web.1", "web.1"]
        assert it.container("web.1").spec.env == {"DB_PASSWORD": MARKER}
        await it.crash()


@virtual
async def test_an_adopted_container_keeps_what_it_has(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        known(it, "web.1")
        name = it.launch("web.1", secrets=REFS)
        await it.settle()
        await it.crash()
        it.journal.files.clear()  # the supervisor was killed, Mesos gave the task up
        it.run_id = "run-2"
        it.start(group)
        it.launch("web.2", secrets=REFS, adopt=name)
        await it.settle()
        assert it.agent.states("web.2") == ["TASK_RUNNING"]
        assert it.deliveries.asked == ["web.1"]
        # One to adopt that is gone is made anew, with what is told for this attempt.
        known(it, "api.2")
        it.launch("api.2", secrets=REFS, adopt="gantry-test-api.1")
        await it.settle()
        assert it.agent.states("api.2") == ["TASK_RUNNING"]
        assert it.deliveries.asked == ["web.1", "api.2"]
        await it.crash()


def private(it: ExecutorWorld) -> None:
    it.docker.registry[SOLD] = FakeImage()
    it.docker.logins[SOLD] = LOGIN


def with_login(delivery: Delivery = GIVEN, login: Login = LOGIN) -> Delivery:
    given = DeliveredLogin(user=login.user, password=login.password)
    return delivery.model_copy(update={"login": given})


@virtual
async def test_an_image_is_pulled_with_the_units_own_login(world: World) -> None:
    it = ExecutorWorld(world)
    private(it)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        known(it, "web.1", with_login())
        it.launch("web.1", image=SOLD, registry_login=True, secrets=REFS)
        await it.settle()
        assert it.agent.states("web.1")[-1] == "TASK_RUNNING"
        assert it.deliveries.asked == ["web.1"]  # secrets and login in one
        it.docker.images.pop(SOLD)
        known(it, "api.1", with_login(Delivery()))
        it.launch("api.1", image=SOLD, registry_login=True)
        await it.settle()
        assert it.agent.states("api.1")[-1] == "TASK_RUNNING"
        assert it.deliveries.asked == ["web.1", "api.1"]
        it.launch("api2.1", image=SOLD, registry_login=True)  # the image is here: no need to ask
        await it.settle()
        assert it.agent.states("api2.1")[-1] == "TASK_RUNNING"
        assert it.deliveries.asked == ["web.1", "api.1"]
        assert MARKER not in told(it)
        await it.crash()


REFUSED: list[tuple[dict[str, Any], Delivery | None, str]] = [
    ({}, None, "unauthorized"),
    ({"registry_login": True}, with_login(Delivery(), Login("ci", "wrong")), "unauthorized"),
    ({"registry_login": True}, Delivery(), "(bu has no login there any more)"),
    ({"registry_login": True}, None, "the registry login of bu can't be had"),
]


@pytest.mark.parametrize(("spec", "given", "why"), REFUSED)
def test_without_the_right_login_there_is_no_image(
    spec: dict[str, Any], given: Delivery | None, why: str
) -> None:
    @virtual
    async def check(world: World) -> None:
        it = ExecutorWorld(world)
        private(it)
        async with asyncio.TaskGroup() as group:
            it.start(group)
            if given is not None:
                known(it, "web.1", given)
            it.launch("web.1", image=SOLD, **spec)
            await it.settle()
            assert it.agent.states("web.1")[-1] == "TASK_FAILED"
            message = it.agent.last("web.1")["message"]
            assert why in message and "wrong" not in message
            await it.crash()

    check()


@virtual
async def test_one_units_pull_is_no_others(world: World) -> None:
    it = ExecutorWorld(world)
    private(it)
    it.docker.latency_s = {"pull": 5.0}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        known(it, "web.1", with_login(Delivery()))
        it.launch("web.1", image=SOLD, registry_login=True)
        await it.settle(1)
        it.launch("spy.1", image=SOLD, app="spies/spy")
        it.launch("web2.1", image=SOLD, registry_login=True)
        known(it, "web2.1", with_login(Delivery()))
        await it.settle(10)
        pulls = [name for operation, name in it.docker.log if operation == "pull"]
        assert it.agent.states("spy.1")[-1] == "TASK_FAILED"
        assert it.agent.states("web2.1")[-1] == "TASK_RUNNING"
        assert pulls == [SOLD]
        await it.crash()


@virtual
async def test_a_worker_may_die_at_any_moment(world: World) -> None:
    for moment in range(1, 40):
        it = ExecutorWorld(world)
        it.docker.latency_s = {"create": 0.1, "start": 0.1, "inspect": 0.05, "remove": 0.1}
        async with asyncio.TaskGroup() as group:
            it.start(group)
            known(it, "web.1")
            it.launch("web.1", secrets=REFS)
            await it.settle(moment * 0.01)
            await it.restart(group)
            await it.settle(5)
            assert it.agent.states("web.1")[-1] == "TASK_RUNNING", moment
            container = it.container("web.1")
            assert (container.starts, container.spec.env["DB_PASSWORD"]) == (1, MARKER)
            assert len(container.spec.secret_files) == 1
            it.kill("web.1")
            await it.settle(5)
            it.check_clean()
            await it.crash()
