"""Changes whose answer is lost: the audit trail has them, and a repetition makes nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
from joserfc.jwk import OKPKey

from libs.common.http import Response
from libs.common.runtime import open_runtime
from libs.common.store.paging import documents
from services.gateway.core import STALE_RUN_S
from services.gateway.model import OperationState
from services.gateway.operations import UNKNOWN, Operations
from services.gateway.store import Repository, Versioned
from tests.fakes.gateway import World
from tests.unit.gateway.test_access import audit_of

ONCE = {"Idempotency-Key": "once"}
PUBLIC = OKPKey.generate_key("Ed25519").as_pem(private=False).decode()
MADE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "key.create": ("/v1/keys", {"bu": "acme", "role": "viewer"}, {"label": "mine"}),
    "host.token": ("/v1/hosts/tokens", {"host": "host-1"}, {}),
    "producer.add": (
        "/v1/producers",
        {"bu": "acme", "producer": "ci", "public_key": PUBLIC},
        {"producer": "cd"},
    ),
}


async def known_of(world: World, action: str) -> tuple[Repository, Versioned]:
    repository = await Repository.open(world.shared.store)
    ids = [d.id async for d in documents(repository.operations) if d.body["action"] == action]
    known = await repository.operation(ids[0])
    assert known is not None
    return repository, known


async def lose_the_answer(world: World, action: str, state: OperationState) -> None:
    """The change was made, but what is kept of it does not say so."""
    repository, known = await known_of(world, action)
    lost = known.operation.model_copy(update={"state": state, "status": 0, "answer": ""})
    await repository.save_operation(lost, known.version)


async def test_who_gets_no_answer_is_in_the_trail(world: World) -> None:
    world.shared.local.apps.pop("scheduler")
    assert (await world.call("POST", "/v1/breaker/release")).status == 503
    (line,) = await audit_of(world, "breaker.release")
    assert line["allowed"] and line["detail"].startswith(UNKNOWN)


@pytest.mark.parametrize("action", MADE)
async def test_what_was_made_is_not_made_twice(world: World, action: str) -> None:
    path, content, _ = MADE[action]

    async def ask() -> Response:
        return await world.call("POST", path, content, headers=ONCE)

    first = await ask()
    await lose_the_answer(world, action, OperationState.FAILED)
    again = await ask()
    assert (first.status, again.status) == (201, 201)
    assert again.json() == first.json()


@pytest.mark.parametrize("action", MADE)
async def test_a_key_used_long_ago_for_another_gets_nothing_of_it(
    world: World, action: str
) -> None:
    path, content, change = MADE[action]
    made = (await world.call("POST", path, content, headers=ONCE)).json()
    repository, known = await known_of(world, action)
    await repository.operations.delete(known.operation.id, known.version)
    if action == "host.token":
        assert (await world.call("DELETE", f"{path}/{made['id']}")).status == 200
    other = {**content, **change}
    if action == "producer.add":
        other["public_key"] = OKPKey.generate_key("Ed25519").as_pem(private=False).decode()
    refused = await world.call("POST", path, other, headers=ONCE)
    assert refused.status == 409
    assert "fresh" in refused.json()["detail"]


async def test_what_nobody_is_at_work_on_any_more_is_closed_and_told(world: World) -> None:
    await world.key("acme", "viewer")
    await lose_the_answer(world, "key.create", OperationState.RUNNING)
    async with open_runtime(world.shared, "gateway") as rt:
        repository, _ = await known_of(world, "key.create")
        relay = rt.relay(repository.outboxes)
        operations = Operations(repository, relay, rt.courier(), rt.clock, rt.ids)
        assert await operations.close_forgotten() == 0, "it may be under way still"
        world.clock.ahead_s += STALE_RUN_S + 1
        assert await operations.close_forgotten() == 1
        assert await operations.close_forgotten() == 0

    async def told() -> bool:
        lines = await audit_of(world, "key.create")
        return [each["detail"] for each in lines] == [UNKNOWN, "answered 201"]

    await world.eventually(told)
