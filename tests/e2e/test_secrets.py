"""Secrets and private images of a business unit, from the command line into a real container, and nowhere else."""

from __future__ import annotations

import asyncio
import os
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
import orjson
import pytest
import pytest_asyncio

from infra.provision.scripts import registry_server
from libs.client.api import GantryClient
from libs.client.model import DeploymentView, NewKey, Role
from libs.client.vault import RegistryLogin
from libs.common.errors import Conflict
from libs.common.spec import AppSpec
from services.executor.secret_files import file_system_of
from tests.e2e.conftest import Cloud
from tests.e2e.test_bad_input import good

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(200)]

APP = "acme/secretive"
IN_ENV, IN_FILE, PASSWORD = "marker-in-env-7c1e", "marker-in-file-93ab", "marker-password-0d4f"
TRACED = ("gateway", "deployer", "scheduler", "executor", "hostd")  # by whose hands a value may go
REFS = [
    {"name": "db", "env": "DB_PASSWORD"},
    {"name": "tls", "file": "/run/secrets/tls.key"},
]


async def gantry(cloud: Cloud, *words: str, value: str) -> str:
    """The command, with a value on its standard input."""
    environ = {
        **os.environ,
        "GANTRY_URL": cloud.stack.layout.url,
        "GANTRY_KEY_FILE": str(cloud.stack.layout.admin_key_file),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "libs.cli.main", "--bu", "acme", *words),
        env=environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(value.encode())
    assert process.returncode == 0
    return output.decode()


async def deploy(
    client: GantryClient, app: str, image: str | None = None, restart: bool = False
) -> DeploymentView:
    asked = await (client.restart(app) if restart else client.deploy(app, image=image))
    return await client.wait(asked.deployment, 0.1)


@asynccontextmanager
async def docker(cloud: Cloud) -> AsyncIterator[aiodocker.Docker]:
    async with aiodocker.Docker(url=f"unix://{cloud.stack.engine_sockets()[0]}") as engine:
        yield engine


async def container(cloud: Cloud, engine: aiodocker.Docker, app: str) -> Any:
    (instance,) = (await cloud.client.instances(app)).instances
    return engine.containers.container(instance.container)


async def inside(box: Any, *command: str) -> str:
    executed = await box.exec(command)
    output = b""
    async with executed.start(detach=False) as stream:
        while (message := await stream.read_out()) is not None:
            output += message.data
    return output.decode().strip()


def secrets_dir(cloud: Cloud) -> Path:
    return cloud.stack.layout.run / "secrets"


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def running(cloud: Cloud) -> AsyncIterator[Cloud]:
    """With the app running, one instance."""
    said = await gantry(cloud, "bu-secret", "put", "db", value=IN_ENV)
    assert said.strip() == "acme/db: version 1"
    await gantry(cloud, "bu-secret", "put", "tls", "-", value=IN_FILE)
    spec = good(cloud, secrets=REFS, instances=1)
    await cloud.client.put_app(APP, AppSpec.model_validate(spec))
    ended = await deploy(cloud.client, APP)
    assert ended.state == "succeeded", ended
    yield cloud
    await cloud.client.wait((await cloud.client.stop(APP)).deployment, 0.1)
    async with asyncio.timeout(60):
        while list(secrets_dir(cloud).iterdir()):
            await asyncio.sleep(0.1)


async def test_the_container_has_them(running: Cloud) -> None:
    async with docker(running) as engine:
        box = await container(running, engine, APP)
        shown = await box.show()
        assert f"DB_PASSWORD={IN_ENV}" in shown["Config"]["Env"]
        assert IN_FILE not in str(shown)
        assert await inside(box, "/bin/sh", "-c", "cat /run/secrets/tls.key") == IN_FILE
        # The app's own user reads it, and nobody writes it.
        (source,) = [each["Source"] for each in shown["Mounts"] if "tls.key" in str(each)]
        state, user = Path(source).stat(), str(shown["Config"]["User"]).partition(":")[0]
        assert (state.st_mode & 0o777, state.st_uid) == (0o400, int(user))
        assert file_system_of(Path(source)) == "tmpfs"
        (mounted,) = [each for each in shown["Mounts"] if each["Source"] == source]
        assert mounted["RW"] is False


async def test_the_values_are_nowhere_else(running: Cloud) -> None:
    layout = running.stack.layout
    for value, places in (
        # The engine keeps what `docker inspect` shows of the one container: there, and not in its log.
        (IN_ENV, [*but(layout.root, "engine"), *but(layout.root / "engine", "data", "exec")]),
        (IN_FILE, [layout.root]),
    ):
        for marker in forms(value):
            assert [file for place in places for file in files_with(place, marker)] == []
    assert [*files_with(layout.root, APP)], "nothing was looked at"
    spans = [orjson.loads(line) for line in layout.trace_file.read_bytes().splitlines()]
    assert {each["service"] for each in spans} >= {f"gantry-{name}" for name in TRACED}
    texts = [text async for text in told_by_mesos(running)]
    async with docker(running) as engine:
        mine = (await container(running, engine, APP)).id
        for each in await engine.containers.list(all=True):
            try:
                shown = str(await each.show())
            except aiodocker.DockerError as error:
                if error.status != 404:  # another test's, gone since
                    raise
                continue
            if shown.find(mine) < 0:
                texts.append(shown)
    texts += list(told_by_proc())
    answers = [await running.client.app(APP), await running.client.releases(APP)]
    answers += [await running.client.instances(APP), await running.client.audit(limit=200)]
    answers += [await running.client.vault.secrets("acme")]
    texts += [str(each) for each in answers]
    markers = [*forms(IN_ENV), *forms(IN_FILE)]
    assert all(marker not in text for marker in markers for text in texts)
    assert any("secretive" in text for text in texts)


def forms(value: str) -> list[str]:
    """As it is, and as base64 would have it, wherever in a text it began."""
    coded = [b64encode(b"-" * n + value.encode()).decode()[4:-4] for n in range(3)]
    return [value, *coded]


def but(directory: Path, *names: str) -> list[Path]:
    """What is in a directory, without some of it."""
    return [each for each in directory.iterdir() if each.name not in names]


def files_with(place: Path, marker: str) -> Iterator[Path]:
    """Files with the marker in them; what vanishes meanwhile has none."""
    for file in [place] if place.is_file() else place.rglob("*"):
        try:
            if file.is_file() and not file.is_symlink() and marker.encode() in file.read_bytes():
                yield file
        except OSError:
            continue


async def told_by_mesos(cloud: Cloud) -> AsyncIterator[str]:
    """The state of master and agent, and the agent's tasks in full."""
    layout = cloud.stack.layout
    secret = (layout.data / "mesos.secret").read_text().strip()
    proof = {"Authorization": aiohttp.encode_basic_auth("gantry", secret)}
    async with aiohttp.ClientSession(headers=proof) as session:
        for port in ("mesos_master", "mesos_agent"):
            url = f"http://127.0.0.1:{layout.ports[port]}"
            async with session.get(f"{url}/state") as answer:
                assert answer.status == 200
                yield await answer.text()
            call = {"type": "GET_TASKS"}
            async with session.post(f"{url}/api/v1", json=call) as answer:
                assert answer.status == 200, await answer.text()
                yield await answer.text()


def told_by_proc() -> Iterator[str]:
    """Command lines of all processes."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                yield (process / "cmdline").read_text(errors="replace")
            except OSError:
                continue


async def test_a_missing_secret_leaves_the_old_release_running(running: Cloud) -> None:
    before = (await running.client.instances(APP)).instances
    changed = good(running, secrets=[*REFS, {"name": "missing", "env": "MISSING"}], instances=1)
    spec = AppSpec.model_validate(changed)
    why = "secrets.2.name: business unit acme has no secret 'missing'"
    planned = await running.client.plan(APP, spec=spec)
    assert planned.refused == why
    await running.client.put_app(APP, spec)
    async with asyncio.timeout(60):
        refused = await deploy(running.client, APP)
    assert (refused.state, refused.reason) == ("refused", why)
    after = (await running.client.instances(APP)).instances
    assert [each.instance for each in after] == [each.instance for each in before]
    with pytest.raises(Conflict, match=APP):
        await running.client.vault.remove_secret("acme", "db")
    await running.client.put_app(APP, AppSpec.model_validate(good(running, secrets=REFS)))


async def test_a_changed_secret_comes_with_a_restart(running: Cloud) -> None:
    await running.client.vault.put_secret("acme", "tls", b"renewed")
    async with docker(running) as engine:
        box = await container(running, engine, APP)
        assert await inside(box, "/bin/cat", "/run/secrets/tls.key") == IN_FILE
        assert (await deploy(running.client, APP, restart=True)).state == "succeeded"
        box = await container(running, engine, APP)
        assert await inside(box, "/bin/cat", "/run/secrets/tls.key") == "renewed"


async def test_a_private_image_is_its_units_alone(cloud: Cloud, tmp_path: Path) -> None:
    app, layout = "acme/private", cloud.stack.layout
    logins = tmp_path / "logins"
    logins.write_text(f"ci:{PASSWORD}\n")
    server = registry_server(layout.root / "private-registry", logins=logins)
    await server.start()
    host = server.url.removeprefix("http://")
    try:
        async with docker(cloud) as engine:
            await publish(engine, f"127.0.0.1:{layout.ports['registry']}/sample-web", host)
        spec = {**good(cloud), "instances": 1, "image": f"{host}/team/web:v1"}
        await cloud.client.put_app(app, AppSpec.model_validate(spec))
        failed = await deploy(cloud.client, app)
        assert failed.state == "failed" and "without a login" in failed.reason
        wrong = RegistryLogin(user="ci", password="wrong")
        await cloud.client.vault.put_registry("acme", host, wrong)
        assert (await deploy(cloud.client, app)).state == "failed"
        await gantry(cloud, "bu-registry", "put", host, "ci", value=f"{PASSWORD}\n")
        ended = await deploy(cloud.client, app)
        assert ended.state == "succeeded", ended
        pinned = (await cloud.client.releases(app)).releases[0].image
        # By now the host has it cached; another unit may not run it for that.
        other = await cloud.client.create_key(NewKey(bu="other", role=Role.DEPLOYER))
        async with GantryClient.open(layout.url, other.key) as foreigner:
            spec = {**good(cloud), "instances": 1, "image": pinned}
            await foreigner.put_app("other/thief", AppSpec.model_validate(spec))
            refused = await deploy(foreigner, "other/thief")
            assert refused.state == "failed" and "without a login" in refused.reason
        for marker in forms(PASSWORD):
            assert [*files_with(layout.root, marker)] == []
        await cloud.client.wait((await cloud.client.stop(app)).deployment, 0.1)
    finally:
        await server.stop()


async def publish(engine: aiodocker.Docker, sample: str, host: str) -> None:
    """The sample image in the private registry, and nothing of that name left in the engine."""
    name = f"{host}/team/web"
    await engine.images.tag(f"{sample}:v1", repo=name, tag="v1")
    await engine.images.push(name, tag="v1", auth={"username": "ci", "password": PASSWORD})
    await engine.images.delete(f"{name}:v1")
    assert not [
        each
        for each in await engine.images.list()
        if any(host in d for d in each["RepoDigests"] or ())
    ]
