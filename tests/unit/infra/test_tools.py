"""The tools of the distributed form: secrets, the health check, calls of an operator."""

from __future__ import annotations

import asyncio
import ctypes
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.compose import ask, credentials
from libs.common.clock import SystemClock
from libs.common.http import Access, HttpApp, Kind, Request, Response, Route, reply
from libs.common.keys import read_secrets
from libs.common.serve import serve
from libs.common.tokens import TokenVerifier, derive_key
from libs.mesos.credentials import open_credentials
from tests.unit.infra.compose import REPOSITORY

MADE = {
    "cluster_secret", "mesos_secret", "zookeeper_secret", "agent_secret", "mesos_credentials", "agent_credential",
    "registry_htpasswd",
}  # fmt: skip
HEALTHY = REPOSITORY / "infra/compose/healthy"


def test_secrets_are_made_once_and_for_their_readers_alone(tmp_path: Path) -> None:
    credentials.main(["cluster", str(tmp_path)])
    files = {each.name: each for each in tmp_path.rglob("*") if each.is_file()}
    before = {name: file.read_text() for name, file in files.items()}
    assert files.keys() == MADE
    assert {each.stat().st_mode & 0o777 for each in files.values()} == {0o400}
    for name, file in files.items():
        assert file == credentials.place(tmp_path, name)
    # Who may read a file gets to it, and to no list of the others.
    assert {each.stat().st_mode & 0o777 for each in tmp_path.rglob("*") if each.is_dir()} == {0o711}
    credentials.main(["cluster", str(tmp_path)])
    assert {name: file.read_text() for name, file in files.items()} == before
    assert len(read_secrets(files["cluster_secret"])[0]) == 32
    known = json.loads(before["mesos_credentials"])["credentials"]
    ours = open_credentials("scheduler", "gantry", files["mesos_secret"])
    assert ours is not None
    assert {"principal": ours.current.principal, "secret": ours.current.secret} in known
    assert json.loads(before["agent_credential"]) in known


def test_files_that_lay_beside_each_other_go_to_their_places(tmp_path: Path) -> None:
    credentials.main(["cluster", str(tmp_path)])
    made = {name: credentials.place(tmp_path, name).read_text() for name in MADE}
    for name in MADE:
        credentials.place(tmp_path, name).rename(tmp_path / name)
    credentials.main(["cluster", str(tmp_path)])
    assert {name: credentials.place(tmp_path, name).read_text() for name in MADE} == made
    # A host's files may be in the same directory, and its daemons look for this one there.
    left = {each.name for each in tmp_path.iterdir() if each.is_file()}
    assert left == {"agent_secret", "agent_credential"}


def test_a_host_gets_what_is_its_own(tmp_path: Path) -> None:
    cluster, out = tmp_path / "cluster", tmp_path / "host"
    credentials.main(["cluster", str(cluster)])
    credentials.main(["host", str(cluster), "host-1", str(out)])
    secret = read_secrets(credentials.place(cluster, "cluster_secret"))[0]
    key = bytes.fromhex((out / "host_key").read_text().strip())
    assert key == derive_key(secret, Kind.HOST, "host-1")
    given = "".join(each.read_text() for each in out.iterdir())
    assert secret.hex() not in given
    assert credentials.place(cluster, "mesos_secret").read_text().strip() not in given
    agent = json.loads((out / "agent_credential").read_text())
    master = json.loads(credentials.place(cluster, "mesos_credentials").read_text())["credentials"]
    assert agent in master


def test_each_login_at_the_registry_has_a_password_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    credentials.main(["cluster", str(tmp_path)])
    file = credentials.place(tmp_path, "registry_htpasswd")
    assert file.read_text().strip() == "", "there is a login that nobody asked for"

    def login(user: str) -> str:
        credentials.main(["login", str(tmp_path), user])
        return capsys.readouterr().out.strip()

    old, beta, acme = login("acme"), login("beta"), login("acme")
    assert file.stat().st_mode & 0o777 == 0o400
    hashes = dict(each.split(":") for each in file.read_text().splitlines())
    assert hashes.keys() == {"acme", "beta"}
    assert [_opens(each, hashes["acme"]) for each in (old, beta, acme)] == [False, False, True]
    assert _opens(beta, hashes["beta"])
    with pytest.raises(SystemExit, match="a user's name"):
        credentials.main(["login", str(tmp_path), "acme:x"])


def _opens(password: str, hashed: str) -> bool:
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    again: bytes = library.crypt(password.encode(), hashed.encode())
    return again.decode() == hashed


@asynccontextmanager
async def _service(secret: bytes) -> AsyncIterator[str]:
    async def who(request: Request) -> Response:
        return reply({"who": request.principal.name})

    async def healthz(_request: Request) -> Response:
        return reply({})

    routes = [
        Route("GET", "/who", who, Access.SERVICE),
        Route("GET", "/healthz", healthz, Access.PUBLIC),
    ]
    clock = SystemClock()
    app = HttpApp(routes, TokenVerifier(secret, clock), monotonic=clock.monotonic)
    async with serve(app, "127.0.0.1:0") as url:
        yield url


async def test_an_operator_asks_with_the_clusters_secret(tmp_path: Path) -> None:
    credentials.main(["cluster", str(tmp_path)])
    file = credentials.place(tmp_path, "cluster_secret")
    async with _service(read_secrets(file)[0]) as url:
        environ = {
            "GANTRY_COMMON__SECRET_FILE": str(file),
            "GANTRY_COMMON__PEERS": json.dumps({"scheduler": url}),
            "GANTRY_DEPLOYER__SWEEP_S": "1",  # of the container's own service
        }
        for service in ("scheduler", url):
            status, body = await ask.ask(environ, service, "GET", "/who")
            assert (status, json.loads(body)) == (200, {"who": ask.NAME})


async def _healthy(*words: str, asked: str = "") -> int:
    process = await asyncio.create_subprocess_exec(
        str(HEALTHY), *words, env={"HEALTH_URL": asked}, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


async def test_a_health_check_fails_unless_the_answer_is_200() -> None:
    async with _service(b"s" * 32) as url:
        assert await _healthy(f"{url}/healthz") == 0
        assert await _healthy(f"{url}/who") == 1
        assert await _healthy(asked=f"{url}/healthz") == 0
    assert await _healthy(f"{url}/healthz") == 1
