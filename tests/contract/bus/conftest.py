"""Every test of the bus runs against every adapter, each really started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.bus.base import Bus
from tests.contract.bus.worlds import World, open_world


@pytest.fixture(params=["memory", "sqlite", "kafka"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A log of its own for each test."""
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else ""
    async with open_world(request.param, tmp_path, url) as opened:
        yield opened


@pytest.fixture
async def bus(world: World) -> AsyncIterator[Bus]:
    """One handle."""
    opened = await world.open()
    yield opened
    await opened.close()
