"""Requests of producers outside Gantry: taken for their signature alone, by real gateway and deployer."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from infra.provision import Server
from libs.client import GantryClient
from libs.client.model import NewProducerKey
from libs.common.bus.base import Bus, Record
from libs.common.bus.kafka import KafkaBus
from libs.common.clock import SystemClock
from libs.common.errors import NotFound
from libs.common.events import TOPICS
from libs.common.proofs import SIGNATURE, ServiceProofs
from tests.fakes.gateway import SECRET
from tests.integration.test_gateway_deployer import DIGEST, OTHER, WEB, Parts, parts

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "producer.py"
pytestmark = pytest.mark.timeout(120)


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("producer_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = _load()


@dataclass
class World:
    """Gateway and deployer with an app of acme, and a producer of it."""

    parts: Parts
    key: OKPKey
    kid: str

    @property
    def client(self) -> GantryClient:
        """Of an admin of all."""
        return self.parts.client

    @property
    def bus(self) -> Bus:
        """Where requests are written."""
        return self.parts.shared.bus

    def record(self, name: str, app: str = "acme/web", **wanted: Any) -> Record:
        """A request as the example makes it."""
        key, value, headers = example.request(self.key, self.kid, app, "release", name, **wanted)
        return Record("deploy.requested", key.decode(), value, tuple(headers))

    async def refusal(self, deployment: str) -> str:
        """Why the audit trail says it was refused."""
        async with asyncio.timeout(30):
            while True:
                for entry in (await self.client.audit()).entries:
                    if entry.request_id == deployment and not entry.allowed:
                        return entry.detail
                await asyncio.sleep(0.02)


async def register(client: GantryClient, bu: str, key: OKPKey) -> str:
    """A producer's key; its id."""
    pem = key.as_pem(private=False).decode()
    made = await client.add_producer_key(NewProducerKey(bu=bu, producer="ci", public_key=pem))
    return made.id


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """All of it, on the memory bus."""
    async with parts(tmp_path) as made:
        await made.client.put_app("acme/web", WEB)
        key = OKPKey.generate_key("Ed25519")
        yield World(made, key, await register(made.client, "acme", key))


async def test_a_signed_request_is_a_deployment_of_its_producer(world: World) -> None:
    record = world.record("build-1", image=OTHER)
    await world.bus.publish([record, record])
    ended = await wait(world.client, "acme.build-1")
    assert ended.state == "succeeded" and ended.release == 1
    (release,) = (await world.client.releases("acme/web")).releases
    assert (release.image, release.actor) == (OTHER, f"ci#{world.kid}")
    entries = [e for e in (await world.client.audit()).entries if e.request_id == "acme.build-1"]
    assert [(e.actor, e.allowed) for e in entries] == [(f"ci#{world.kid}", True)]


async def test_what_the_owner_refuses_can_be_read_under_its_id(world: World) -> None:
    await world.bus.publish([world.record("bad-image", image="no image at all")])
    ended = await wait(world.client, "acme.bad-image")
    assert ended.state == "refused" and "not an image reference" in ended.reason


async def wait(client: GantryClient, deployment: str) -> Any:
    """The deployment at its end."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.wait(deployment, poll_s=0.02)
            except NotFound:
                await asyncio.sleep(0.02)


# -- who is not believed -----------------------------------------------------------------------------


def with_header(record: Record, name: str, value: str | None) -> Record:
    """The record with another value of a header, or without it."""
    kept = tuple(each for each in record.headers if each[0] != name)
    return replace(record, headers=kept if value is None else (*kept, (name, value.encode())))


def unsigned(world: World) -> Record:
    return with_header(world.record("x"), SIGNATURE, None)


def called_gateway(world: World) -> Record:
    return with_header(unsigned(world), "ce_source", "/gantry/gateway")


def called_gateway_and_signed(world: World) -> Record:
    return with_header(world.record("x"), "ce_source", "/gantry/gateway")


def signed_by_another_service(world: World) -> Record:
    deployers = ServiceProofs(SECRET).sign(
        with_header(unsigned(world), "ce_source", "/gantry/deployer/x")
    )
    return with_header(deployers, "ce_source", "/gantry/gateway")


def under_another_secret(world: World) -> Record:
    return ServiceProofs(b"x" * 32).sign(called_gateway(world))


def nonsense(world: World) -> Record:
    return with_header(world.record("x"), SIGNATURE, "a.b.c")


def of_an_unknown_key(world: World) -> Record:
    return replace_world(world, kid="pk-0000000000").record("x")


def with_a_key_that_is_not_the_registered_one(world: World) -> Record:
    return replace_world(world, key=OKPKey.generate_key("Ed25519")).record("x")


def changed_afterwards(world: World) -> Record:
    record = world.record("x", image=DIGEST)
    return replace(record, value=record.value.replace(b"a" * 64, b"c" * 64))


def moved_to_another_time(world: World) -> Record:
    return with_header(world.record("x"), "ce_time", "2020-01-01T00:00:00.000000Z")


def under_a_name_of_another(world: World) -> Record:
    record = world.record("x")
    value = record.value.replace(b'"acme.x"', b'"dep-x"')
    headers = {name: each.decode() for name, each in record.headers if name != SIGNATURE}
    headers[SIGNATURE] = example.sign(headers, value, world.key, world.kid)
    return replace(record, value=value, headers=tuple((n, v.encode()) for n, v in headers.items()))


def for_another_unit(world: World) -> Record:
    return world.record("x", "other/web")


def replace_world(world: World, **changes: Any) -> World:
    return replace(world, **changes)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (unsigned, "is not signed"),
        (called_gateway, "is not signed"),
        (called_gateway_and_signed, "/gantry/gateway did not write the request"),
        (signed_by_another_service, "/gantry/gateway did not write the request"),
        (under_another_secret, "/gantry/gateway did not write the request"),
        (nonsense, "no compact JWS"),
        (of_an_unknown_key, "no producer has the key pk-0000000000"),
        (with_a_key_that_is_not_the_registered_one, "not one of the key pk-"),
        (changed_afterwards, "over another sha256"),
        (moved_to_another_time, "over another ce_time"),
        (under_a_name_of_another, "must be acme.<a name of yours>"),
        (for_another_unit, "may not act for business unit other"),
    ],
)
async def test_who_is_not_believed_changes_nothing_and_is_audited(
    world: World, make: Callable[[World], Record], why: str
) -> None:
    await world.client.put_app("other/web", WEB)
    record = make(world)
    deployment = "dep-x" if make is under_a_name_of_another else "acme.x"
    if make is for_another_unit:
        deployment = "other.x"
    await world.bus.publish([record])
    assert why in await world.refusal(deployment)
    with pytest.raises(NotFound):
        await world.client.deployment(deployment)
    for app in ("acme/web", "other/web"):
        assert not (await world.client.deployments(app)).deployments
    # The id is not used up: its true owner still gets it.
    if deployment == "acme.x":
        await world.bus.publish([world.record("x")])
        assert (await wait(world.client, "acme.x")).state == "succeeded"


async def test_keys_are_replaced_one_by_one(world: World) -> None:
    newer = OKPKey.generate_key("Ed25519")
    new = replace(world, key=newer, kid=await register(world.client, "acme", newer))
    await world.bus.publish([world.record("one")])
    assert (await wait(world.client, "acme.one")).state == "succeeded"
    await world.bus.publish([new.record("two", image=OTHER)])
    assert (await wait(world.client, "acme.two")).state == "succeeded"
    await world.client.remove_producer_key(world.kid)
    world.parts.clock.ahead_s += 11  # the deployer may know the key a while longer
    await world.bus.publish([world.record("three")])
    assert "no producer has the key" in await world.refusal("acme.three")
    await world.bus.publish([new.record("four")])
    assert (await wait(world.client, "acme.four")).state == "succeeded"


async def test_while_the_gateway_is_away_requests_wait(world: World) -> None:
    apps = world.parts.shared.local.apps
    gateway = apps.pop("gateway")
    await world.bus.publish([world.record("patient")])
    async with asyncio.timeout(30):
        while "no address is configured for gateway" not in world.parts.log.getvalue():
            await asyncio.sleep(0.02)
    apps["gateway"] = gateway
    assert (await wait(world.client, "acme.patient")).state == "succeeded"
    trail = (await world.client.audit()).entries
    assert [e.allowed for e in trail if e.request_id == "acme.patient"] == [True]


async def test_the_example_asks_over_a_real_kafka(tmp_path: Path, own_kafka: Server) -> None:
    bus = await KafkaBus.open(own_kafka.url, SystemClock())
    await bus.ensure_topics(TOPICS)
    async with parts(tmp_path, bus) as made:
        await made.client.put_app("acme/web", WEB)
        key = OKPKey.generate_key("Ed25519")
        kid = await register(made.client, "acme", key)
        file = tmp_path / "ci.key"
        file.write_bytes(key.as_pem(private=True))
        arguments = [
            "--kafka",
            own_kafka.url.removeprefix("kafka://"),
            "--key",
            str(file),
            "--kid",
            kid,
        ]
        request = ["release", "acme/web", "--id", "build-7", "--image", OTHER]
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLE), *request, *arguments, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert (process.returncode, out) == (0, b"acme.build-7\n")
        ended = await wait(made.client, "acme.build-7")
        assert (ended.state, ended.release) == ("succeeded", 1)
    await bus.close()
