"""Every test of the store runs against every adapter, each really started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.store.base import Collection, CollectionSpec, Index, Store
from tests.contract.store.worlds import World, open_world

THINGS = CollectionSpec(
    "things",
    (
        Index("by_app", ("app", "state")),
        Index("by_name", ("place.zone", "name"), unique=True),
    ),
)


@pytest.fixture(params=["memory", "sqlite", "mongo"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Data of its own for each test."""
    url = request.getfixturevalue("mongo_url") if request.param == "mongo" else ""
    async with open_world(request.param, tmp_path, url) as opened:
        yield opened


@pytest.fixture
async def store(world: World) -> Store:
    """One handle."""
    return await world.open()


@pytest.fixture
async def things(store: Store) -> Collection:
    """A collection with a plain and a unique index."""
    return await store.collection(THINGS)
