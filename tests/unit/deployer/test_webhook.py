"""The webhook beyond the contract: how it proves who it is, and answers that are none."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from libs.common.clock import SystemClock
from libs.common.errors import InvalidInput, Unavailable
from services.deployer.drivers import open_balancers
from services.deployer.loadbalancer.base import AnswerState, Change, ChangeKind
from services.deployer.loadbalancer.webhook import WebhookConfig, WebhookDriver
from services.deployer.model import DeployerConfig, Endpoint
from tests.contract.loadbalancer.harness import TOKEN, hook_server
from tests.fakes.loadbalancer import FakeLoadBalancer

ENDPOINT = Endpoint(driver="webhook", backend="shop-web", address="10.0.0.1", port=80)
ADD = Change("c/1", ChangeKind.ADD, "shop/web", "i", ENDPOINT)


async def test_the_body_is_signed_and_the_token_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "key").write_text("the signing key\n")
    async with hook_server(FakeLoadBalancer(SystemClock())) as (server, url):
        config = DeployerConfig(
            webhook_url=url,
            webhook_token_file=tmp_path / "token",
            webhook_signing_key_file=tmp_path / "key",
        )
        (driver,) = (await open_balancers(config, SystemClock())).values()
        assert (await driver.submit(ADD)).state is AnswerState.SUCCESS
        assert (await driver.poll(ADD)).state is AnswerState.SUCCESS
        await driver.close()
        ((_, body, signature),) = server.bodies
        expected = hmac.new(b"the signing key", body, hashlib.sha256).hexdigest()
        assert signature == f"sha256={expected}"


async def test_a_wrong_token_is_a_refusal() -> None:
    async with hook_server(FakeLoadBalancer(SystemClock())) as (_, url):
        driver = WebhookDriver(WebhookConfig(url, "wrong"))
        answer = await driver.submit(ADD)
        assert (answer.state, answer.message) == (AnswerState.FAILED, "the webhook refused: 401")
        await driver.close()


async def test_a_secret_that_can_not_be_read_is_said(tmp_path: Path) -> None:
    config = DeployerConfig(webhook_url="http://x", webhook_token_file=tmp_path / "none")
    with pytest.raises(InvalidInput, match="webhook_token_file"):
        await open_balancers(config, SystemClock())


@asynccontextmanager
async def answering(body: bytes, status: int = 200) -> AsyncIterator[WebhookDriver]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    driver = WebhookDriver(WebhookConfig(f"http://127.0.0.1:{runner.addresses[0][1]}/hook"))
    try:
        yield driver
    finally:
        await driver.close()
        await runner.cleanup()


@pytest.mark.parametrize("body", [b"", b"ok", b"[]", b'{"state": "perhaps"}', b'{"message": "x"}'])
async def test_what_is_no_answer_is_unavailable(body: bytes) -> None:
    async with answering(body) as driver:
        with pytest.raises(Unavailable, match="not what it should be"):
            await driver.submit(ADD)


@pytest.mark.parametrize(("status", "state"), [(302, "failed"), (400, "failed"), (404, "failed")])
async def test_a_refused_change_has_failed(status: int, state: str) -> None:
    async with answering(b"", status) as driver:
        assert (await driver.submit(ADD)).state == state
