"""Dead letters over HTTP: for admins of all business units only, audited, with what they say and no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from libs.common.bus.base import Delivered, Record
from libs.common.deadletters import bury
from libs.common.events import model as ev
from libs.common.events import seal, to_record
from tests.fakes.gateway import World
from tests.unit.gateway.test_access import audit_of


def dead_letter(value: bytes = b"", group: str = "deployer") -> Record:
    """A request that a group could not handle."""
    event = ev.DeployRequested(
        deployment="dep-1", app="acme/web", action=ev.DeployAction.STOP, actor="x"
    )
    (sealed,) = seal([event], source="gateway", sequence=7, now=1000.0)
    record = to_record(sealed)
    given = Record(record.topic, record.key, value or record.value, record.headers)
    return bury(Delivered(given, 3, 41, 1000.0), group, "ValueError: no such thing")


async def test_they_are_listed_shown_and_replayed(world: World) -> None:
    assert (await world.call("GET", "/v1/dead")).json() == {"letters": [], "more": False}
    await world.put_app()
    await world.bus.publish([dead_letter(), dead_letter(group="scheduler")])
    listed = (await world.call("GET", "/v1/dead?group=deployer")).json()
    (letter,) = listed["letters"]
    assert letter["topic"] == "deploy.requested" and letter["origin"] == "3:41"
    assert letter["key"] == "acme/web" and letter["reason"] == "ValueError: no such thing"
    assert "value" not in letter and letter["replays"] == 0
    assert len((await world.call("GET", "/v1/dead")).json()["letters"]) == 2
    url = f"/v1/dead/deployer/{letter['place']}"
    shown = await world.call("GET", url)
    assert shown.headers["cache-control"] == "no-store"
    assert shown.json()["headers"]["ce_sequence"] == "7" and "dep-1" in shown.json()["value"]
    (read,) = await audit_of(world, "dead.read")
    assert read["target"] == f"*/dead/deployer/{letter['place']}" and read["allowed"]
    done = await world.call("POST", "/v1/dead/deployer/replay", {"all": True})
    assert done.json() == {
        "group": "deployer",
        "replayed": [letter["place"]],
        "left": [],
        "next": "",
    }
    await world.eventually(lambda: _heard(world, "dep-1"))
    (audited,) = await audit_of(world, "dead.replay")
    assert audited["target"] == "*/dead/deployer" and audited["allowed"]
    assert audited["after"] == {"replayed": [letter["place"]], "left": []}
    seen = (await world.call("GET", url)).json()
    assert seen["replays"] == 1 and seen["replayed_by"].startswith("first-admin")
    again = await world.call("POST", "/v1/dead/deployer/replay", {"all": True})
    assert again.json()["replayed"] == []


async def _heard(world: World, deployment: str) -> bool:
    return any(each.deployment == deployment for each in world.deployer.heard)


async def test_a_replay_that_is_asked_for_twice_is_done_once(world: World) -> None:
    await world.bus.publish([dead_letter()])
    (letter,) = (await world.call("GET", "/v1/dead")).json()["letters"]
    body, headers = {"places": [letter["place"]]}, {"Idempotency-Key": "k1"}
    path = "/v1/dead/deployer/replay"
    first, second = [await world.call("POST", path, body, headers=headers) for _ in range(2)]
    assert first.json() == second.json() and second.headers["idempotency-replayed"] == "true"
    (seen,) = (await world.call("GET", "/v1/dead")).json()["letters"]
    assert seen["replays"] == 1
    # Two at once: each letter goes out once for each that was told so.
    both = await asyncio.gather(*(world.call("POST", path, body) for _ in range(2)))
    done = sum(len(each.json()["replayed"]) for each in both)
    (seen,) = (await world.call("GET", "/v1/dead")).json()["letters"]
    assert seen["replays"] == 1 + done


@pytest.mark.parametrize("bu, role", [("acme", "admin"), ("*", "deployer"), ("*", "viewer")])
async def test_nobody_but_admins_of_all_units_may_look(world: World, bu: str, role: str) -> None:
    await world.bus.publish([dead_letter()])
    key = await world.key(bu, role)
    for method, path, body in (
        ("GET", "/v1/dead", None),
        ("GET", "/v1/dead/deployer/0:0", None),
        ("POST", "/v1/dead/deployer/replay", {"all": True}),
    ):
        answer = await world.call(method, path, body, key=key)
        assert answer.status == 403, answer.body
        assert b"acme/web" not in answer.body and b"dep-1" not in answer.body
    (refused,) = await audit_of(world, "dead.replay")
    assert not refused["allowed"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"places": ["0:0"], "all": True}, "body"),
        ({"places": ["0"]}, "places.0"),
        ({"places": [f"0:{n}" for n in range(101)]}, "places"),
        ({"all": True, "after": "nonsense"}, "after"),
        ({"every": True}, "every"),
    ],
)
async def test_bad_requests_name_what_is_wrong(
    world: World, body: dict[str, Any], field: str
) -> None:
    await world.bus.publish([dead_letter()])
    answer = await world.call("POST", "/v1/dead/deployer/replay", body)
    assert answer.status == 422 and answer.json()["errors"][0]["field"] == field


@pytest.mark.parametrize(
    "path",
    ["/v1/dead?group=nobody", "/v1/dead/nobody/0:0", "/v1/dead/deployer/0:9", "/v1/dead/deployer/x",
     "/v1/dead/de%2Fployer/0:0", "/v1/dead/deployer/9999:0"],
)  # fmt: skip
async def test_what_is_not_there(world: World, path: str) -> None:
    await world.bus.publish([dead_letter()])
    answer = await world.call("GET", path)
    assert answer.status == 404, answer.body
    assert "dead.nobody" not in await world.bus.topics()


async def test_what_came_from_nowhere_is_left(world: World) -> None:
    stray = Record("dead.deployer", "k", b"\xff\xfe", (("h", b"\xff"),))
    odd = bury(Delivered(Record("odd.topic", "k", b""), 0, 0, 0.0), "deployer", "why")
    await world.bus.publish([stray, odd])
    answer = (await world.call("POST", "/v1/dead/deployer/replay", {"all": True})).json()
    assert answer["replayed"] == [] and len(answer["left"]) == 2
    assert {each["reason"] for each in answer["left"]} == {
        "it came from 'nowhere', which is no topic of events",
        "it came from 'odd.topic', which is no topic of events",
    }
    letters = (await world.call("GET", "/v1/dead")).json()["letters"]
    place = next(each["place"] for each in letters if not each["topic"])
    shown = (await world.call("GET", f"/v1/dead/deployer/{place}")).json()
    assert (shown["value"], shown["encoding"]) == ("//4=", "base64")
    refused = await world.call("POST", "/v1/dead/deployer/replay", {"places": [place]})
    assert refused.status == 409
