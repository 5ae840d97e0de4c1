"""A registry that wants a login: tags and digests are looked up, and images pulled, with the right one only."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import pytest

from infra.local.distributed import DistributedStack
from infra.local.layout import Layout
from infra.provision import Server
from infra.provision.scripts import registry_server
from libs.common.errors import NotFound, Refused
from services.deployer.registry import Login, RegistryResolver
from services.executor.docker import DockerEngine
from services.executor.model import Identity
from services.executor.model import Login as PullLogin
from tests.integration.pushing import LAYER_TYPE, push_image

PASSWORD = "pa:ss&word"


@dataclass
class PrivateRegistry:
    """A registry with one account, and an image in it."""

    host: str
    image: str  # by digest
    tag: str


@pytest.fixture
async def private(tmp_path: Path) -> AsyncIterator[PrivateRegistry]:
    """Started for the test, with an image that no engine has seen."""
    logins = tmp_path / "logins"
    logins.write_text(f"ci:{PASSWORD}\n")
    server = registry_server(tmp_path / "registry", logins=logins)
    await server.start()
    try:
        name = f"{server.url.removeprefix('http://')}/team/private"
        proof = {"Authorization": aiohttp.encode_basic_auth("ci", PASSWORD)}
        async with aiohttp.ClientSession(headers=proof) as session:
            digest = await push(session, server.url, "team/private", "1", str(tmp_path).encode())
        yield PrivateRegistry(name.partition("/")[0], f"{name}@{digest}", f"{name}:1")
    finally:
        await server.stop()


async def push(
    session: aiohttp.ClientSession, base: str, name: str, tag: str, content: bytes
) -> str:
    """An image of one file, which engines take; its manifest's digest."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    layer = gzip.compress(packed.getvalue(), mtime=0)
    plain = hashlib.sha256(packed.getvalue()).hexdigest()
    config = orjson.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain}"]},
        }
    )
    layer_type = f"{LAYER_TYPE}.gzip"
    return await push_image(
        session, base, name, tag, config=config, layer=layer, layer_type=layer_type
    )


async def test_looked_up_with_the_right_login_only(private: PrivateRegistry) -> None:
    resolver = RegistryResolver("registry-1.docker.io")
    try:
        for reference in (private.tag, private.image):
            assert await resolver.resolve(reference, Login("ci", PASSWORD)) == private.image
            # A digest is no pass: who may not read it may not run it, even after somebody else was shown it.
            for login in (None, Login("ci", "wrong"), Login("nobody", PASSWORD)):
                with pytest.raises(NotFound, match="or none that") as refused:
                    await resolver.resolve(reference, login)
                assert PASSWORD not in str(refused.value) and "wrong" not in str(refused.value)
        with pytest.raises(NotFound, match="no such image"):
            await resolver.resolve(f"{private.tag}.2", Login("ci", PASSWORD))
    finally:
        await resolver.close()


async def test_pulled_with_the_right_login_only(
    private: PrivateRegistry, docker_engine: Server, tmp_path: Path
) -> None:
    engine = DockerEngine(
        docker_engine.url, Identity("login", "agent"), tmp_path / "etc", tmp_path / "secrets"
    )
    try:
        for login in (None, PullLogin("ci", "wrong")):
            with pytest.raises(Refused) as refused:
                await engine.pull(private.image, login)
            assert "wrong" not in str(refused.value)
        await engine.pull(private.image, PullLogin("ci", PASSWORD))
        await engine.docker.images.inspect(private.image)
        # The engine remembers no login: the next who asks for what is not here must have one.
        await engine.docker.images.delete(private.image)
        with pytest.raises(Refused):
            await engine.pull(private.image, None)
    finally:
        await engine.close()


async def test_a_local_cluster_of_many_processes_draws_a_login_for_its_registry(
    tmp_path: Path,
) -> None:
    stack = DistributedStack(Layout("login", tmp_path))
    await stack._make_servers()
    server, known = stack.servers["registry"], stack.account.login
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            for login, expected in ((known, 200), ((known[0], "wrong"), 401), (None, 401)):
                proof = {"Authorization": aiohttp.encode_basic_auth(*login)} if login else {}
                async with session.get(f"{server.url}/v2/", headers=proof) as answer:
                    assert answer.status == expected
        again = DistributedStack(Layout("login", tmp_path))
        again.account.make()
        assert again.account.login == known, "who has it would be locked out by a restart"
        for file in (stack.account.password_file, stack.account.logins_file):
            assert file.stat().st_mode & 0o777 == 0o600
    finally:
        await server.stop()
