"""A running gateway with faked peers, for each test that asks for `world`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.gateway import World, gateway_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A gateway in memory."""
    async with gateway_world(tmp_path) as made:
        yield made
