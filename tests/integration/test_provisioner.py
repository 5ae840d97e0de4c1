"""Each provided server is started for real, does one true thing, and survives being disturbed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiodocker
import pymongo
import pytest
from aiohttp import ClientSession, ClientTimeout
from kazoo.client import KazooClient
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from infra import provision
from infra.provision import OvsServer, Server, process, sources
from infra.provision.cache import cached
from infra.provision.errors import NotOursError, NotReadyError
from infra.provision.sources import KINDS, lent_url
from tests.contract.store.worlds import mongo_database
from tests.integration.topics import consume, create_topic, produce
from tests.servers import MARK

REPOSITORY = Path(__file__).parent.parent.parent
SETUP = REPOSITORY / "infra" / "host" / "setup.sh"


def _bare(url: str) -> str:
    return url.partition("://")[2]


# --- Kafka, MongoDB, ZooKeeper ---------------------------------------------------------------


async def test_kafka_keeps_what_it_acknowledged_over_kill9(own_kafka: Server) -> None:
    topic = f"provisioner-{os.getpid()}"
    await create_topic(own_kafka.address, topic)
    await produce(own_kafka.address, topic, b"one", b"two")
    first = own_kafka.pid
    await own_kafka.kill9()
    assert own_kafka.pid is None
    await own_kafka.start()
    assert own_kafka.pid not in (None, first)
    await produce(own_kafka.address, topic, b"three")
    assert await consume(own_kafka.address, topic, 3) == [b"one", b"two", b"three"]


async def test_mongo_inserts_and_freezes_and_thaws(own_mongo: Server) -> None:
    client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(
        own_mongo.url, serverSelectionTimeoutMS=60_000, socketTimeoutMS=60_000
    )
    things = client[f"provisioner_{os.getpid()}"]["things"]
    await things.insert_one({"_id": "a", "n": 1})
    await own_mongo.pause()
    try:
        with pytest.raises(PyMongoError) as caught, pymongo.timeout(0.5):
            await things.find_one({"_id": "a"})
        assert caught.value.timeout
    finally:
        await own_mongo.resume()
    assert await things.find_one({"_id": "a"}) == {"_id": "a", "n": 1}
    client.close()


async def test_mongo_data_outlive_a_kill9_and_a_stop(tmp_path: Path) -> None:
    async with sources.local("mongo", tmp_path / "mongo", KINDS["mongo"], keep=True) as server:
        client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(server.url)
        await client.shop.things.insert_many([{"_id": n} for n in range(100)])
        await server.restart()
        await server.kill9()
        await server.start()
        assert await client.shop.things.count_documents({}) == 100
        client.close()
    assert server.pid is None
    assert server.data_dir.is_dir()


@pytest.mark.parametrize("concern", [{"w": 1, "j": True}, {"w": "majority"}])
async def test_mongo_journals_what_it_is_asked_to_before_it_answers(
    own_mongo: Server, concern: dict[str, Any]
) -> None:
    client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(own_mongo.url)
    database = client[f"provisioner_{os.getpid()}_{concern['w']}"]
    things = database.get_collection("things", write_concern=WriteConcern(**concern))
    for n in range(3):
        await things.insert_one({"_id": n})
        await own_mongo.kill9()
        await own_mongo.start()
        assert await things.count_documents({}) == n + 1
    client.close()


def test_zookeeper_answers_kazoo(zookeeper_url: str) -> None:
    client = KazooClient(hosts=_bare(zookeeper_url), timeout=5)
    client.start(timeout=10)
    try:
        path = f"/provisioner-{os.getpid()}"
        client.create(path, b"here", ephemeral=True)
        assert client.get(path)[0] == b"here"
    finally:
        client.stop()
        client.close()


# --- Docker engine ---------------------------------------------------------------------------


async def test_the_engine_knows_our_runtime(docker_engine: Server) -> None:
    async with aiodocker.Docker(url=docker_engine.url) as docker:
        info = await docker.system.info()
    assert info["Runtimes"]["gantry"]["path"] == str(REPOSITORY / "build/native/gantry-runc")
    assert info["LiveRestoreEnabled"] is True


# --- Open vSwitch ----------------------------------------------------------------------------


async def test_ovs_makes_a_bridge_and_keeps_it_over_kill9(ovs: OvsServer) -> None:
    bridge = f"gp{os.getpid() % 10**7}"
    database = f"--db=unix:{ovs.socket}"
    vsctl = ["ovs-vsctl", database, "--timeout=20"]
    options = [f"datapath_type={ovs.datapath_type}", "fail-mode=standalone"]
    try:
        await process.run(
            [*vsctl, "add-br", bridge, "--", "set", "bridge", bridge, *options], timeout_s=30
        )
        await ovs.kill9()
        assert ovs.control.pids() == ()
        await ovs.start()
        assert bridge in (await process.run([*vsctl, "list-br"], timeout_s=30)).split()
        ofport = await process.run([*vsctl, "get", "interface", bridge, "ofport"], timeout_s=30)
        assert ofport.strip() == "65534"
        # Its own run directory: the tools must find the switch by it.
        shown = await process.run(
            ["ovs-ofctl", "dump-flows", bridge],
            timeout_s=30,
            env={"OVS_RUNDIR": str(ovs.data_dir)},
        )
        assert "NORMAL" in shown
    finally:
        await process.run([*vsctl, "--if-exists", "del-br", bridge], timeout_s=30)


# --- the provisioner -------------------------------------------------------------------------


async def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "registry"
    directory.mkdir()
    (directory / "data").write_text("a file where its directory should be")
    with pytest.raises(NotReadyError):
        async with provision.registry(directory, notify_url="http://127.0.0.1:9/"):
            pytest.fail("it can't have started")
    assert not directory.exists()


async def test_a_port_taken_in_between_is_chosen_anew(tmp_path: Path) -> None:
    directory = tmp_path / "registry"
    directory.mkdir()

    async def deny(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    squatter = await asyncio.start_server(deny, "127.0.0.1", 0)
    port = squatter.sockets[0].getsockname()[1]
    (directory / "ports.json").write_text(json.dumps([port]))
    async with squatter, provision.registry(directory, notify_url="http://127.0.0.1:9/") as server:
        assert server.address != f"127.0.0.1:{port}"
        async with ClientSession(timeout=ClientTimeout(total=10)) as session:
            assert (await session.get(f"{server.url}/v2/")).status == 200
    assert not directory.exists()


async def test_a_lent_server_is_used_and_left_alone(
    tmp_path: Path, registry_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANTRY_TEST_REGISTRY_URL", registry_server.url)
    async with provision.registry(tmp_path / "unused") as lent:
        assert lent.url == registry_server.url
        with pytest.raises(NotOursError):
            await lent.kill9()
        with pytest.raises(NotOursError):
            await lent.stop()
    assert not (tmp_path / "unused").exists()
    assert registry_server.pid is not None


@pytest.mark.parametrize(
    ("kind", "environ", "url"),
    [
        ("kafka", {"KAFKA_URL": "k1:9092,k2:9092"}, "kafka://k1:9092,k2:9092"),
        ("kafka", {"KAFKA_URL": "kafka://u@k1:9093?tls=1"}, "kafka://u@k1:9093?tls=1"),
        ("mongo", {"MONGODB_URL": "m1:27017"}, "mongodb://m1:27017"),
        ("mongo", {"MONGODB_URL": "x", "GANTRY_TEST_MONGO_URL": "mongodb://m2"}, "mongodb://m2"),
        ("registry", {"GANTRY_TEST_REGISTRY_URL": "http://r"}, "http://r"),
        ("kafka", {"KAFKA_URL": ""}, None),
        ("kafka", {"MONGODB_URL": "m1"}, None),
    ],
)
def test_a_server_is_lent_by_either_name(
    monkeypatch: pytest.MonkeyPatch, kind: str, environ: dict[str, str], url: str | None
) -> None:
    for name in ("KAFKA_URL", "MONGODB_URL", "GANTRY_TEST_KAFKA_URL", "GANTRY_TEST_MONGO_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert lent_url(kind) == url


def test_a_test_has_a_database_of_its_own_on_whatever_server() -> None:
    plain, login, source = (
        mongo_database(url)
        for url in (
            "mongodb://m1,m2/?replicaSet=r",
            "mongodb://u:p@m1/shop",
            "mongodb://u:p@m1?authSource=a",
        )
    )
    assert re.fullmatch(rf"mongodb://m1,m2/{MARK}_\d+\?replicaSet=r", plain)
    assert re.fullmatch(rf"mongodb://u:p@m1/{MARK}_\d+\?authSource=shop", login)
    assert re.fullmatch(rf"mongodb://u:p@m1/{MARK}_\d+\?authSource=a", source)


async def test_what_is_cached_is_built_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANTRY_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "recipe"
    recipe.write_text("one")
    builds: list[Path] = []

    async def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError("out of luck")

    async def build(directory: Path) -> None:
        builds.append(directory)
        (directory / "first").touch()
        await process.run(["true"], timeout_s=10)
        (directory / "second").touch()

    with pytest.raises(RuntimeError, match="out of luck"):
        await cached("thing", [recipe], fail)
    entries = await asyncio.gather(*(cached("thing", [recipe], build) for _ in range(8)))
    assert len(builds) == 1
    assert len(set(entries)) == 1
    assert {each.name for each in entries[0].iterdir()} == {"first", "second"}
    recipe.write_text("two")
    assert await cached("thing", [recipe], build) != entries[0]
    assert len(builds) == 2
    assert {each.name for each in (tmp_path / "cache").iterdir() if each.name[0] == "."} == set()


def test_servers_of_a_killed_run_are_reaped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infra.provision"]
    directory = tmp_path / "registry"
    options = {"check": True, "capture_output": True, "timeout": 60, "cwd": REPOSITORY}
    subprocess.run([*command, "start", "registry", "--dir", str(directory)], **options)  # type: ignore[call-overload]
    shown = subprocess.run([*command, "status", "registry", "--dir", str(directory)], **options)  # type: ignore[call-overload]
    (pid,) = json.loads(shown.stdout)["pids"]
    assert not process.gone(pid)
    subprocess.run([*command, "reap", "--root", str(tmp_path)], **options)  # type: ignore[call-overload]
    assert process.gone(pid)
    assert not tmp_path.exists()


@pytest.mark.parametrize("profile", ["host", "test"])
def test_setup_has_nothing_left_to_do_and_says_so_quickly(profile: str) -> None:
    done = subprocess.run([SETUP, profile], capture_output=True, text=True, timeout=20, check=True)
    assert "everything is there" in done.stderr


def test_setup_refuses_an_unknown_profile() -> None:
    done = subprocess.run([SETUP, "nonsense"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "no such profile: nonsense" in done.stderr
