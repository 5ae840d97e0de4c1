"""Three hosts for the tests of the network across hosts, once a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.network.site import Site, open_site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    """Three hosts on a trunk, at work; tests leave no attachments behind."""
    async with open_site(3) as opened:
        yield opened
