"""Every port of the cluster asks who is there."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.e2e.conftest import Cloud
from tests.e2e.doors import answer_of, listening_at

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(60)]

DOORS = (
    ("gateway", "/v1/apps"),
    ("gateway", "/v1/events"),
    ("gateway", "/metrics"),
    ("deployer", "/v1/apps"),
    ("deployer", "/v1/attempts/web.1/delivery"),
    ("deployer", "/metrics"),
    ("ipam", "/v1/networks"),
    ("ipam", "/metrics"),
    ("hostd", "/v1/attachments"),
    ("mesos_master", "/state"),
    ("mesos_agent", "/state"),
    ("mesos_master", "POST /api/v1"),
    ("mesos_master", "POST /api/v1/scheduler"),
    ("mesos_agent", "POST /api/v1"),
    ("mesos_agent", "POST /api/v1/executor"),
    ("registry", "/v2/_catalog"),
    ("registry", "/v2/sample-web/manifests/v1"),
    ("registry", "POST /v2/sample-web/blobs/uploads/"),
)


@pytest.mark.parametrize(("port", "path"), DOORS)
async def test_a_stranger_is_turned_away(cloud: Cloud, port: str, path: str) -> None:
    assert await answer_of(cloud.stack.layout.ports[port], path) == 401


async def test_no_port_is_forgotten_and_all_are_of_this_machine_alone(cloud: Cloud) -> None:
    ports = cloud.stack.layout.ports
    assert ports.keys() == {port for port, _ in DOORS}
    for name, port in ports.items():
        await answer_of(port, "/")  # somebody is there
        assert listening_at(port) == {"127.0.0.1"}, name


async def test_no_secret_is_in_a_log_a_trace_or_a_command_line(cloud: Cloud) -> None:
    layout = cloud.stack.layout
    secrets = [
        cloud.stack.admin_key(),
        (layout.data / "cluster.secret").read_text().strip(),
        (layout.data / "mesos.secret").read_text().strip(),
        (layout.data / "executor.secret").read_text().strip(),
        cloud.stack.account.login[1],
        *(token for pid in cloud.stack.executors() for token in tokens_of(pid)),
    ]
    assert layout.trace_file.stat().st_size > 0
    files = [*layout.logs.iterdir(), layout.trace_file]
    texts = [file.read_text(errors="replace") for file in files]
    for pid in (cloud.stack.control_plane.pid(), cloud.stack.hostd.pid(), *cloud.stack.executors()):
        with open(f"/proc/{pid}/cmdline", errors="replace") as command:
            texts.append(command.read())
    assert all(secrets)
    assert not [secret for secret in secrets for text in texts if secret in text]


async def test_the_registrys_login_is_roots_alone_and_lets_its_user_in(cloud: Cloud) -> None:
    account = cloud.stack.account
    for file in (account.password_file, account.logins_file):
        assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o600, 0)
    url = f"http://{cloud.stack.registry}/v2/_catalog"
    user, password = account.login
    async with aiohttp.ClientSession() as session:
        for given, expected in ((password, 200), ("wrong", 401)):
            headers = {"Authorization": aiohttp.encode_basic_auth(user, given)}
            async with session.get(url, headers=headers) as answer:
                assert answer.status == expected


def tokens_of(pid: int) -> list[str]:
    """What an executor was given to show its agent."""
    words = Path(f"/proc/{pid}/environ").read_text().split("\0")
    name = "MESOS_EXECUTOR_AUTHENTICATION_TOKEN="
    found = [word.removeprefix(name) for word in words if word.startswith(name)]
    assert found, "it has none"
    return found
