"""Image references and their digests, against a registry of the test's own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from libs.common.errors import InvalidInput, NotFound, Unavailable
from services.deployer.registry import DigestsOnly, ImageRef, RegistryResolver

MANIFEST = b'{"schemaVersion": 2}'
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
OTHER = f"sha256:{'0' * 64}"


@dataclass
class Registry:
    """The part of the registry API that is asked for; `token` makes it want one."""

    token: str = ""
    tells_digest: bool = True
    status: int = 200
    url: str = ""
    asked: list[str] = field(default_factory=list)
    said: str | None = None  # by the token service, in place of a token

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.url}/token",service="here",scope="pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if self.status != 200:
            return web.Response(status=self.status)
        if request.match_info["ref"] not in ("1", "latest", DIGEST):
            return web.Response(status=404)
        assert "application/vnd.oci.image.index.v1+json" in request.headers["Accept"]
        headers = {"Docker-Content-Digest": DIGEST} if self.tells_digest else {}
        if request.method == "HEAD":
            return web.Response(headers=headers)
        answer = web.StreamResponse(headers=headers)  # in pieces, as it comes over a real network
        await answer.prepare(request)
        for part in (MANIFEST[:7], MANIFEST[7:]):
            await answer.write(part)
            await asyncio.sleep(0.05)
        return answer

    async def give_token(self, request: web.Request) -> web.Response:
        assert request.query["service"] == "here"
        if self.said is not None:
            return web.Response(text=self.said, content_type="text/html")
        return web.json_response({"token": self.token})


@asynccontextmanager
async def registry(served: Registry) -> AsyncIterator[tuple[RegistryResolver, str]]:
    app = web.Application()
    app.router.add_route("*", "/v2/{name:.+}/manifests/{ref}", served.manifest)
    app.router.add_get("/token", served.give_token)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host = f"127.0.0.1:{runner.addresses[0][1]}"
    served.url = f"http://{host}"
    resolver = RegistryResolver(default_registry=host)
    try:
        yield resolver, host
    finally:
        await resolver.close()
        await runner.cleanup()


@pytest.mark.parametrize("token", ["", "anonymous-1"])
@pytest.mark.parametrize("tells", [True, False])
async def test_a_tag_becomes_a_digest(token: str, tells: bool) -> None:
    served = Registry(token=token, tells_digest=tells)
    async with registry(served) as (resolver, host):
        assert await resolver.resolve(f"{host}/team/web:1") == f"{host}/team/web@{DIGEST}"
        assert await resolver.resolve("web") == f"web@{DIGEST}"
        assert await resolver.resolve(f"{host}/web:1@{DIGEST}") == f"{host}/web@{DIGEST}"
        assert f"HEAD /v2/team/web/manifests/{'1'}" in served.asked


async def test_what_is_not_there_is_not_found() -> None:
    async with registry(Registry()) as (resolver, host):
        with pytest.raises(NotFound, match=f"registry {host} has no such image"):
            await resolver.resolve(f"{host}/web:2")
        with pytest.raises(NotFound):
            await resolver.resolve(f"{host}/web@{OTHER}")


async def test_what_may_not_be_pulled_is_not_found() -> None:
    async with registry(Registry(status=403)) as (resolver, host):
        with pytest.raises(NotFound, match="or none that may be pulled"):
            await resolver.resolve(f"{host}/web:1")


@pytest.mark.parametrize(
    "said", ["<html>log in</html>", "", "[]", "null", '{"token": 7}', '{"token": "a\\nb"}', "{}"]
)
async def test_a_token_service_that_gives_no_token_is_unavailable(said: str) -> None:
    async with registry(Registry(token="t", said=said)) as (resolver, host):
        with pytest.raises(Unavailable, match="answered with no token"):
            await resolver.resolve(f"{host}/web:1")


async def test_a_broken_or_absent_registry_is_unavailable() -> None:
    async with registry(Registry(status=500)) as (resolver, host):
        with pytest.raises(Unavailable, match="answered 500"):
            await resolver.resolve(f"{host}/web:1")
    gone = RegistryResolver(host)
    with pytest.raises(Unavailable, match="can't be reached"):
        await gone.resolve(f"{host}/web:1")
    await gone.close()


async def test_without_a_registry_only_digests_are_taken() -> None:
    images = DigestsOnly()
    assert await images.resolve(f"reg:5000/web:1@{OTHER}") == f"reg:5000/web@{OTHER}"
    with pytest.raises(NotFound, match="give name@sha256"):
        await images.resolve("reg:5000/web:1")
    await images.close()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("web", ImageRef("", "web", "", "")),
        ("team/web:1.2", ImageRef("", "team/web", "1.2", "")),
        ("localhost/web", ImageRef("localhost", "web", "", "")),
        ("reg.example:5000/team/web", ImageRef("reg.example:5000", "team/web", "", "")),
        (f"reg:5000/web:1@{OTHER}", ImageRef("reg:5000", "web", "1", OTHER)),
    ],
)
def test_references_are_read_as_docker_reads_them(image: str, expected: ImageRef) -> None:
    assert ImageRef.parse(image) == expected


@pytest.mark.parametrize("image", ["", "UPPER", "web:", "web@sha256:12", "a b", "web:1\n"])
def test_what_is_no_reference_is_refused(image: str) -> None:
    with pytest.raises(InvalidInput):
        ImageRef.parse(image)
