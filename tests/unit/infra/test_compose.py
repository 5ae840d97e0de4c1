"""docker-compose.yml and infra/compose/host.yml say what the code needs, and the checks would notice if not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from services.executor.config import ExecutorConfig
from services.hostd.settings import HostdConfig
from services.scheduler.settings import SchedulerConfig
from tests.unit.infra import compose
from tests.unit.infra.compose import CONTROL_FILE, HOST_FILE, Parsed

FILES = pytest.mark.parametrize("file", [CONTROL_FILE, HOST_FILE], ids=lambda file: file.name)


def control() -> Parsed:
    return compose.resolved(CONTROL_FILE)


def host() -> Parsed:
    return compose.resolved(HOST_FILE)


@FILES
def test_docker_compose_takes_the_file(file: Path) -> None:
    done = compose.run_compose(file, "config", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@FILES
def test_it_does_not_start_without_its_addresses(file: Path) -> None:
    done = compose.run_compose(file, "config", "--quiet", variables={})
    assert done.returncode != 0
    assert "CONTROL_ADDRESS" in done.stderr or "HOST_NAME" in done.stderr


def test_all_services_are_there() -> None:
    names = {compose.service_of(name) for name in compose.ours(control())}
    assert names == compose.MODELS.keys() - {"hostd"}
    assert compose.ours(host()).keys() == {"hostd"}


def test_the_control_plane_is_what_the_code_needs() -> None:
    assert compose.complaints(control(), compose.CONTROL_PLANE) == []


def test_a_host_is_what_the_code_needs() -> None:
    assert compose.complaints(host(), compose.EVERYWHERE) == []


def test_hosts_find_the_control_plane() -> None:
    hostd_common, hostd = compose.settings("hostd", host()["services"]["hostd"])
    opened = set()
    for name, service in compose.ours(control()).items():
        if compose.service_of(name) == "ipam":
            common, _ = compose.settings(name, service)
            for port, (address, _) in compose.published(service).items():
                opened.add(f"http://{address}:{port}")
    assert set(hostd_common.peers["ipam"].split(",")) == opened
    assert len(opened) == len(compose.addresses(control(), "ipam"))
    assert hostd_common.cluster == common.cluster
    assert isinstance(hostd, HostdConfig)
    agent = compose.environment(host()["services"]["mesos-agent"])
    # The gateway finds hostd by the agent's attribute, and its key by the agent's host name.
    assert f"hostd:http://{hostd.listen}" in agent["MESOS_ATTRIBUTES"].split(";")
    assert agent["MESOS_HOSTNAME"] == hostd.host
    zookeeper = compose.published(control()["services"]["zookeeper"])
    assert agent["MESOS_MASTER"] == f"zk://{compose.CONTROL}:2181/mesos" and 2181 in zookeeper


def test_who_calls_whom_is_on_a_network_with_it() -> None:
    services = control()["services"]

    def meet(one: str, other: str) -> bool:
        return bool(set(services[one]["networks"]) & set(services[other]["networks"]))

    for name in compose.ours(control()):
        called = compose.CALLS.get(compose.service_of(name), set())
        peers = [each for each in services if compose.service_of(each) in called]
        for other in (*peers, "kafka", "mongo"):
            assert meet(name, other), (name, other)
        if compose.service_of(name) in ("scheduler", "monitor"):
            assert meet(name, "mesos-master") and meet(name, "zookeeper")


def test_mesos_lets_in_whom_the_services_say_they_are() -> None:
    acls = json.loads((compose.REPOSITORY / "infra/compose/mesos-acls.json").read_text())
    allowed = acls["register_frameworks"][0]
    for name in ("scheduler-1", "scheduler-2", "monitor-1", "monitor-2"):
        _, section = compose.settings(name, control()["services"][name])
        assert [getattr(section, "principal", "")] == allowed["principals"]["values"]
    _, section = compose.settings("scheduler-1", control()["services"]["scheduler-1"])
    assert isinstance(section, SchedulerConfig)
    assert allowed["roles"]["values"] == [section.role]
    for rules in acls.values():  # who is not named is refused
        assert rules[-1]["principals"] == {"type": "ANY"}
        assert {"type": "NONE"} in rules[-1].values()


def test_the_executor_starts_from_where_it_is_installed() -> None:
    _, section = compose.settings("scheduler-1", control()["services"]["scheduler-1"])
    assert isinstance(section, SchedulerConfig)
    script = (compose.REPOSITORY / "infra/compose/install.sh").read_text()
    words = section.executor_command.split()
    assert words[:6] == ["exec", "nsenter", "--target", "1", "--mount", "--"]
    assert words[6:9] == ["/opt/gantry/bin/python", "-m", "services.executor"]
    assert ExecutorConfig().init == Path("/opt/gantry/bin/gantry-init")
    assert words[9] == "--config" and words[10] in script
    daemon = json.loads((compose.REPOSITORY / "infra/compose/daemon.json").read_text())
    assert daemon["live-restore"] is True
    _, hostd = compose.settings("hostd", host()["services"]["hostd"])
    assert isinstance(hostd, HostdConfig)
    assert daemon["runtimes"].keys() == {hostd.runtime}
    assert daemon["runtimes"][hostd.runtime]["path"] == "/opt/gantry/bin/gantry-runc"


# -- the checks notice -----------------------------------------------------------------------------


def _put(*path: str, value: object) -> Callable[[Parsed], None]:
    def change(parsed: Parsed) -> None:
        inner = parsed["services"]
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    return change


def _drop(*path: str) -> Callable[[Parsed], None]:
    def change(parsed: Parsed) -> None:
        inner = parsed["services"]
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]

    return change


def _env(service: str, name: str, value: str) -> Callable[[Parsed], None]:
    def change(parsed: Parsed) -> None:
        parsed["services"][service].setdefault("environment", {})[name] = value

    return change


def _peers(**changed: str) -> tuple[str, str]:
    """The variable with the peers, some of them changed."""
    name = "GANTRY_COMMON__PEERS"
    as_it_is = yaml.safe_load(compose.environment(control()["services"]["gateway-1"])[name])
    return name, yaml.safe_dump({**as_it_is, **changed})


MISTAKES: dict[str, tuple[str, Callable[[Parsed], None]]] = {
    # what is said of it, and what was done
    "a key that no section has": (
        "unknown field",
        _env("ipam-1", "GANTRY_IPAM__COOL_DOWN_S", "60"),
    ),
    "another service's section": (
        "unknown section",
        _env("ipam-1", "GANTRY_GATEWAY__SECURE_COOKIE", "true"),
    ),
    "a value of the wrong kind": (
        "valid integer",
        _env("monitor-1", "GANTRY_MONITOR__CRASH_COUNT", "many"),
    ),
    "a configuration that is not mounted": (
        "/etc/gantry/ipam.yaml",
        _put("ipam-1", "volumes", value=[]),
    ),
    "a service that does not exist": (
        "no such service",
        lambda parsed: parsed["services"].update({"planner": parsed["services"]["ipam-1"]}),
    ),
    "a peer at another port": (
        "http://ipam-2:9999 is nobody of ipam",
        _env("gateway-1", *_peers(ipam="http://ipam-1:8083,http://ipam-2:9999")),
    ),
    "a peer that is not there": (
        "http://monitor-2:8084 is nobody of monitor",
        lambda parsed: parsed["services"].pop("monitor-2"),
    ),
    "a replica that nobody knows of": (
        "does not know http://scheduler-2:8082",
        _env("monitor-1", *_peers(scheduler="http://scheduler-1:8082")),
    ),
    "one of two URLs that leads elsewhere": (
        "http://ipam-1:8083 is nobody of scheduler",
        _env("monitor-1", *_peers(scheduler="http://scheduler-1:8082,http://ipam-1:8083")),
    ),
    "the same replica twice": (
        "a replica of scheduler twice",
        _env("monitor-1", *_peers(scheduler="http://scheduler-1:8082,http://scheduler-1:8082")),
    ),
    "a peer that is called and unknown": (
        "has no address of it",
        _env("monitor-1", "GANTRY_COMMON__PEERS", "{}"),
    ),
    "a port that moved": (
        "http://ipam-1:8083 is nobody of ipam",
        _env("ipam-1", "GANTRY_COMMON__LISTEN", '{ipam: "0.0.0.0:9999"}'),
    ),
    "a published port that leads nowhere": (
        "where nobody listens",
        _put("gateway-1", "ports", value=["127.0.0.1:8080:80/tcp"]),
    ),
    "health that is not asked": (
        "health is not asked",
        _put("scheduler-1", "healthcheck", "test", value=["CMD", "true", "http://127.0.0.1:8082"]),
    ),
    "health at a port nobody listens on": (
        "health is asked at 8084",
        _env("monitor-1", "GANTRY_COMMON__LISTEN", '{monitor: "0.0.0.0:9"}'),
    ),
    "no health check": ("no health", _put("registry", "healthcheck", "test", value=["NONE"])),
    "two that lead": ("lead at once", _env("scheduler-1", "GANTRY_SCHEDULER__LEADER_LEASE_S", "0")),
    "replicas under one name": (
        "share the name one",
        _env("deployer-1", "GANTRY_COMMON__INSTANCE", "one"),
    ),
    "replicas under one address": (
        "mongo: 3 under one name",
        _put("mongo", "deploy", value={"replicas": 3}),
    ),
    "no standby": ("nobody takes over", lambda parsed: parsed["services"].pop("monitor-2")),
    "a secret by value": (
        "has a secret's name",
        _env("mongo", "MONGO_INITDB_ROOT_PASSWORD", "hunter2"),
    ),
    "a password in a URL": (
        "a password in the environment can be read by others",
        _env("ipam-1", "GANTRY_COMMON__STORE", "mongodb://me:pass@mongo:27017/gantry"),
    ),
    "a secret that is not mounted": (
        "mesos_secret is not mounted",
        _put("scheduler-1", "secrets", value=[]),
    ),
    "a password of ZooKeeper's that is not mounted": (
        "zookeeper_secret is not mounted",
        _put("monitor-1", "secrets", value=[{"source": "cluster_secret"}]),
    ),
    "an election that the other replica knows nothing of": (
        "elect a leader each in their own way",
        _env("scheduler-1", "GANTRY_COMMON__ELECTION", "zk://zookeeper:2181/other"),
    ),
    "an election where nobody is": (
        "no server zookeeper-2:2181",
        _env("scheduler-1", "GANTRY_COMMON__ELECTION", "zk://zookeeper-2:2181/gantry"),
    ),
    "an agents' credential that is not mounted": (
        "agent_credential is not mounted",
        _put("gateway-1", "secrets", value=[{"source": "cluster_secret"}]),
    ),
    "another database": (
        "don't agree",
        _env("ipam-1", "GANTRY_COMMON__STORE", "mongodb://mongo:27017/other"),
    ),
    "a broker that is not there": (
        "no server kafka-2:9092",
        _env("ipam-1", "GANTRY_COMMON__BUS", "kafka://kafka-2:9092"),
    ),
    "an image without a version": ("not pinned", _put("mongo", "image", value="mongo")),
    "an image of a moving tag": ("not pinned", _put("mongo", "image", value="mongo:7")),
    "an older image of ours": ("the project is", _put("ipam-1", "image", value="gantry:0.0.9")),
    "no memory limit": ("kafka: no mem_limit", _drop("kafka", "mem_limit")),
    "no CPU limit": ("gateway-1: no cpus", _drop("gateway-1", "cpus")),
    "a user that is root": ("runs as 0:0", _put("gateway-1", "user", value="0:0")),
    "a capability": ("keeps capabilities", _put("ipam-1", "cap_add", value=["NET_ADMIN"])),
    "a privileged service": (
        "deployer-1: privileged",
        _put("deployer-1", "privileged", value=True),
    ),
    "an image that can be written to": ("may write", _put("deployer-1", "read_only", value=False)),
    "a port open to everybody": (
        "open to everybody",
        _put("registry", "ports", value=["5000:5000/tcp"]),
    ),
    "events reachable from outside": (
        "kafka: can be reached",
        _put("kafka", "networks", value={"front": None}),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_noticed(mistake: str) -> None:
    reason, change = MISTAKES[mistake]
    parsed = control()
    change(parsed)
    found = compose.complaints(parsed, compose.CONTROL_PLANE)
    assert any(reason in each for each in found), found


def test_a_key_that_compose_does_not_know_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(CONTROL_FILE.read_text().replace("mem_limit:", "memory_limit:"))
    assert compose.run_compose(broken, "config", "--quiet").returncode != 0
