"""Secrets of the compose files that are replaced while their containers run: what a reader inside finds then.

Real containers with the mounts and the rights that docker-compose.yml and infra/compose/host.yml give. That services
take up what they find is for test_key_rotation.py to show.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
import pytest
import yaml
from aiodocker.containers import DockerContainer

from infra.compose import credentials
from infra.images.build import SAMPLES, build_images
from infra.provision import Server
from infra.provision.scripts import registry_server
from libs.cli.host_cmd import SECRETS
from libs.common.keys import prepend_secret, write_private
from tests.unit.infra import compose
from tests.unit.infra.compose import CONTROL_FILE, HOST_FILE

# One of each kind, and the secrets that it reads.
READERS: Mapping[str, tuple[Path, tuple[str, ...]]] = {
    "gateway-1": (CONTROL_FILE, ("cluster_secret", "agent_credential")),
    "scheduler-2": (CONTROL_FILE, ("cluster_secret", "mesos_secret", "zookeeper_secret")),
    "ipam-1": (CONTROL_FILE, ("cluster_secret",)),
    "mesos-master-2": (CONTROL_FILE, ("mesos_credentials",)),
    "registry": (CONTROL_FILE, ("registry_htpasswd",)),
    "hostd": (HOST_FILE, ("host_key",)),
    "mesos-agent": (HOST_FILE, ("agent_credential", "executor_secret")),
}


@pytest.fixture(scope="module")
def image(docker_engine: Server) -> str:
    """busybox in the engine."""
    (built,) = asyncio.run(build_images(docker_engine.url, None, SAMPLES[:1]))
    return built.reference


def service_of(name: str, secrets: Path) -> dict[str, Any]:
    """The service as docker-compose reads it for that directory of secrets."""
    variables = {**compose.VARIABLES, "SECRETS": str(secrets)}
    done = compose.run_compose(READERS[name][0], "config", variables=variables)
    assert done.returncode == 0, done.stderr
    service: dict[str, Any] = yaml.safe_load(done.stdout)["services"][name]
    return service


@asynccontextmanager
async def container(
    docker: aiodocker.Docker, image: str, service: dict[str, Any], secrets: Path
) -> AsyncIterator[DockerContainer]:
    """Sleeps with the service's secrets and, unless it is privileged, its rights."""
    mounts = [
        {"Type": "bind", "ReadOnly": True, "Source": str(source), "Target": target}
        for target, source in compose.mounted(service).items()
        if source == secrets or secrets in source.parents
    ]
    assert mounts
    config = {
        "Image": image,
        "Entrypoint": ["sleep", "1000"],
        "User": service.get("user", "0:0"),
        "HostConfig": {
            "NetworkMode": "none",
            "Mounts": mounts,
            "CapDrop": service.get("cap_drop", []),
            "ReadonlyRootfs": service.get("read_only", False),
        },
    }
    box = await docker.containers.create(config)
    try:
        await box.start()
        yield box
    finally:
        await box.delete(force=True)


async def read(box: DockerContainer, path: str) -> str:
    """A file inside, as the container's user."""
    executed = await box.exec(("cat", path))
    output = b""
    async with executed.start(detach=False) as stream:
        while (message := await stream.read_out()) is not None:
            output += message.data
    return output.decode()


@pytest.mark.parametrize("name", READERS)
async def test_a_replaced_secret_is_seen_inside(
    name: str, docker_engine: Server, image: str, tmp_path: Path
) -> None:
    file, wanted = READERS[name]
    secrets = tmp_path
    credentials.make_cluster(secrets)
    if file == HOST_FILE:
        secrets = tmp_path / SECRETS.name
        credentials.make_host(tmp_path, "host-1", secrets)
    service = service_of(name, secrets)
    places = {
        Path(target) if each == source else Path(target, each.name): each
        for target, source in compose.mounted(service).items()
        if source == secrets or secrets in source.parents
        for each in ((source,) if source.is_file() else source.iterdir())
        if each.name in wanted
    }
    assert {each.name for each in places} == set(wanted)
    async with (
        aiodocker.Docker(url=docker_engine.url) as docker,
        container(docker, image, service, secrets) as box,
    ):
        for inside, outside in places.items():
            assert await read(box, str(inside)) == outside.read_text()
            if outside.name in ("cluster_secret", "host_key"):
                prepend_secret(outside)  # as `gantry secret add` does
            else:
                write_private(outside, f"another {outside.name}\n")
            assert await read(box, str(inside)) == outside.read_text()


async def test_a_registry_takes_a_login_that_is_made_while_it_runs(tmp_path: Path) -> None:
    """So nobody must restart it: it looks at the file again when that is a newer one."""
    credentials.make_cluster(tmp_path / "secrets")
    (tmp_path / "logins").touch()
    server = registry_server(tmp_path / "registry", logins=tmp_path / "logins")
    await server.start()
    # In place of the file that the script has made; the compose files mount the directory.
    file = tmp_path / "registry" / "htpasswd"
    file.unlink()
    real = credentials.place(tmp_path / "secrets", "registry_htpasswd")
    file.symlink_to(real)
    try:
        async with aiohttp.ClientSession() as session:

            async def answers(password: str) -> int:
                login = {"Authorization": aiohttp.encode_basic_auth("acme", password)}
                async with session.get(f"{server.url}/v2/", headers=login) as answer:
                    return answer.status

            assert await answers("guessed") == 401
            first = credentials.make_login(tmp_path / "secrets", "acme")
            assert await answers(first) == 200
            before_ns = real.stat().st_mtime_ns
            second = credentials.make_login(tmp_path / "secrets", "acme")
            os.utime(
                real, ns=(before_ns, before_ns + 10**9)
            )  # file times are coarse; people are slower
            assert (await answers(first), await answers(second)) == (401, 200)
    finally:
        await server.stop()
