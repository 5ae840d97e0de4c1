"""MongoDB behind TLS and a password. The server of these tests speaks TLS but knows no users: before it there is a door
of the tests' own, which has users prove their passwords as MongoDB does and leads them on to the server.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pymongo import ReadPreference

from infra import provision
from infra.provision import Server
from infra.provision.certificates import make_certificates
from libs.common.errors import InvalidInput, Unavailable
from libs.common.runtime import open_store
from libs.common.store.base import CollectionSpec, Store, Write
from libs.common.store.mongo_link import MongoLink
from libs.common.store.mongo_url import parse_url
from tests.contract.store.conftest import things  # noqa: F401 - a fixture
from tests.contract.store.test_documents import (  # noqa: F401 - they run here too
    test_a_batch_has_a_result_for_each_write,
    test_another_handle_sees_what_was_written,
    test_one_of_many_racing_inserts_gets_the_unique_value,
    test_versions_count_the_writes,
)
from tests.contract.store.test_leaders import (  # noqa: F401 - they run here too
    test_a_lease_is_held_by_one_until_it_expires,
)
from tests.contract.store.worlds import World, mongo_database, open_world
from tests.fakes.mongo_guard import mongo_guard
from tests.servers import ServerPark

SECRET = "hunter2:/@%?"
QUOTED = "hunter2%3A%2F%40%25%3F"


@pytest.fixture(scope="module")
def server(server_park: ServerPark) -> Server:
    """A server with TLS."""

    def secure(directory: Path) -> object:
        return provision.mongo(directory, secure=True)

    return server_park.start("mongo-doors", secure)  # type: ignore[arg-type]


USER = "us@er"
DOORS = ("tls", "password file", "password in the URL")


@pytest.fixture(params=DOORS)
async def world(
    request: pytest.FixtureRequest, server: Server, own_mongo: Server, tmp_path: Path
) -> AsyncIterator[World]:
    """Data of its own for each test, behind a door."""
    if request.param == "tls":
        async with open_world("mongo", tmp_path, server.url) as opened:
            yield opened
        return
    (tmp_path / "password").write_text(f"{SECRET}\n")
    login = (
        ("us%40er", f"passwordFile={tmp_path}/password")
        if request.param == "password file"
        else (f"us%40er:{QUOTED}", "appName=doors")
    )
    async with mongo_guard({(USER, "admin"): SECRET}, port_of(own_mongo)) as guard:
        url = f"mongodb://{login[0]}@127.0.0.1:{guard.port}/admin?{login[1]}"
        async with open_world("mongo", tmp_path, url) as opened:
            yield opened
        assert set(guard.users) == {(USER, "admin")}


def port_of(server: Server) -> int:
    """Where it listens."""
    port = urlsplit(server.url).port
    assert port is not None
    return port


@pytest.fixture
async def store(world: World) -> Store:
    """One handle."""
    return await world.open()


async def refusal(url: str) -> str:
    """What is said at the first call."""
    store = await open_store(url)
    try:
        with pytest.raises(Unavailable) as raised:
            await store.collection(CollectionSpec("things"))
        return str(raised.value)
    finally:
        await store.close()


@pytest.fixture
def foreign_authority() -> Iterator[Path]:
    """An authority that signed nothing here."""
    directory = Path(tempfile.mkdtemp(prefix="gantry-"))
    yield asyncio.run(make_certificates(directory)).authority
    shutil.rmtree(directory)


async def test_a_server_of_another_authority_is_not_trusted(
    server: Server, foreign_authority: Path
) -> None:
    url = mongo_database(server.url)
    said = await refusal(url.replace(str(server.data_dir / "ca.pem"), str(foreign_authority)))
    assert "certificate verify failed" in said


async def test_without_tls_nobody_gets_in(server: Server, own_mongo: Server) -> None:
    assert "connection closed" in await refusal(mongo_database(server.url.partition("/?")[0]))
    # Of a lent one nobody knows what its URL says of TLS.
    plain = f"{mongo_database(own_mongo.url)}?tls=true&tlsCAFile={server.data_dir}/ca.pem"
    # A server without TLS may close at once, or wait for more of what it takes for a message until we give up.
    said = await refusal(plain)
    assert "SSL" in said or "No servers found" in said


async def test_what_is_read_is_of_the_primary_whatever_the_url_says() -> None:
    link = MongoLink(parse_url("mongodb://h/db?readPreference=secondaryPreferred"))
    assert link["things"].read_preference == ReadPreference.PRIMARY
    await link.close()


async def test_who_is_not_let_in_is_told_why_and_shows_no_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    async with mongo_guard() as guard:
        address = f"127.0.0.1:{guard.port}/db"
        by_file = f"mongodb://us%40er@{address}?passwordFile={file}"
        for url, source in (
            (by_file, "db"),
            (f"{by_file}&authSource=admin", "admin"),
            (f"mongodb://us%40er:{QUOTED}@{address}", "db"),
        ):
            said = await refusal(f"{url}&authMechanism=SCRAM-SHA-256" if "?" in url else url)
            assert "refuses the user or its password: Authentication failed." in said
            assert "hunter2" not in said
            # In SCRAM a name's own = and , are quoted; an @ stands as it is.
            assert guard.users[-1] == ("us@er", source)
        assert "demands a user" in await refusal(f"mongodb://{address}")
        assert b"hunter2" not in guard.heard


async def test_a_wrong_password_is_told_apart_from_a_right_one_and_shown_nowhere(
    own_mongo: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "password"
    async with mongo_guard({(USER, "admin"): SECRET}, port_of(own_mongo)) as guard:
        url = mongo_database(f"mongodb://us%40er@127.0.0.1:{guard.port}/admin?passwordFile={file}")
        for wrong in (f"{SECRET}x", SECRET[:-1]):
            file.write_text(f"{wrong}\n")
            said = await refusal(url)
            assert "refuses the user or its password: Authentication failed." in said
            assert "hunter2" not in said
        file.write_text(f"{SECRET}\n")  # as it is after a rotation: whoever starts now gets in
        store = await open_store(url)
        things = await store.collection(CollectionSpec("things"))
        await things.replace_many([Write("one", 0, {"a": 1})])
        assert (await things.get("one")) is not None
        await store.close()
        assert b"hunter2" not in guard.heard
    assert "Command" in caplog.text, "the driver logs what it does"
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mongodb://u@h/db", "no password for 'u'"),
        ("mongodb://u@h/db?passwordFile=/nonexistent", "can't be read"),
        ("mongodb://u:hunter2@h/db?passwordFile=/dev/null", "password given twice"),
        ("mongodb://u@h/db?passwordFile=/dev/null", "is empty"),
        ("mongodb://h/db?passwordFile=/dev/null", "is empty"),
        ("mongodb://:hunter2@h/db", "a password without a user"),
        ("mongodb://u:hunter2@h:port/db", "Port"),
        ("mongodb://u:hunter2@h/db?tls=perhaps", "tls"),
        ("mongodb://u:hunter2@h/db?tls=true&tlsCAFile=/nonexistent", "nonexistent"),
        ("mongodb://u:hunter2@h/db?tsl=true", "tsl"),
        ("mongodb+srv://u:hunter2@h/db", "unknown scheme 'mongodb+srv'"),
    ],
)
async def test_wrong_urls_are_refused_without_showing_the_password(url: str, why: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        await (await open_store(url)).close()
    assert why in str(raised.value) and "hunter2" not in str(raised.value)


def test_the_url_for_the_driver_holds_no_password(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("hunter2\n")
    settings = parse_url(f"mongodb://u@a:1,b:2/?passwordFile={tmp_path}/p&tls=true&replicaSet=r")
    assert settings.url == "mongodb://u@a:1,b:2/gantry?tls=true&replicaSet=r"
    assert (settings.database, settings.password) == ("gantry", "hunter2")
    assert "hunter2" not in repr(settings)
