"""Several roles of one framework against a live Mesos: offers, launches, reservations. Through both clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from libs.mesos import calls, events
from libs.mesos.framework import FrameworkClient
from libs.mesos.messages import FrameworkInfo, Offer, Operation, Resource, TaskInfo, TaskStatus
from services.scheduler.roles import role_told
from tests.contract.mesos.cluster import Mesos
from tests.contract.mesos.test_clients_live import Make, _next
from tests.frameworks import KINDS, make_client

pytestmark = pytest.mark.asyncio(loop_scope="session")
A, B = "roles-a", "roles-b"
LONG_S = 3600.0
Stream = AsyncIterator[Any]


def _info(roles: Sequence[str], framework_id: str | None = None) -> FrameworkInfo:
    info: FrameworkInfo = {
        "user": "root",
        "name": "client-roles",
        "roles": list(roles),
        "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}],
        "failover_timeout": 60.0,
        "checkpoint": True,
    }
    if framework_id is not None:
        info["id"] = calls.value(framework_id)
    return info


@pytest_asyncio.fixture(params=KINDS, loop_scope="session")
async def scheduler(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes a scheduler's client, of one kind and then of the other."""
    async with aiohttp.ClientSession() as session:
        yield lambda mesos, info, **more: make_client(
            request.param, session, [mesos.master_url], info, **more
        )


async def _offer(stream: Stream) -> Offer:
    """The next offer; what it is allocated to is said once for all and of each resource."""
    found: events.Offers = await _next(stream, events.Offers)
    (offer,) = found.offers
    role = offer["allocation_info"]["role"]
    assert {each["allocation_info"]["role"] for each in offer["resources"]} == {role}
    return offer


def _role(offer: Offer) -> str:
    return offer["allocation_info"]["role"]


def _other(role: str) -> str:
    return B if role == A else A


async def _decline(client: FrameworkClient, offer: Offer, refuse_s: float = LONG_S) -> None:
    await client.decline([offer["id"]["value"]], calls.filters(refuse_s))


def _resources(allocated: str, **fields: Any) -> list[Resource]:
    return [
        calls.scalar(name, amount, allocation_info={"role": allocated}, **fields)
        for name, amount in (("cpus", 0.1), ("mem", 32.0))
    ]


def _task(offer: Offer, name: str, resources: list[Resource], executor_in: str = "") -> TaskInfo:
    """A command, or with `executor_in` a task of an executor that has its resources in that role."""
    task: TaskInfo = {
        "name": name,
        "task_id": calls.value(name),
        "agent_id": offer["agent_id"],
        "resources": resources,
    }
    if not executor_in:
        return {**task, "command": {"value": "sleep 1000", "shell": True}}
    # It never registers: that it is one is all that matters.
    executor: dict[str, Any] = {
        "executor_id": calls.value("of-roles"),
        "type": "CUSTOM",
        "command": {"value": "exec sleep 1000", "shell": True},
        "resources": _resources(executor_in),
    }
    return {**task, "executor": executor}  # type: ignore[typeddict-item]


async def _launch(
    client: FrameworkClient,
    offers: Sequence[Offer],
    tasks: Sequence[TaskInfo],
    before: Sequence[Operation] = (),
    refuse_s: float = LONG_S,
) -> None:
    names = [each["id"]["value"] for each in offers]
    operations = [*before, calls.launch(list(tasks))]
    await client.accept(names, operations, calls.filters(refuse_s))


async def _told(client: FrameworkClient, stream: Stream, task: str, state: str) -> TaskStatus:
    """The update that says so; all that come before are acknowledged with it."""
    while True:
        status: TaskStatus = (await _next(stream, events.Update)).status
        await client.acknowledge(status)
        if (status["task_id"]["value"], status["state"]) == (task, state):
            return status


async def test_what_one_role_declines_another_is_offered(shared: Mesos, scheduler: Make) -> None:
    """All of an agent that is reserved for nobody is in one offer, of one role; filters are a role's own."""
    client = scheduler(shared, _info([A, B]))
    async with client.subscribe() as stream:
        first = await _offer(stream)
        await _decline(client, first)
        second = await _offer(stream)
        assert {_role(first), _role(second)} == {A, B}
        await _decline(client, second)
        for role in (B, A):  # what REVIVE clears is the role's alone
            await client.revive([role])
            offer = await _offer(stream)
            assert _role(offer) == role
            await _decline(client, offer)
        await client.teardown()


async def test_suppress_and_revive_are_of_all_roles_or_of_some(
    shared: Mesos, scheduler: Make
) -> None:
    client = scheduler(shared, _info([A, B]))
    async with client.subscribe() as stream:
        offer = await _offer(stream)
        role = _role(offer)
        await client.suppress([role])
        await _decline(client, offer, 0.0)
        for _ in range(3):
            offer = await _offer(stream)
            assert _role(offer) == _other(role)
            await _decline(client, offer, 0.0)
        await client.revive([role])
        await client.suppress([_other(role)])
        while _role(offer) != role:  # one may have been on its way
            offer = await _offer(stream)
            await _decline(client, offer, 0.0)
        await client.suppress()
        await client.revive()  # without roles, all of them
        seen = {role}
        while seen != {A, B}:
            offer = await _offer(stream)
            seen.add(_role(offer))
            await _decline(client, offer)
        await client.teardown()


async def _offers_of_both(client: FrameworkClient, stream: Stream) -> list[Offer]:
    """The agent in two offers: what a task gives back in the one role, all else in the other."""
    first = await _offer(stream)
    await _launch(client, [first], [_task(first, "r1", _resources(_role(first)))])
    rest = await _offer(stream)
    assert _role(rest) == _other(_role(first))
    await _told(client, stream, "r1", "TASK_RUNNING")
    await client.kill("r1")
    await _told(client, stream, "r1", "TASK_KILLED")
    await client.revive([_role(first)])
    small = await _offer(stream)
    assert _role(small) == _role(first)  # whose share is the smaller one
    return [rest, small]


async def test_offers_of_two_roles_are_not_accepted_together(
    shared: Mesos, scheduler: Make
) -> None:
    client = scheduler(shared, _info([A, B]))
    async with client.subscribe() as stream:
        rest, small = await _offers_of_both(client, stream)
        task = _task(rest, "r2", _resources(_role(rest)))
        await _launch(client, [rest, small], [task], refuse_s=0.0)
        status = (await _next(stream, events.Update)).status
        assert (status["state"], status["reason"]) == ("TASK_DROPPED", "REASON_INVALID_OFFERS")
        assert "must be allocated to the same role" in status["message"]
        await client.teardown()


async def test_an_executor_stays_in_the_role_in_which_it_was_started(
    shared: Mesos, scheduler: Make
) -> None:
    client = scheduler(shared, _info([A, B]))
    async with client.subscribe() as stream:
        first = await _offer(stream)
        role, other = _role(first), _other(_role(first))
        assert not first.get("executor_ids")
        await _launch(client, [first], [_task(first, "e1", _resources(role), role)])
        second = await _offer(stream)
        assert _role(second) == other
        assert second["executor_ids"] == [calls.value("of-roles")]  # in whatever role it is
        mixed = _resources(role)[:1] + _resources(other)[1:]
        tasks = [
            _task(second, "e2", _resources(other), other),
            _task(second, "e3", mixed),
        ]
        await _launch(client, [second], tasks)
        told: dict[str, TaskStatus] = {}
        while len(told) < 2:
            status = (await _next(stream, events.Update)).status
            told[status["task_id"]["value"]] = status
        assert {(each["state"], each["reason"]) for each in told.values()} == {
            ("TASK_ERROR", "REASON_TASK_INVALID")
        }
        incompatible = "ExecutorInfo is not compatible with existing ExecutorInfo"
        assert told["e2"]["message"].startswith(incompatible)
        existing, _, given = told["e2"]["message"].partition("\nExecutorInfo:\n")
        assert f'role: "{role}"' in existing and f'role: "{other}"' in given
        assert role_told(told["e2"]) == role, "so the scheduler learns it"
        assert role_told(told["e3"]) is None
        assert told["e3"]["message"] == (
            "Invalid task resources: The resources have multiple allocation roles"
            f" ('{other}' and '{role}') but only one allocation role is allowed"
        )
        await client.teardown()


async def test_a_task_outlives_its_role(shared: Mesos, scheduler: Make) -> None:
    """Who subscribes again with other roles is offered those alone; what runs in another runs on."""
    first = scheduler(shared, _info([A]))
    async with first.subscribe() as stream:
        framework_id = (await _next(stream, events.Subscribed)).framework_id
        offer = await _offer(stream)
        await _launch(first, [offer], [_task(offer, "o1", _resources(A))])
        await _told(first, stream, "o1", "TASK_RUNNING")
    second = scheduler(shared, _info([B], framework_id))
    async with second.subscribe() as stream:
        assert (await _next(stream, events.Subscribed)).framework_id == framework_id
        offer = await _offer(stream)
        assert _role(offer) == B
        await second.reconcile([("o1", None)])
        assert (await _next(stream, events.Update)).status["state"] == "TASK_RUNNING"
        await _launch(second, [offer], [_task(offer, "o2", _resources(B))])
        await _told(second, stream, "o2", "TASK_RUNNING")
        await second.kill("o1")
        await _told(second, stream, "o1", "TASK_KILLED")
        await second.teardown()


async def test_roles_change_without_subscribing_anew(shared: Mesos, scheduler: Make) -> None:
    client = scheduler(shared, _info([A]))
    async with client.subscribe() as stream:
        offer = await _offer(stream)
        await _decline(client, offer)
        await client.update_framework(_info([A, B]))
        offer = await _offer(stream)
        assert _role(offer) == B  # the filter of the other one is kept
        await client.teardown()


def _reservation(kind: str, resources: list[Resource]) -> Operation:
    operation: Any = {"type": kind, kind.lower(): {"resources": resources}}
    return operation  # type: ignore[no-any-return]


async def test_a_task_is_paid_out_of_what_is_reserved(shared: Mesos, scheduler: Make) -> None:
    """What is reserved for a role is offered in that one only, as reserved; a task takes it as it was offered."""
    client = scheduler(shared, _info([A, B]))
    reserved = _resources(A, role=A, reservation={})
    async with client.subscribe() as stream:
        offer = await _offer(stream)
        await client.suppress([B])
        if _role(offer) == B:
            await _decline(client, offer)
            offer = await _offer(stream)
        await client.accept(
            [offer["id"]["value"]], [_reservation("RESERVE", reserved)], calls.filters(0.0)
        )
        offer = await _offer(stream)
        mine = [each for each in offer["resources"] if each["role"] == A]
        assert [(each["name"], each["scalar"]["value"]) for each in mine] == [
            ("cpus", 0.1),
            ("mem", 32.0),
        ]
        assert {each["role"] for each in offer["resources"]} == {A, "*"}
        await _decline(client, offer)
        await client.suppress([A])
        await client.revive([B])
        offer = await _offer(stream)
        assert _role(offer) == B and {each["role"] for each in offer["resources"]} == {"*"}
        await _decline(client, offer)
        await client.suppress([B])
        await client.revive([A])
        offer = await _offer(stream)
        while _role(offer) != A:
            offer = await _offer(stream)
        await _launch(client, [offer], [_task(offer, "p1", mine)])
        await _told(client, stream, "p1", "TASK_RUNNING")
        await client.kill("p1")
        await _told(client, stream, "p1", "TASK_KILLED")
        await client.revive([A])
        offer = await _offer(stream)
        await client.accept(
            [offer["id"]["value"]], [_reservation("UNRESERVE", mine)], calls.filters(0.0)
        )
        while True:
            offer = await _offer(stream)
            if all(each["role"] == "*" for each in offer["resources"]):
                break
            await _decline(client, offer, 0.0)
        await client.teardown()
