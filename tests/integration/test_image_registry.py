"""Tags become digests at a real image registry."""

from __future__ import annotations

import hashlib

import aiohttp
import orjson
import pytest

from libs.common.errors import NotFound
from services.deployer.registry import RegistryResolver

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


async def push(session: aiohttp.ClientSession, base: str, name: str, tag: str) -> str:
    """An image of one empty layer; its manifest's digest."""
    digests = {}
    for kind, blob in (("config", b"{}"), ("layer", tag.encode())):
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        async with session.post(f"{base}/v2/{name}/blobs/uploads/") as begun:
            assert begun.status == 202
            place = begun.headers["Location"]
        joint = "&" if "?" in place else "?"
        async with session.put(f"{place}{joint}digest={digest}", data=blob) as done:
            assert done.status == 201
        digests[kind] = (digest, len(blob))
    manifest = orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _part("application/vnd.docker.container.image.v1+json", *digests["config"]),
            "layers": [_part("application/vnd.docker.image.rootfs.diff.tar", *digests["layer"])],
        }
    )
    url = f"{base}/v2/{name}/manifests/{tag}"
    headers = {"Content-Type": MANIFEST_TYPE}
    async with session.put(url, data=manifest, headers=headers) as done:
        assert done.status == 201, await done.text()
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def _part(kind: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest, "size": size}


async def test_tags_and_digests(registry_url: str) -> None:
    resolver = RegistryResolver("registry-1.docker.io")
    async with aiohttp.ClientSession() as session:
        first = await push(session, registry_url, "team/resolve", "1")
        second = await push(session, registry_url, "team/resolve", "2")
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
