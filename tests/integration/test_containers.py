"""A provided server as a container: it serves where its image is there, bears what is done to it, leaves nothing."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiodocker
import pymongo
import pytest
from aiohttp import ClientConnectionError, ClientSession, ClientTimeout
from kazoo.client import KazooClient
from pymongo.write_concern import WriteConcern

from infra import provision
from infra.images.archive import Entry, ImageConfig, image_archive, layer
from infra.provision import Server, sources
from infra.provision.containers import ContainerControl
from tests.compose.serving import load_images
from tests.integration.topics import consume, create_topic, produce

KEPT = "kept"


def _registry_archive(name: str) -> bytes:
    """An image of this host's registry program that, like the upstream one, listens where
    REGISTRY_HTTP_ADDR says."""
    program = Path("/usr/bin/docker-registry")
    needed = [Path("/lib/x86_64-linux-gnu/libc.so.6"), Path("/lib64/ld-linux-x86-64.so.2")]
    config = b"version: 0.1\nstorage: {inmemory: {}}\nhttp: {addr: 127.0.0.1:1}\n"
    files = [Entry(str(path)[1:], path.read_bytes()) for path in (program, *needed)]
    runs = ImageConfig(entrypoint=(str(program), "serve", "/config.yml"))
    return image_archive([layer([*files, Entry("config.yml", config)])], runs, [name], "amd64")


async def test_a_container_serves_where_its_image_is_there(
    tmp_path: Path, docker_engine: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = "gantry-test-registry:local"
    async with aiodocker.Docker(url=docker_engine.url) as docker:
        await docker.images.import_image(io.BytesIO(_registry_archive(image)))
        monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
        monkeypatch.setenv("GANTRY_TEST_REGISTRY_IMAGE", image)
        async with (
            provision.registry(tmp_path) as server,
            ClientSession(server.url, timeout=ClientTimeout(total=30)) as session,
        ):
            assert isinstance(server.control, ContainerControl)
            assert (await session.get("/v2/")).status == 200
            await server.kill9()
            with pytest.raises(ClientConnectionError):
                await session.get("/v2/")
            await server.start()
            assert (await session.get("/v2/")).status == 200
            await server.pause()
            with pytest.raises(TimeoutError):
                await session.get("/v2/", timeout=ClientTimeout(total=0.3))
            await server.resume()
            await server.resume()
            await server.restart()
            assert (await session.get("/v2/")).status == 200
        left = await docker.containers.list(all=True)
        assert [each for each in left if each["Image"] == image] == []


@pytest.fixture(scope="module")
def server_images(docker_engine: Server) -> dict[str, str]:
    """Kind of server → an image in the engine that takes what the upstream one takes."""
    return asyncio.run(load_images(docker_engine.url))


async def _keep_in_kafka(server: Server, value: str) -> None:
    await create_topic(server.address, KEPT)
    await produce(server.address, KEPT, value.encode())


async def _kept_in_kafka(server: Server, count: int) -> list[str]:
    return [value.decode() for value in await consume(server.address, KEPT, count)]


async def _keep_in_mongo(server: Server, value: str) -> None:
    async with pymongo.AsyncMongoClient[dict[str, Any]](server.url) as client:
        things = client[KEPT].get_collection(KEPT, write_concern=WriteConcern(w="majority"))
        await things.insert_one({"_id": value})


async def _kept_in_mongo(server: Server, _: int) -> list[str]:
    async with pymongo.AsyncMongoClient[dict[str, Any]](server.url) as client:
        return [each["_id"] async for each in client[KEPT][KEPT].find().sort("_id")]


@contextmanager
def _kazoo(server: Server) -> Iterator[KazooClient]:
    client = KazooClient(hosts=server.address, timeout=5)
    client.start(timeout=20)
    try:
        yield client
    finally:
        client.stop()
        client.close()


async def _keep_in_zookeeper(server: Server, value: str) -> None:
    with _kazoo(server) as client:
        client.create(f"/{KEPT}/{value}", makepath=True)


async def _kept_in_zookeeper(server: Server, _: int) -> list[str]:
    with _kazoo(server) as client:
        return sorted(client.get_children(f"/{KEPT}"))


KEEPERS = {
    "kafka": (_keep_in_kafka, _kept_in_kafka),
    "mongo": (_keep_in_mongo, _kept_in_mongo),
    "zookeeper": (_keep_in_zookeeper, _kept_in_zookeeper),
}


@pytest.mark.parametrize("kind", KEEPERS)
async def test_a_server_in_a_container_keeps_what_it_acknowledged(
    kind: str,
    tmp_path: Path,
    docker_engine: Server,
    server_images: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep, kept = KEEPERS[kind]
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    monkeypatch.setenv(f"GANTRY_TEST_{kind.upper()}_IMAGE", server_images[kind])
    async with aiodocker.Docker(url=docker_engine.url) as docker:
        before = await _volumes(docker)
        async with sources.provided(kind, tmp_path, own=True) as server:
            assert isinstance(server.control, ContainerControl)
            await keep(server, "one")
            await server.kill9()
            assert not await server.control.answers()
            await server.start()
            await server.pause()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await server.control.answers()
            await server.resume()
            await keep(server, "two")
            assert await kept(server, 2) == ["one", "two"]
        left = await docker.containers.list(all=True)
        assert [each for each in left if each["Image"] == server_images[kind]] == []
        assert await _volumes(docker) == before


async def _volumes(docker: aiodocker.Docker) -> set[str]:
    """The names of all: a container's data are in some that have no name of ours."""
    listed = await docker.volumes.list()  # type: ignore[no-untyped-call]
    return {each["Name"] for each in listed["Volumes"] or ()}


async def test_without_its_image_a_server_is_a_process(
    tmp_path: Path, docker_engine: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    monkeypatch.setenv("GANTRY_TEST_REGISTRY_IMAGE", "127.0.0.1:1/nobody/has:this")
    async with provision.registry(tmp_path / "registry") as server:
        assert server.pid is not None
