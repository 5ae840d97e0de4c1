"""Business units' secrets and logins: kept sealed, asked for by deployments, told to the right host only."""

from __future__ import annotations

import asyncio
import random
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import pytest

from libs.common.actor import Actor
from libs.common.delivery import ATTEMPT_PURPOSE, Delivery, about_attempt
from libs.common.events import model as ev
from libs.common.events.model import DeployAction
from libs.common.http import Kind, Response, Role
from libs.common.keys import FixedKeys
from libs.common.sealing import Sealer
from libs.common.tokens import TokenSigner, derive_key
from services.deployer.entries import Kind as EntryKind
from services.deployer.registry import ImageRef, Login, registry_name
from services.deployer.store import VAULT
from services.deployer.vault import MAX_ENTRIES
from tests.simulation.loop import World, virtual
from tests.unit.deployer.fake_scheduler import APP, SECRET
from tests.unit.deployer.service_world import Site, site

BOB = Actor("bob", "other", Role.DEPLOYER)
VIEWER = Actor("vic", "shop", Role.VIEWER)
PATH = "/v1/bus/shop/secrets"
REGISTRY = "/v1/bus/shop/registries/reg:5000"
MARKER = "marker-of-a-value"
REFS = [{"name": "db", "env": "DB_PASSWORD"}, {"name": "tls", "file": "/run/secrets/tls"}]


async def put(here: Site, name: str = "db", value: str = MARKER, **changes: Any) -> Response:
    return await here.call("PUT", f"{PATH}/{name}", {"value": value}, **changes)


async def ask(here: Site, attempt: str, host: str, kind: Kind = Kind.HOST) -> Response:
    """What a host (or somebody else) is told."""
    signer = TokenSigner(kind, host, derive_key(SECRET, kind, host), here.world.clock)
    path = f"/v1/attempts/{attempt}/delivery"
    return await here.apps[0].dispatch("GET", path, signer.headers())


def opened(answer: Response, host: str, attempt: str) -> Delivery:
    key = derive_key(SECRET, Kind.HOST, host)
    sealer = Sealer(key, ATTEMPT_PURPOSE, random.Random(1))
    content = sealer.open(answer.json()["boxes"], about_attempt(host, attempt))
    return Delivery.model_validate_json(content)


async def audit(here: Site, action: str) -> ev.AuditRecorded:
    async def told() -> Any:
        found = [each for each in here.of(ev.AuditRecorded) if each.action == action]
        return found[-1] if found else None

    line: ev.AuditRecorded = await here.until(told)
    return line


@virtual
async def test_values_go_in_and_never_come_out(world: World) -> None:
    async with site(world) as here:
        first = (await put(here)).json()
        assert (first["name"], first["version"], first["updated_by"]) == ("db", 1, "ann")
        assert (await put(here)).json()["version"] == 1  # the same value
        assert (await put(here, value="another " + MARKER)).json()["version"] == 2
        binary = {"base64": b64encode(b"\xff\0").decode()}
        assert (await here.call("PUT", f"{PATH}/tls", binary)).json()["text"] is False
        listed = (await here.get(PATH))["secrets"]
        assert [(each["name"], each["version"]) for each in listed] == [("db", 2), ("tls", 1)]
        assert (await here.call("PUT", REGISTRY, {"user": "u", "password": MARKER})).status == 200
        shown = (await here.get("/v1/bus/shop/registries"))["registries"]
        assert [(each["registry"], each["user"]) for each in shown] == [("reg:5000", "u")]
        assert (await here.call("DELETE", f"{PATH}/db")).status == 200
        assert (await here.call("DELETE", f"{PATH}/db")).status == 404
        assert [each["name"] for each in (await here.get(PATH))["secrets"]] == ["tls"]
        assert (await audit(here, "secret.remove")).target == "shop/secret/db"
        assert (await audit(here, "registry.put")).target == "shop/registry/reg:5000"
        stored = [doc async for doc in everything(here)]
        assert MARKER not in f"{listed} {shown} {here.events} {stored} {here.log.getvalue()}"
        # Once its audit line is out nothing is left of a removed one, and its name begins anew.
        await world.clock.sleep(90)
        assert [key async for key in everything(here)] == [
            "shop/registry/reg:5000",
            "shop/secret/tls",
        ]
        assert (await put(here)).json()["version"] == 1


async def everything(here: Site) -> Any:
    collection = await here.store.share().collection(VAULT)
    for key in ("shop/registry/reg:5000", "shop/secret/db", "shop/secret/tls"):
        doc = await collection.get(key)
        if doc is not None:
            assert MARKER not in str(doc.body)
            yield doc.id


BAD: list[tuple[str, str, Any]] = [
    ("body", f"{PATH}/db", {}),
    ("body", f"{PATH}/db", {"value": ""}),
    ("body", f"{PATH}/db", {"value": MARKER, "base64": "QQ=="}),
    ("base64", f"{PATH}/db", {"base64": f"{MARKER}!"}),
    ("value", f"{PATH}/db", {"value": MARKER * 4000}),
    ("body", f"{PATH}/db", {"value": "\u20ac" * 30_000}),
    ("valeu", f"{PATH}/db", {"valeu": MARKER}),
    ("secret", f"{PATH}/No", {"value": MARKER}),
    ("registry", "/v1/bus/shop/registries/a_b", {"user": "u", "password": MARKER}),
    ("user", REGISTRY, {"user": "u:v", "password": MARKER}),
    ("password", REGISTRY, {"user": "u"}),
]


@virtual
async def test_each_wrong_field_is_named_and_no_value(world: World) -> None:
    async with site(world) as here:
        for field, path, content in BAD:
            answer = await here.call("PUT", path, content)
            assert answer.status == 422, (path, content, answer.body)
            assert field in {each["field"] for each in answer.json()["errors"]}, answer.body
            assert MARKER not in answer.body.decode()


@virtual
async def test_a_unit_is_its_own(world: World) -> None:
    async with site(world) as here:
        await put(here)
        for method, path in (("PUT", f"{PATH}/db"), ("DELETE", f"{PATH}/db"), ("GET", PATH)):
            content = {"value": "x"} if method == "PUT" else None
            assert (await here.call(method, path, content, actor=BOB)).status == 404
            assert (await here.call(method, path, content, actor=VIEWER)).status == 403


@virtual
async def test_there_are_only_so_many(world: World) -> None:
    async with site(world) as here:
        for n in range(MAX_ENTRIES[EntryKind.SECRET]):
            assert (await put(here, f"s{n}")).status == 200
        assert (await put(here, "one-more")).status == 429
        assert (await put(here, "s0", "another")).status == 200
        assert (await here.call("DELETE", f"{PATH}/s0")).status == 200
        await world.clock.sleep(90)
        assert (await put(here, "one-more")).status == 200


@virtual
async def test_a_deployment_that_names_a_missing_secret_is_refused_at_once(world: World) -> None:
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        before = await here.instances()
        await here.put(secrets=REFS)
        await put(here)
        reason = "secrets.1.name: business unit shop has no secret 'tls'"
        planned = await here.call("POST", f"/v1/apps/{APP}/plan", {})
        assert planned.json()["refused"] == reason
        asked_at = world.clock.now()
        refused = await here.deploy("d2")
        assert (refused["state"], refused["reason"]) == ("refused", reason)
        assert world.clock.now() - asked_at < 1
        assert await here.instances() == before
        await put(here, "tls")
        assert (await here.call("POST", f"/v1/apps/{APP}/plan", {})).json()["refused"] == ""
        assert (await here.deploy("d3"))["state"] == "succeeded"
        # Others of the same name are no help.
        await here.call("PUT", "/v1/bus/other/secrets/gone", {"value": "x"}, actor=BOB)
        await here.put(secrets=[{"name": "gone", "env": "GONE"}])
        assert "has no secret 'gone'" in (await here.deploy("d4"))["reason"]


@virtual
async def test_what_is_no_text_is_no_variable(world: World) -> None:
    async with site(world) as here:
        await here.call("PUT", f"{PATH}/db", {"base64": b64encode(b"a\0b").decode()})
        await here.put(secrets=[{"name": "db", "env": "DB"}])
        assert "secrets.0.env: secret 'db' is not text" in (await here.deploy("d1"))["reason"]
        await here.put(secrets=[{"name": "db", "file": "/run/db"}])
        assert (await here.deploy("d2"))["state"] == "succeeded"


@virtual
async def test_what_runs_keeps_its_secrets(world: World) -> None:
    async with site(world) as here:
        await put(here)
        await here.put(secrets=REFS[:1])
        await here.deploy("d1")
        held = await here.call("DELETE", f"{PATH}/db")
        assert (held.status, APP in held.json()["detail"]) == (409, True)
        # The spec names it no more, but the release that runs does.
        await here.put()
        assert (await here.call("DELETE", f"{PATH}/db")).status == 409
        assert (await here.call("DELETE", f"{PATH}/db?force=true")).status == 200
        for name, action in (("d2", DeployAction.RESTART), ("d3", DeployAction.SCALE)):
            refused = await here.deploy(name, action, instances=5)
            assert (refused["state"], "no secret 'db'" in refused["reason"]) == ("refused", True)
        fewer = await here.deploy("fewer", DeployAction.SCALE, instances=2)
        assert fewer["state"] == "succeeded"  # takes no new instance
        assert (await here.deploy("d4"))["state"] == "succeeded"
        refused = await here.deploy("d5", DeployAction.ROLLBACK)
        assert "no secret 'db'" in refused["reason"]
        assert (await here.deploy("d6", DeployAction.STOP))["state"] == "succeeded"


@virtual
async def test_a_host_is_told_what_is_placed_on_it_and_nobody_else(world: World) -> None:
    async with site(world) as here:
        await put(here)
        await put(here, "tls", "k" + MARKER)
        await put(here, "unnamed", "u" + MARKER)
        await here.put(secrets=REFS, instances=1)
        await here.deploy("d1")
        (row,) = await here.instances()
        attempt = row["attempt"]
        answer = await ask(here, attempt, "h1")
        assert (answer.status, MARKER in answer.body.decode()) == (200, False)
        given = opened(answer, "h1", attempt)
        assert [(each.env, each.file, each.content.decode()) for each in given.secrets] == [
            ("DB_PASSWORD", None, MARKER),
            (None, "/run/secrets/tls", "k" + MARKER),
        ]
        assert given.login is None
        for host, other in (("h2", attempt), ("h1", f"{row['instance']}.9"), ("h1", "nobody.1")):
            assert (await ask(here, other, host)).status == 404, (host, other)
        for kind, name in ((Kind.SERVICE, "gateway"), (Kind.SERVICE, "h1")):
            assert (await ask(here, attempt, name, kind)).status == 403
        # What changes is told to the attempts after it.
        await put(here, value="new")
        assert opened(await ask(here, attempt, "h1"), "h1", attempt).secrets[0].content == b"new"
        await here.call("DELETE", f"{PATH}/db?force=true")
        gone = await ask(here, attempt, "h1")
        assert (gone.status, gone.json()["detail"]) == (
            404,
            "business unit shop has no secret 'db'",
        )
        here.scheduler.deaf = True
        assert (await ask(here, attempt, "h1")).status == 503
        assert MARKER not in here.log.getvalue()


@virtual
async def test_an_image_is_looked_up_with_the_units_own_login(world: World) -> None:
    async with site(world) as here:
        image, mine = "reg:5000/web:1", Login("shop-ci", MARKER)
        here.images.private[image] = mine
        await here.put(instances=1)
        assert (await here.deploy("d1"))["state"] == "failed"
        await here.call("PUT", REGISTRY, {"user": "shop-ci", "password": "wrong"})
        assert (await here.deploy("d2"))["state"] == "failed"
        await here.call("PUT", REGISTRY, {"user": "shop-ci", "password": MARKER})
        plan = await here.call("POST", f"/v1/apps/{APP}/plan", {})
        assert plan.json()["refused"] == ""
        assert (await here.deploy("d3"))["state"] == "succeeded"
        assert here.images.asked[0] is None and here.images.asked[-1] == mine
        asked = here.of(ev.InstanceRequested)[-1]
        assert asked.spec.registry_login and MARKER not in f"{here.events}"
        (row,) = await here.instances()
        login = opened(await ask(here, row["attempt"], "h1"), "h1", row["attempt"]).login
        assert login is not None and (login.user, login.password) == ("shop-ci", MARKER)


@dataclass
class Rotating:
    """The cluster's secrets, replaced while a deployer runs."""

    keys: tuple[bytes, ...] = (SECRET,)

    def current(self) -> tuple[bytes, ...]:
        return self.keys


@virtual
async def test_values_outlive_the_secret_that_sealed_them(world: World) -> None:
    new = b"another secret of 32 bytes ......"
    rotating = Rotating()
    async with site(world, secret=rotating) as here:
        await put(here)
        collection = await here.store.share().collection(VAULT)

        async def boxes() -> int:
            doc = await collection.get("shop/secret/db")
            assert doc is not None
            return len(doc.body["boxes"])

        rotating.keys = (new, SECRET)
        await world.clock.sleep(45)
        assert await boxes() == 2
        assert (await put(here)).json()["version"] == 1  # sealed anew, not changed
        rotating.keys = (new,)
        await world.clock.sleep(45)
        assert await boxes() == 1
        doc = await collection.get("shop/secret/db")
        assert doc is not None
        sealer = Sealer(FixedKeys((new,)), "business-unit-vault", random.Random(1))
        assert sealer.open(doc.body["boxes"], "shop/secret/db@1") == MARKER.encode()
        assert "vault sealed anew" in here.log.getvalue()


@virtual
async def test_writers_at_once_make_versions_one_after_the_other(world: World) -> None:
    async with site(world, replicas=2) as here:
        async with asyncio.TaskGroup() as group:
            for n in range(5):
                group.create_task(put(here, value=f"value {n}"))
        assert (await here.get(PATH))["secrets"][0]["version"] == 5


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_one_name(host: str) -> None:
    assert registry_name(host) == "docker.io"
    assert ImageRef.parse("team/web:1").host("registry-1.docker.io") == "docker.io"
