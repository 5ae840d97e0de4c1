"""Tags become digests at a real image registry."""

from __future__ import annotations

import aiohttp
import pytest

from libs.common.errors import NotFound
from services.deployer.registry import RegistryResolver
from tests.integration.pushing import push_image


async def test_tags_and_digests(registry_url: str) -> None:
    resolver = RegistryResolver("registry-1.docker.io")
    async with aiohttp.ClientSession() as session:
        first = await push_image(session, registry_url, "team/resolve", "1", layer=b"1")
        second = await push_image(session, registry_url, "team/resolve", "2", layer=b"2")
    host = registry_url.removeprefix("http://")
    name = f"{host}/team/resolve"
    try:
        assert await resolver.resolve(f"{name}:1") == f"{name}@{first}"
        assert await resolver.resolve(f"{name}:2") == f"{name}@{second}"
        assert await resolver.resolve(f"{name}:2@{first}") == f"{name}@{first}"
        for missing in (f"{name}:3", f"{name}@sha256:{'0' * 64}", f"{host}/none:1"):
            with pytest.raises(NotFound, match="no such image"):
                await resolver.resolve(missing)
    finally:
        await resolver.close()
