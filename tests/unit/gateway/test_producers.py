"""Producers' keys: who may register and see them, what is taken for one, and who is told."""

from __future__ import annotations

from joserfc.jwk import ECKey, OKPKey

from libs.common.http import Kind
from libs.common.tokens import TokenSigner, derive_key
from services.gateway import producers
from tests.fakes.gateway import SECRET, World


def public(key: OKPKey | ECKey) -> str:
    return key.as_pem(private=False).decode()


def body(bu: str = "acme", key: OKPKey | None = None) -> dict[str, str]:
    key = key or OKPKey.generate_key("Ed25519")
    return {"bu": bu, "producer": "ci", "public_key": public(key)}


def token(world: World, kind: Kind, name: str) -> str:
    return TokenSigner(kind, name, derive_key(SECRET, kind, name), world.clock).token()


async def test_an_admin_registers_lists_and_removes(world: World) -> None:
    admin = await world.key("acme", "admin")
    made = await world.call("POST", "/v1/producers", body(), key=admin)
    assert made.status == 201 and made.json()["id"].startswith("pk-")
    second = (await world.call("POST", "/v1/producers", body(), key=admin)).json()["id"]
    listed = (await world.call("GET", "/v1/producers", key=admin)).json()["keys"]
    assert [each["id"] for each in listed] == [made.json()["id"], second]
    service = token(world, Kind.SERVICE, "deployer")
    path = f"/v1/producer-keys/{second}"
    told = await world.call("GET", path, key=service)
    assert (told.status, told.json()["bu"], told.json()["producer"]) == (200, "acme", "ci")
    assert (await world.call("DELETE", f"/v1/producers/{second}", key=admin)).status == 200
    assert (await world.call("DELETE", f"/v1/producers/{second}", key=admin)).status == 404
    assert (await world.call("GET", path, key=service)).status == 404


async def test_roles_units_and_services(world: World) -> None:
    other = await world.key("other", "admin")
    made = (await world.call("POST", "/v1/producers", body())).json()
    for role in ("viewer", "deployer"):
        low = await world.key("acme", role)
        assert (await world.call("POST", "/v1/producers", body(), key=low)).status == 403
        assert (await world.call("GET", "/v1/producers", key=low)).status == 403
        answer = await world.call("DELETE", f"/v1/producers/{made['id']}", key=low)
        assert answer.status == 403
    assert (await world.call("POST", "/v1/producers", body(), key=other)).status == 404
    assert (await world.call("GET", "/v1/producers", key=other)).json()["keys"] == []
    answer = await world.call("DELETE", f"/v1/producers/{made['id']}", key=other)
    assert answer.status == 404
    inner = f"/v1/producer-keys/{made['id']}"
    assert (await world.call("GET", inner)).status == 403
    assert (await world.call("GET", inner, key="")).status == 401
    assert (await world.call("GET", inner, key=token(world, Kind.HOST, "h"))).status == 403
    for method, path in (("GET", "/v1/producers"), ("POST", "/v1/producers")):
        answer = await world.call(method, path, key=token(world, Kind.SERVICE, "deployer"))
        assert answer.status == 403


async def test_what_is_no_public_ed25519_key_is_refused_and_not_shown(world: World) -> None:
    key = OKPKey.generate_key("Ed25519")
    private = key.as_pem(private=True).decode()
    for text in (
        private,
        private + public(key),
        public(OKPKey.generate_key("X25519")),
        public(OKPKey.generate_key("Ed448")),
        public(ECKey.generate_key("P-256")),
        "nonsense",
        "",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "x" * 5000,
    ):
        answer = await world.call("POST", "/v1/producers", {**body(), "public_key": text})
        assert answer.status == 422, text
        assert answer.json()["errors"][0]["field"] == "public_key"
        assert private.splitlines()[1] not in answer.body.decode()
    for wrong in ({"bu": "*"}, {"producer": "a b"}, {"role": "admin"}):
        assert (await world.call("POST", "/v1/producers", {**body(), **wrong})).status == 422
    assert (await world.call("GET", "/v1/producers")).json()["keys"] == []


async def test_a_unit_has_so_many_keys_at_most(world: World) -> None:
    content = body()
    for _ in range(producers.MAX_KEYS):
        assert (await world.call("POST", "/v1/producers", content)).status == 201
    assert (await world.call("POST", "/v1/producers", content)).status == 409
    assert (await world.call("POST", "/v1/producers", {**content, "bu": "other"})).status == 201


async def test_a_repeated_request_registers_once(world: World) -> None:
    content, headers = body(), {"Idempotency-Key": "one"}
    answers = [
        await world.call("POST", "/v1/producers", content, headers=headers) for _ in range(2)
    ]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert len((await world.call("GET", "/v1/producers")).json()["keys"]) == 1
