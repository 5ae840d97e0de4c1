"""An agent that asks executors for their tokens takes no other call on its executor API."""

from __future__ import annotations

import base64
from pathlib import Path

import orjson
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from libs.minimesos.agent import tokens
from libs.minimesos.config import AgentConfig, flags
from libs.minimesos.errors import ConfigError
from libs.minimesos.local import Response
from tests.unit.minimesos.support import (
    Json,
    VirtualCluster,
    executor_task,
    launch_call,
    minimesos,
    scheduler,
    task,
)
from tests.unit.minimesos.test_executors import Executors

KEY, PATH = b"k" * 32, "/api/v1/executor"
TOKEN = "MESOS_EXECUTOR_AUTHENTICATION_TOKEN"
REALM = 'Bearer realm="mesos-agent-executor"'


class Asking:
    """A cluster whose agent asks, with two executors' environments."""

    def __init__(self) -> None:
        executors = Executors()
        self.cluster = VirtualCluster(
            launch=executors.launch,
            kill=executors.kill,
            authenticate_http_executors=True,
            jwt_secret_key=KEY,
        )
        client = self.cluster.subscribe()
        agent = client.offers()[0]["agent_id"]
        other = executor_task("x2", agent)
        other["executor"]["executor_id"] = {"value": "e2"}
        client.launch([executor_task("x1", agent), other])
        self.mine, self.other = (each.environment for each in executors.launches)

    def subscribe(self, **headers: str) -> Response:
        """The first executor's SUBSCRIBE."""
        call: Json = {
            "type": "SUBSCRIBE",
            "framework_id": {"value": self.mine["MESOS_FRAMEWORK_ID"]},
            "executor_id": {"value": self.mine["MESOS_EXECUTOR_ID"]},
            "subscribe": {},
        }
        raw = orjson.dumps(call)
        local, now = self.cluster.local, self.cluster.now
        return local.agent(0, now, "POST", PATH, raw, headers=headers or None)


def test_a_token_is_a_jwt_that_names_executor_and_container() -> None:
    token = Asking().mine[TOKEN]
    read = jwt.decode(token, OctKey.import_key(KEY), algorithms=["HS256"])
    assert read.header == {"alg": "HS256", "typ": "JWT"}
    assert read.claims.keys() == {"cid", "eid", "fid"} and read.claims["eid"] == "e1"


def test_an_executor_gets_in_by_its_own_token() -> None:
    asking = Asking()
    bearer = f"Bearer {asking.mine[TOKEN]}"
    assert asking.subscribe(authorization=bearer).status == 200
    asking.cluster.local.crash_agent(0, asking.cluster.now)
    asking.cluster.local.start_agent(0, asking.cluster.now)
    assert asking.subscribe(authorization=bearer).status == 200, "after the agent's restart"


@pytest.mark.parametrize("path", [PATH, "/slave(1)" + PATH])
def test_a_stranger_is_turned_away_before_anything_is_read(path: str) -> None:
    asking = Asking()
    answer = asking.cluster.local.agent(0, asking.cluster.now, "POST", path, b"no JSON")
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, REALM)


def _forged() -> list[str]:
    asking = Asking()
    head, body, signature = asking.mine[TOKEN].split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    claims = tokens.claims(KEY, f"Bearer {asking.mine[TOKEN]}")
    elsewhere = tokens.token(b"o" * 32, {name: str(value) for name, value in claims.items()})
    return [
        *(
            f"Bearer {each}"
            for each in (elsewhere, f"{head}.{body}.", f"{none}.{body}.{signature}")
        ),
        *(
            f"Bearer {each}"
            for each in (f"{none}.{body}.", f"{body}.{signature}", "x", "\u00e9.y.z")
        ),
        *(f"Basic {asking.mine[TOKEN]}", asking.mine[TOKEN], "Bearer", "Bearer a b", ""),
    ]


@pytest.mark.parametrize("header", _forged())
def test_a_forged_token_is_none(header: str) -> None:
    answer = Asking().subscribe(authorization=header)
    assert answer.status == 401 and answer.headers["WWW-Authenticate"].startswith(REALM)


def test_another_executors_token_is_not_enough() -> None:
    asking = Asking()
    assert asking.subscribe(authorization=f"Bearer {asking.other[TOKEN]}").status == 403


def test_the_key_is_needed_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="jwt_secret_key"):
        AgentConfig(authenticate_http_executors=True)
    config = AgentConfig(authenticate_http_executors=True, jwt_secret_key=b"top secret")
    assert flags(config)["authenticate_http_executors"] == "true"
    assert "top secret" not in str(flags(config)) + repr(config)


async def test_the_built_in_executor_shows_its_token(tmp_path: Path) -> None:
    """A real process, whose task does not inherit the token."""
    key = tmp_path / "key"
    key.write_bytes(KEY)
    flags = ("--authenticate_http_executors=true", f"--jwt_secret_key={key}")
    seen = tmp_path / "seen"
    async with (
        minimesos("all", "--port=0", "--agent_port=0", f"--work_dir={tmp_path}/w", *flags) as cell,
        scheduler(cell.master) as client,
    ):
        offer = await client.offer()
        said = task("t1", offer["agent_id"], f"env >{seen}")
        await client.call(launch_call(offer, [said]))
        await client.state("t1", "TASK_FINISHED")
    assert "MESOS_EXECUTOR_ID" in seen.read_text() and TOKEN not in seen.read_text()
