"""Every port of the cluster asks who is there."""

from __future__ import annotations

import aiohttp
import pytest

from tests.e2e.conftest import Cloud

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
)


@pytest.mark.parametrize(("port", "path"), DOORS)
async def test_a_stranger_is_turned_away(cloud: Cloud, port: str, path: str) -> None:
    url = f"http://127.0.0.1:{cloud.stack.layout.ports[port]}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 401


async def test_no_secret_is_in_a_log_or_a_command_line(cloud: Cloud) -> None:
    layout = cloud.stack.layout
    secrets = [
        cloud.stack.admin_key(),
        (layout.data / "cluster.secret").read_text().strip(),
        (layout.data / "mesos.secret").read_text().strip(),
    ]
    texts = [file.read_text(errors="replace") for file in layout.logs.iterdir()]
    for pid in (cloud.stack.control_plane.pid(), cloud.stack.hostd.pid(), *cloud.stack.executors()):
        with open(f"/proc/{pid}/cmdline", errors="replace") as command:
            texts.append(command.read())
    assert all(secrets)
    assert not [secret for secret in secrets for text in texts if secret in text]
