"""Business units' secrets and registry logins through the gateway: who may, what is told and written down of them."""

from __future__ import annotations

from typing import Any

from libs.common.store.base import Query, is_in
from services.gateway.store import Repository
from tests.fakes.gateway import World

SECRETS = "/v1/bus/acme/secrets"
REGISTRIES = "/v1/bus/acme/registries"
VALUE = "marker-of-a-value"
LOGIN = {"user": "ci", "password": VALUE}


async def test_values_go_through_and_are_kept_nowhere(world: World) -> None:
    key = await world.key("acme", "deployer")
    again = {"idempotency-key": "one-and-the-same"}
    made = await world.call("PUT", f"{SECRETS}/db", {"value": VALUE}, key=key, headers=again)
    assert (made.status, made.json()["version"]) == (200, 1)
    # A key is for answers that a repetition must not make anew; here the owner sees to that.
    other = {"value": f"{VALUE} 2"}
    second = await world.call("PUT", f"{SECRETS}/db", other, key=key, headers=again)
    assert (second.status, second.json()["version"]) == (200, 2)
    login = await world.call("PUT", f"{REGISTRIES}/reg.example:5000", LOGIN, key=key)
    assert (login.status, login.json()["user"]) == (200, "ci")
    listed = await world.call("GET", SECRETS, key=key)
    assert [(s["name"], s["version"]) for s in listed.json()["secrets"]] == [("db", 2)]
    logins = await world.call("GET", REGISTRIES, key=key)
    assert [r["registry"] for r in logins.json()["registries"]] == ["reg.example:5000"]
    gone = await world.call("DELETE", f"{SECRETS}/db", key=key)
    assert gone.status == 200
    assert (await world.call("DELETE", f"{SECRETS}/db", key=key)).status == 404
    assert (await world.call("DELETE", f"{REGISTRIES}/reg.example:5000", key=key)).status == 200
    answers = (made, second, login, listed, logins, gone)
    assert not [each for each in answers if VALUE in each.body.decode()]

    async def audited() -> Any:
        lines = (await world.call("GET", "/v1/audit?limit=1000")).json()["entries"]
        about = [each for each in lines if each["target"] == "acme/secret/db"]
        return lines if {"secret.put", "secret.remove"} <= {e["action"] for e in about} else None

    assert VALUE not in str(await world.eventually(audited))
    operations = await stored(world)
    assert operations and VALUE not in str(operations)
    # No hash of a body either: a poor password could be guessed by it.
    put = [each for each in operations if each["action"] == "secret.put"]
    assert len({each["fingerprint"] for each in put}) == 1


async def stored(world: World) -> list[Any]:
    repository = await Repository.open(world.shared.store)
    targets = is_in("target", ("acme/secret/db", "acme/registry/reg.example:5000"))
    return [doc.body for doc in (await repository.operations.find(Query((targets,)))).docs]


async def test_who_may(world: World) -> None:
    await world.call("PUT", f"{SECRETS}/db", {"value": VALUE})
    viewer, foreigner = await world.key("acme", "viewer"), await world.key("other", "deployer")
    for key, status in ((viewer, 403), (foreigner, 404), ("", 401)):
        for path, content in ((f"{SECRETS}/db", {"value": "x"}), (f"{REGISTRIES}/reg", LOGIN)):
            assert (await world.call("PUT", path, content, key=key)).status == status
            assert (await world.call("DELETE", path, key=key)).status == status
        for path in (SECRETS, REGISTRIES):
            assert (await world.call("GET", path, key=key)).status == status

    async def audited() -> Any:
        lines = (await world.call("GET", "/v1/audit?limit=1000")).json()["entries"]
        refused = [each for each in lines if not each["allowed"]]
        return refused if len(refused) >= 8 else None

    refused = await world.eventually(audited)
    assert {each["action"] for each in refused} == {
        f"{what}.{verb}" for what in ("secret", "registry") for verb in ("put", "remove")
    }


async def test_wrong_input_is_named_and_not_repeated(world: World) -> None:
    for path, content, field in (
        (f"{SECRETS}/db", {"valeu": VALUE}, "valeu"),
        (f"{SECRETS}/db", {"base64": f"!{VALUE}"}, "base64"),
        (f"{SECRETS}/No", {"value": VALUE}, "secret"),
        (f"{REGISTRIES}/reg", {"user": "a:b", "password": VALUE}, "user"),
        (f"{REGISTRIES}/No", LOGIN, "registry"),
    ):
        answer = await world.call("PUT", path, content)
        assert answer.status == 422, answer.body
        assert {each["field"] for each in answer.json()["errors"]} >= {field}
        assert VALUE not in answer.body.decode()
    assert (await world.call("DELETE", f"{SECRETS}/db?force=maybe")).status == 422
