"""What every load-balancer driver promises, asked of the fake, the webhook and a real HAProxy."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import Unavailable
from services.deployer.loadbalancer.base import Answer, AnswerState, Change, ChangeKind
from services.deployer.model import Endpoint
from tests.contract.loadbalancer.harness import (
    SLOTS,
    Harness,
    fake_harness,
    haproxy_harness,
    webhook_harness,
)


@pytest.fixture(params=["fake", "webhook", "haproxy"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    if request.param == "fake":
        async with fake_harness() as fake:
            yield fake
    elif request.param == "webhook":
        async with webhook_harness() as webhook:
            yield webhook
    else:
        with tempfile.TemporaryDirectory(prefix="lb") as directory:
            async with haproxy_harness(Path(directory)) as haproxy:
                yield haproxy


def change(kind: ChangeKind, endpoint: Endpoint, n: int = 1, drain_s: float = 0.0) -> Change:
    until = SystemClock().now() + drain_s
    name = f"i-{endpoint.address}"
    return Change(f"{name}-{n}", kind, "shop/web", name, endpoint, until)


def pair(endpoint: Endpoint) -> tuple[str, int]:
    return (endpoint.address, endpoint.port)


async def finally_(harness: Harness, asked: Change) -> Answer:
    async with asyncio.timeout(30):
        answer = await harness.driver.submit(asked)
        while answer.state is AnswerState.WAITING:
            await asyncio.sleep(0.02)
            answer = await harness.driver.poll(asked)
    return answer


async def put_in(harness: Harness, *numbers: int) -> list[Endpoint]:
    endpoints = [await harness.endpoint(n) for n in numbers]
    for endpoint in endpoints:
        answer = await finally_(harness, change(ChangeKind.ADD, endpoint))
        assert answer.state is AnswerState.SUCCESS, answer
    return endpoints


async def test_what_is_added_gets_traffic(harness: Harness) -> None:
    first, second = await put_in(harness, 1, 2)
    assert await harness.traffic() == {pair(first), pair(second)}
    present = await harness.driver.present(first.backend)
    assert present in (None, {pair(first), pair(second)})


async def test_adding_twice_is_adding_once(harness: Harness) -> None:
    for _ in range(SLOTS + 1):
        await put_in(harness, 1)
    endpoint = await harness.endpoint(1)
    again = await finally_(harness, change(ChangeKind.ADD, endpoint, n=2))
    assert again.state is AnswerState.SUCCESS
    await put_in(harness, *range(2, SLOTS + 1))  # it holds one slot only


async def test_removing_what_is_unknown_succeeds(harness: Harness) -> None:
    endpoint = await harness.endpoint(1)
    answer = await finally_(harness, change(ChangeKind.REMOVE, endpoint))
    assert answer.state is AnswerState.SUCCESS
    elsewhere = endpoint.model_copy(update={"backend": "unheard-of"})
    answer = await finally_(harness, change(ChangeKind.REMOVE, elsewhere))
    assert answer.state is AnswerState.SUCCESS


async def test_what_is_removed_gets_no_traffic(harness: Harness) -> None:
    first, second = await put_in(harness, 1, 2)
    for _ in range(2):
        answer = await finally_(harness, change(ChangeKind.REMOVE, first, n=2, drain_s=5))
        assert answer.state is AnswerState.SUCCESS
        assert await harness.traffic() == {pair(second)}


async def test_open_requests_are_waited_for_and_no_new_ones_come(harness: Harness) -> None:
    first, second = await put_in(harness, 1, 2)
    await harness.hold(first)
    asked = change(ChangeKind.REMOVE, first, n=2, drain_s=60)
    answer = await harness.driver.submit(asked)
    assert answer.state is AnswerState.WAITING
    assert await harness.traffic() == {pair(second)}
    assert (await harness.driver.poll(asked)).state is AnswerState.WAITING
    await harness.finish()
    assert (await finally_(harness, asked)).state is AnswerState.SUCCESS
    assert await harness.traffic() == {pair(second)}


async def test_the_drain_time_ends_the_waiting_and_that_is_said(harness: Harness) -> None:
    (first,) = await put_in(harness, 1)
    await harness.hold(first)
    asked = change(ChangeKind.REMOVE, first, n=2, drain_s=3.0)
    assert (await harness.driver.submit(asked)).state is AnswerState.WAITING
    answer = await finally_(harness, asked)
    assert answer.state is AnswerState.SUCCESS
    assert "still open" in answer.message
    assert await harness.traffic() == set()


async def test_a_removed_endpoint_can_come_back(harness: Harness) -> None:
    (first,) = await put_in(harness, 1)
    await finally_(harness, change(ChangeKind.REMOVE, first, n=2))
    answer = await finally_(harness, change(ChangeKind.ADD, first, n=3))
    assert answer.state is AnswerState.SUCCESS
    assert await harness.traffic() == {pair(first)}


async def test_a_cancelled_adding_leaves_nothing(harness: Harness) -> None:
    first, second = await put_in(harness, 1, 2)
    answer = await harness.driver.cancel(change(ChangeKind.ADD, first))
    assert answer.state is AnswerState.CANCELLED
    assert await harness.traffic() == {pair(second)}
    unknown = change(ChangeKind.ADD, await harness.endpoint(3), n=9)
    assert (await harness.driver.cancel(unknown)).state is AnswerState.CANCELLED


async def test_a_full_pool_says_so(harness: Harness) -> None:
    await put_in(harness, *range(1, SLOTS + 1))
    answer = await finally_(harness, change(ChangeKind.ADD, await harness.endpoint(SLOTS + 1)))
    assert answer.state is AnswerState.FAILED
    assert f"all {SLOTS} slots" in answer.message


async def test_an_unknown_backend_says_so(harness: Harness) -> None:
    elsewhere = (await harness.endpoint(1)).model_copy(update={"backend": "unheard-of"})
    answer = await finally_(harness, change(ChangeKind.ADD, elsewhere))
    assert answer.state is AnswerState.FAILED
    assert "unheard-of" in answer.message


async def test_many_at_once_get_a_slot_each(harness: Harness) -> None:
    endpoints = [await harness.endpoint(n) for n in range(1, SLOTS + 1)]
    asked = [finally_(harness, change(ChangeKind.ADD, each)) for each in endpoints]
    answers = await asyncio.gather(*asked)
    assert {each.state for each in answers} == {AnswerState.SUCCESS}
    assert await harness.traffic() == {pair(each) for each in endpoints}


async def test_a_restart_is_seen_and_mended(harness: Harness) -> None:
    first, second = await put_in(harness, 1, 2)
    await harness.restart()
    assert await harness.driver.present(first.backend) in (None, frozenset())
    await put_in(harness, 1, 2)
    assert await harness.traffic() == {pair(first), pair(second)}


async def test_one_that_is_away_is_unavailable(harness: Harness) -> None:
    endpoint = await harness.endpoint(1)
    await harness.stop()
    with pytest.raises(Unavailable):
        await harness.driver.submit(change(ChangeKind.ADD, endpoint))
    with pytest.raises(Unavailable):
        await harness.driver.poll(change(ChangeKind.REMOVE, endpoint))
