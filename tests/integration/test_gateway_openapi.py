"""The API held to its own description: schemathesis against a live gateway, a bounded number of examples."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from services.gateway.model import GatewayConfig
from tests.fakes.gateway import World, live_gateway

load_all_checks()
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
EXAMPLES = 12
GENEROUS = GatewayConfig(
    rate_per_s=1e6, rate_burst=1e6, max_streams=10_000, max_streams_per_key=10_000
)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    """A gateway with an app that has been deployed, in a thread of its own."""
    data_dir: Path = tmp_path_factory.mktemp("gateway")
    up: list[tuple[World, str, asyncio.AbstractEventLoop, asyncio.Event]] = []
    started = threading.Event()

    async def run() -> None:
        async with live_gateway(data_dir, GENEROUS) as (world, url):
            await world.put_app()
            await world.deployed("/v1/apps/acme/web/deploys")
            done = asyncio.Event()
            up.append((world, url, asyncio.get_running_loop(), done))
            started.set()
            await done.wait()

    worker = threading.Thread(target=lambda: asyncio.run(run()))
    worker.start()
    assert started.wait(60) and up
    world, url, loop, done = up[0]
    yield world, url
    loop.call_soon_threadsafe(done.set)
    worker.join(60)
    assert not worker.is_alive()


# As served: tests/unit/gateway/test_openapi.py. Without the operations that answer for ever.
schema = (
    schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.json")
    .exclude(path="/v1/events")
    .exclude(path_regex="/logs$")
)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_the_api_does_as_it_says(case: schemathesis.Case[Any], live: tuple[World, str]) -> None:
    world, url = live
    case.call_and_validate(
        base_url=url, headers={"Authorization": f"Bearer {world.admin_key}"}, checks=CHECKS
    )
