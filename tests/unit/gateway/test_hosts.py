"""Hosts at the gateway: tokens, enrolment, renewal, removal; who is refused, and what the audit trail says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from libs.client.hosts import HostSecrets, decode, encode
from libs.common.claims import Claim, Sealed, Unsealable, new_key, prove, unseal
from libs.common.http import Kind, Response
from libs.common.tokens import TokenSigner, derive_key
from services.gateway.core import hash_secret
from services.gateway.hosts import CALLS_AT_ONCE, REFUSED
from services.gateway.store import Repository
from tests.fakes.gateway import GENEROUS, SECRET, World, gateway_world
from tests.unit.gateway.test_access import audit_of

TOKENS, ENROL, RENEW = "/v1/hosts/tokens", "/v1/hosts/enrol", "/v1/hosts/renew"
HOST = "host-1"
NOBODYS = "ht_nobody0000_" + "0" * 52


async def token(world: World, host: str = HOST, **more: Any) -> str:
    """A new token's text."""
    response = await world.call("POST", TOKENS, {"host": host, **more})
    assert response.status == 201, response.body
    return str(response.json()["token"])


@dataclass
class Machine:
    """A host that enrols and renews, at the level of bytes."""

    host: str = HOST
    key: X25519PrivateKey = field(default_factory=new_key)

    def claim(self, purpose: str, by: str) -> Claim:
        """Its claim."""
        return Claim(purpose, by, self.host, self.key.public_key().public_bytes_raw())

    def enrolment(self, text: str, **changed: str) -> dict[str, str]:
        """The body of an enrolment by a token."""
        _, token_id, secret = text.split("_")
        claim = self.claim("enrol", token_id)
        body = {
            "token": token_id,
            "host": self.host,
            "public_key": encode(claim.public_key),
            "proof": prove(secret.encode(), claim),
        }
        return {**body, **changed}

    async def enrol(self, world: World, text: str, **changed: str) -> Response:
        """Ask with a token."""
        return await world.call("POST", ENROL, self.enrolment(text, **changed), key="")

    def opened(self, response: Response, text: str) -> HostSecrets:
        """What is in the answer."""
        _, token_id, secret = text.split("_")
        return opened(response, secret.encode(), self.claim("enrol", token_id), self.key)

    async def renew(self, world: World, keys: Sequence[bytes], at: float | None = None) -> Response:
        """Ask with present keys."""
        when = int(world.clock.now() if at is None else at)
        claim = self.claim("renew", str(when))
        body = {
            "host": self.host,
            "at": when,
            "public_key": encode(claim.public_key),
            "proofs": [prove(each, claim) for each in keys],
        }
        return await world.call("POST", RENEW, body, key="")


def opened(response: Response, secret: bytes, claim: Claim, key: X25519PrivateKey) -> HostSecrets:
    """What is in a sealed answer."""
    assert response.status == 200, response.body
    sealed = Sealed(decode(response.json()["public_key"]), decode(response.json()["box"]))
    return HostSecrets.model_validate_json(unseal(secret, claim, key, sealed))


def refusal(response: Response) -> dict[str, Any]:
    """All that a refused host is told, but for the request's own id."""
    assert response.status == 401
    content = dict(response.json())
    content.pop("request_id")
    return content


async def states(world: World) -> dict[str, str]:
    """Hosts and tokens (by id), with their states."""
    listed = (await world.call("GET", "/v1/hosts")).json()
    return {
        **{each["host"]: each["state"] for each in listed["hosts"]},
        **{each["id"]: each["state"] for each in listed["tokens"]},
    }


async def test_a_host_gets_its_key_by_a_token_and_only_once(world: World) -> None:
    text = await token(world)
    machine = Machine()
    response = await machine.enrol(world, text)
    secrets = machine.opened(response, text)
    key = derive_key(SECRET, Kind.HOST, HOST)
    assert [bytes.fromhex(each) for each in secrets.host_keys] == [key]
    assert secrets.agent_credential is None
    assert key.hex() not in response.body.decode()
    # Its answer was lost: the same key pair may ask again, and nobody else may.
    again = machine.opened(await machine.enrol(world, text), text)
    assert again == secrets
    assert refusal(await Machine().enrol(world, text))["detail"] == REFUSED
    assert await states(world) == {HOST: "enrolled", text.split("_")[1]: "used"}
    # A listener who comes to know the token later opens nothing of what it has recorded.
    with pytest.raises(Unsealable):
        Machine().opened(response, text)


async def test_the_token_is_shown_once_and_stored_as_a_hash(world: World) -> None:
    headers = {"Idempotency-Key": "one"}
    first, same = [
        (await world.call("POST", TOKENS, {"host": HOST}, headers=headers)).json() for _ in "ab"
    ]
    assert first["token"] == same["token"]
    secret = first["token"].split("_")[2]
    listed = await world.call("GET", "/v1/hosts")
    assert secret not in listed.body.decode()
    repository = await Repository.open(world.shared.store)
    doc = await repository.host_tokens.get(first["id"])
    assert doc is not None and secret not in orjson.dumps(doc.body).decode()
    assert doc.body["secret_hash"] == hash_secret(secret)
    for entry in await audit_of(world, "host.token"):
        assert secret not in orjson.dumps(entry).decode()
        assert (entry["allowed"], entry["target"]) == (True, f"*/hosts/{HOST}")


async def test_whatever_is_wrong_the_answer_is_the_same_and_the_trail_tells(world: World) -> None:
    used, revoked, expired, void, good = [await token(world) for _ in range(5)]
    assert (await Machine().enrol(world, used)).status == 200
    path = f"{TOKENS}/{revoked.split('_')[1]}"
    assert (await world.call("DELETE", path)).json()["state"] == "revoked"
    machine = Machine()
    other = Machine(host="host-2")
    wrong_secret = f"{good[:-1]}{'1' if good[-1] != '1' else '2'}"
    low_order = Machine().enrolment(good)
    claim = Claim("enrol", good.split("_")[1], HOST, bytes(32))
    low_order |= {
        "public_key": encode(bytes(32)),
        "proof": prove(good.split("_")[2].encode(), claim),
    }
    swapped = encode(Machine().claim("enrol", "").public_key)
    answers = {
        "the token was used by another key pair": await machine.enrol(world, used),
        "the token is revoked": await machine.enrol(world, revoked),
        f"the token is for {HOST}": await other.enrol(world, good),
        "the proof is wrong": await machine.enrol(world, wrong_secret),
        "unknown": await machine.enrol(world, NOBODYS),
        "swapped": await machine.enrol(world, good, public_key=swapped),
        "renamed": await machine.enrol(world, good, host="host-2"),
        "low order": await world.call("POST", ENROL, low_order, key=""),
    }
    world.clock.ahead_s = 3601
    answers["the token is expired"] = await machine.enrol(world, expired)
    world.clock.ahead_s = 0
    assert (await world.call("DELETE", f"/v1/hosts/{HOST}")).status == 200
    answers["the token is void"] = await machine.enrol(world, void)
    told = [refusal(each) for each in answers.values()]
    assert all(each == told[0] for each in told) and told[0]["detail"] == REFUSED

    async def told_apart() -> bool:
        entries = await audit_of(world, "host.enrol")
        refused = [each["detail"] for each in entries if not each["allowed"]]
        if len(refused) < len(answers):
            return False
        assert {f"Refused: {why}" for why in answers if why.startswith("the ")} == set(refused)
        return True

    await world.eventually(told_apart)
    assert await states(world) == {
        HOST: "removed",
        used.split("_")[1]: "used",
        **{each.split("_")[1]: "void" for each in (expired, void, good)},
        revoked.split("_")[1]: "revoked",
    }


async def test_twenty_machines_with_one_token_and_one_of_them_wins(world: World) -> None:
    text = await token(world)
    machines = [Machine() for _ in range(20)]
    answers = await asyncio.gather(*(each.enrol(world, text) for each in machines))
    assert sorted(each.status for each in answers) == [200, *[401] * 19]
    (winner,) = [n for n, each in enumerate(answers) if each.status == 200]
    assert machines[winner].opened(answers[winner], text).generation == 0
    again = await asyncio.gather(*(each.enrol(world, text) for each in machines[:9]))
    assert [each.status for each in again] == [200 if n == winner else 401 for n in range(9)]


async def test_the_winner_may_ask_again_until_the_token_ends(world: World) -> None:
    text, machine = await token(world, ttl_s=60), Machine()
    assert (await machine.enrol(world, text)).status == 200
    world.clock.ahead_s = 59
    assert (await machine.enrol(world, text)).status == 200
    world.clock.ahead_s = 61
    assert (await machine.enrol(world, text)).status == 401


async def test_a_removed_host_comes_back_with_another_key(world: World) -> None:
    machine, text = Machine(), await token(world)
    (old,) = machine.opened(await machine.enrol(world, text), text).host_keys
    assert (await machine.renew(world, [bytes.fromhex(old)])).status == 200
    gone = (await world.call("DELETE", f"/v1/hosts/{HOST}")).json()
    assert (gone["state"], gone["generation"]) == ("removed", 1)
    assert (await machine.renew(world, [bytes.fromhex(old)])).status == 401
    assert (await machine.enrol(world, text)).status == 401  # nor does its token open again
    assert (await states(world))[HOST] == "removed"
    back = await token(world)
    secrets = machine.opened(await machine.enrol(world, back), back)
    assert secrets.generation == 1
    assert secrets.host_keys == (derive_key(SECRET, Kind.HOST, HOST, 1).hex(),) != (old,)
    assert (await states(world))[HOST] == "enrolled"
    service = TokenSigner(
        Kind.SERVICE, "ipam", derive_key(SECRET, Kind.SERVICE, "ipam"), world.clock
    ).token()
    told = await world.call("GET", "/v1/host-generations", key=service)
    assert told.json() == {"generations": {HOST: 1}}


async def test_renewal_wants_the_present_key_and_a_fresh_proof(world: World) -> None:
    machine, key = Machine(), derive_key(SECRET, Kind.HOST, HOST)
    now = world.clock.now()
    good = await machine.renew(world, [b"x" * 32, key])  # one of several will do
    claim = machine.claim("renew", str(int(now)))
    assert opened(good, key, claim, machine.key).host_keys == (key.hex(),)
    told = [
        refusal(await machine.renew(world, keys, at))
        for keys, at in (
            ([b"x" * 32], None),
            ([derive_key(SECRET, Kind.HOST, "host-2")], None),
            ([derive_key(SECRET, Kind.HOST, HOST, 1)], None),
            ([key], now - 400),
            ([key], now + 400),
        )
    ]
    assert all(each == told[0] for each in told)
    assert (await states(world)) == {HOST: "renewed"}


async def test_only_admins_of_all_units_deal_with_hosts(world: World) -> None:
    text = await token(world)
    calls = (
        ("POST", TOKENS, {"host": HOST}),
        ("GET", "/v1/hosts", None),
        ("DELETE", f"{TOKENS}/{text.split('_')[1]}", None),
        ("DELETE", f"/v1/hosts/{HOST}?force=true", None),
    )
    keys = [await world.key("acme", "admin"), await world.key("*", "deployer")]
    for method, path, body in calls:
        for key in keys:
            assert (await world.call(method, path, body, key=key)).status == 403, path
        assert (await world.call(method, path, body, key="")).status == 401

    async def audited() -> bool:
        entries = await audit_of(world, "host.token")
        return [each["allowed"] for each in entries].count(False) == len(keys)

    await world.eventually(audited)
    assert (await states(world)) == {text.split("_")[1]: "open"}


async def test_what_is_not_there_can_be_neither_revoked_nor_removed(world: World) -> None:
    assert (await world.call("DELETE", f"{TOKENS}/nobody")).status == 404
    assert (await world.call("DELETE", "/v1/hosts/nobody")).status == 404
    assert (await world.call("DELETE", "/v1/hosts/no%20body?force=true")).status == 404
    assert (await world.call("DELETE", "/v1/hosts/made-by-hand?force=true")).status == 200
    text = await token(world)
    assert (await Machine().enrol(world, text)).status == 200
    assert (await world.call("DELETE", f"{TOKENS}/{text.split('_')[1]}")).status == 409


@pytest.mark.parametrize(
    "body",
    [
        {"host": "a b"},
        {"host": ""},
        {"host": "a/b"},
        {"host": HOST, "ttl_s": 59},
        {"host": HOST, "ttl_s": 8 * 86_400},
        {"host": HOST, "bu": "acme"},
    ],
)
async def test_a_wrong_wish_is_refused(world: World, body: dict[str, Any]) -> None:
    assert (await world.call("POST", TOKENS, body)).status == 422


async def test_guessing_is_slowed_down_and_keeps_no_host_out(world: World) -> None:
    text, machine = await token(world), Machine()
    guesses = [await machine.enrol(world, NOBODYS) for _ in range(int(CALLS_AT_ONCE) + 5)]
    assert {each.status for each in guesses} == {401, 429}
    assert [each.status for each in guesses].count(429) >= 4
    assert (await machine.enrol(world, text)).status == 200


async def test_the_agents_credential_goes_along_and_without_it_nothing_is_used_up(
    tmp_path: Path,
) -> None:
    file = tmp_path / "agent_credential"
    config = GENEROUS.model_copy(update={"agent_credential_file": file})
    async with gateway_world(tmp_path, config) as world:
        text, machine = await token(world), Machine()
        assert (await machine.enrol(world, text)).status == 503
        assert (await states(world)) == {text.split("_")[1]: "open"}
        file.write_text('{"principal": "agent", "secret": "hunter2"}\n')
        response = await Machine().enrol(world, text)
        assert response.status == 200 and b"hunter2" not in response.body
        other = await token(world, "host-2")
        second = replace(machine, host="host-2")
        secrets = second.opened(await second.enrol(world, other), other)
        assert secrets.agent_credential is not None
        assert secrets.agent_credential.secret == "hunter2"
        assert "hunter2" not in repr(secrets)


async def test_calls_to_a_host_are_signed_with_its_key_of_today(world: World) -> None:
    await world.call("DELETE", f"/v1/hosts/{HOST}?force=true")
    await world.put_app()
    done = await world.deployed("/v1/apps/acme/web/deploys")
    assert done["state"] == "succeeded"
    instance = world.deployer.instances
    # The host of the fakes still has its first key, so it does not know who is calling.
    answer = await world.call("GET", f"/v1/instances/{next(iter(instance))}/logs")
    assert (answer.status, "does not know" in answer.json()["detail"]) == (503, True)
