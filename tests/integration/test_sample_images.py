"""The engine and the registry at work on the sample images, which must keep their promises."""

from __future__ import annotations

import asyncio
import json
import sys

import aiodocker
import pytest
from aiohttp import ClientSession, ClientTimeout

from infra.images.build import SAMPLES, BuildError, BuiltImage, build_images
from infra.provision import Server, process


def _bare(url: str) -> str:
    return url.partition("://")[2]


@pytest.fixture(scope="module")
def samples(docker_engine: Server, registry_url: str) -> dict[str, BuiltImage]:
    """`repository:tag` → the image in the registry."""
    built = asyncio.run(build_images(docker_engine.url, _bare(registry_url)))
    return {image.name.partition("/")[2]: image for image in built}


async def _start(docker: aiodocker.Docker, reference: str) -> aiodocker.containers.DockerContainer:
    return await docker.containers.run(
        config={"Image": reference, "HostConfig": {"NetworkMode": "none"}}
    )


async def _exec(container: aiodocker.containers.DockerContainer, *cmd: str) -> tuple[int, str]:
    execution = await container.exec(cmd, stdout=True, stderr=True)
    out = b""
    async with asyncio.timeout(20), execution.start(detach=False) as stream:
        while (message := await stream.read_out()) is not None:
            out += message.data
    return (await execution.inspect())["ExitCode"], out.decode()


async def _get(container: aiodocker.containers.DockerContainer, path: str) -> tuple[int, str]:
    """From inside, as a container of network `none` has no other way in; retried until it listens."""
    found = (-1, "")

    async def listening() -> bool:
        nonlocal found
        found = await _exec(container, "wget", "-q", "-O", "-", f"http://127.0.0.1:8080{path}")
        return "refused" not in found[1]

    await process.wait_until(listening, timeout_s=10, what="listener on 8080")
    return found


async def test_registry_gives_back_by_digest_what_was_pushed(
    docker_engine: Server, registry_url: str, samples: dict[str, BuiltImage]
) -> None:
    image = samples["sample-web:v1"]
    async with aiodocker.Docker(url=docker_engine.url) as docker:
        for name in (image.name, "sample-web:v1"):
            await docker.images.delete(name, force=True)
        with pytest.raises(aiodocker.DockerError):
            await docker.images.inspect(image.reference)
        await docker.images.pull(image.reference)
        shown = await docker.images.inspect(image.reference)
    assert shown["RepoDigests"] == [image.reference]
    assert shown["Config"]["Entrypoint"] == ["/app"]
    assert shown["Config"]["ExposedPorts"] == {"8080/tcp": {}}
    assert shown["Config"]["StopSignal"] == "SIGTERM"
    assert shown["Config"]["Labels"]["org.opencontainers.image.version"] == "v1"
    async with ClientSession(registry_url, timeout=ClientTimeout(total=10)) as session:
        reply = await session.get("/v2/sample-web/tags/list")
        assert set((await reply.json())["tags"]) == {"v1", "v2", "v3-broken"}


async def test_an_image_is_the_same_however_often_it_is_built(
    docker_engine: Server, registry_url: str, samples: dict[str, BuiltImage]
) -> None:
    again = await build_images(docker_engine.url, _bare(registry_url))
    assert {image.name: image.digest for image in again} == {
        image.name: image.digest for image in samples.values()
    }
    assert len({image.digest for image in again}) == 4


async def test_sample_web_runs_without_network_and_stops_at_once(
    docker_engine: Server, samples: dict[str, BuiltImage]
) -> None:
    async with aiodocker.Docker(url=docker_engine.url) as docker:
        container = await _start(docker, samples["sample-web:v2"].reference)
        try:
            code, body = await _get(container, "/")
            assert (code, json.loads(body)["version"], json.loads(body)["pid"]) == (0, "v2", 1)
            assert json.loads(body)["hostname"] == container.id[:12]
            assert (await _get(container, "/health"))[0] == 0
            assert (await _get(container, "/nothing"))[0] != 0
            _, links = await _exec(container, "ls", "/sys/class/net")
            assert links.split() == ["lo"]
            async with asyncio.timeout(20):
                await container.stop(t=30)
            assert (await container.show())["State"]["ExitCode"] == 0
        finally:
            await container.delete(force=True)


async def test_the_broken_sample_lives_but_is_not_healthy(
    docker_engine: Server, samples: dict[str, BuiltImage]
) -> None:
    async with aiodocker.Docker(url=docker_engine.url) as docker:
        container = await _start(docker, samples["sample-web:v3-broken"].reference)
        try:
            assert (await _get(container, "/"))[0] == 0
            code, said = await _get(container, "/health")
            assert code != 0
            assert "500" in said
        finally:
            await container.delete(force=True)


async def test_the_crashing_sample_exits_with_1(
    docker_engine: Server, samples: dict[str, BuiltImage]
) -> None:
    async with aiodocker.Docker(url=docker_engine.url) as docker:
        container = await _start(docker, samples["sample-crash:v1"].reference)
        try:
            async with asyncio.timeout(10):
                assert (await container.wait())["StatusCode"] == 1
        finally:
            await container.delete(force=True)


async def test_containers_outlive_a_killed_engine(
    docker_engine: Server, samples: dict[str, BuiltImage]
) -> None:
    async with aiodocker.Docker(url=docker_engine.url) as docker:
        container = await _start(docker, samples["sample-web:v1"].reference)
        try:
            before = (await container.show())["State"]["Pid"]
            await docker_engine.kill9()
            assert docker_engine.pid is None
            assert not process.gone(before)
            await docker_engine.start()
            assert (await container.show())["State"]["Pid"] == before
            assert (await _exec(container, "true"))[0] == 0
        finally:
            await container.delete(force=True)


# Runs inside the container's network: half of a request, TERM, the other half.
INTERRUPTED = """
import os, signal, socket, sys
def refused():
    try:
        socket.create_connection(("127.0.0.1", 8080), 2).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # it came while the port was being closed
    return False
client = socket.create_connection(("127.0.0.1", 8080), 5)
client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
print(client.recv(4096).decode())
client.sendall(b"GET /health HTTP/1.1\\r\\nHost: a")
os.kill(int(sys.argv[1]), signal.SIGTERM)
while not refused():
    pass
client.sendall(b"\\r\\n\\r\\n")
print(client.recv(4096).decode(), "then", client.recv(4096))
"""


async def test_sample_web_finishes_a_request_that_sigterm_interrupts(
    docker_engine: Server, samples: dict[str, BuiltImage]
) -> None:
    async with aiodocker.Docker(url=docker_engine.url) as docker:
        container = await _start(docker, samples["sample-web:v2"].reference)
        try:
            await _get(container, "/")
            pid = str((await container.show())["State"]["Pid"])
            client = ["nsenter", "-t", pid, "-n", sys.executable, "-c", INTERRUPTED, pid]
            said = await process.run(client, timeout_s=10)
            first, last = said.split("HTTP/1.1 200 OK")[1:]
            assert "Connection: keep-alive" in first
            assert "Connection: close" in last
            assert last.endswith("then b''\n")
            async with asyncio.timeout(20):
                assert (await container.wait())["StatusCode"] == 0
        finally:
            await container.delete(force=True)


async def test_a_registry_that_does_not_answer_is_named(docker_engine: Server) -> None:
    with pytest.raises(BuildError, match=r"sample-web:v1: .*127\.0\.0\.1:1"):
        await build_images(docker_engine.url, "127.0.0.1:1", SAMPLES[:1])
