"""Images put into a registry by its HTTP API, without an engine that would then have them."""

from __future__ import annotations

import hashlib

import aiohttp
import orjson

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar"


async def push_image(
    session: aiohttp.ClientSession,
    base: str,
    name: str,
    tag: str,
    *,
    config: bytes = b"{}",
    layer: bytes,
    layer_type: str = LAYER_TYPE,
) -> str:
    """An image of one layer; its manifest's digest. `base` is the registry's URL."""
    blobs = f"{base}/v2/{name}/blobs/uploads/"
    manifest = orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": await _put_blob(session, blobs, CONFIG_TYPE, config),
            "layers": [await _put_blob(session, blobs, layer_type, layer)],
        }
    )
    url = f"{base}/v2/{name}/manifests/{tag}"
    headers = {"Content-Type": MANIFEST_TYPE}
    async with session.put(url, data=manifest, headers=headers) as done:
        assert done.status == 201, await done.text()
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


async def _put_blob(
    session: aiohttp.ClientSession, uploads: str, kind: str, blob: bytes
) -> dict[str, object]:
    """Its descriptor, for the manifest."""
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    async with session.post(uploads) as begun:
        assert begun.status == 202
        place = begun.headers["Location"]
    joint = "&" if "?" in place else "?"
    async with session.put(f"{place}{joint}digest={digest}", data=blob) as done:
        assert done.status == 201
    return {"mediaType": kind, "digest": digest, "size": len(blob)}
