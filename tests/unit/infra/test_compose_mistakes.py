"""What is wrong in docker-compose.yml or infra/compose/host.yml is noticed: each mistake is made, and complained of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from libs.cli.host_cmd import SECRETS
from tests.unit.infra import compose, compose_doors
from tests.unit.infra.compose import Parsed, control, host


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


def _leave(service: str, target: str) -> Callable[[Parsed], None]:
    def change(parsed: Parsed) -> None:
        volumes = parsed["services"][service]["volumes"]
        gone = [each for each in volumes if isinstance(each, dict) and each["target"] == target]
        assert gone, target
        volumes.remove(gone[0])

    return change


def _mount(service: str, secret: str) -> Callable[[Parsed], None]:
    def change(parsed: Parsed) -> None:
        bound = {
            "type": "bind",
            "source": f"{compose_doors.CLUSTERS}/{secret}",
            "target": f"/run/secrets/{secret}",
        }
        parsed["services"][service]["volumes"].append(bound)

    return change


def _unset(name: str, *services: str) -> Callable[[Parsed], None]:
    def change(parsed: Parsed) -> None:
        for service in services or compose.ours(parsed):
            del parsed["services"][service]["environment"][name]

    return change


def _unset_all(prefix: str, service: str) -> Callable[[Parsed], None]:
    def change(parsed: Parsed) -> None:
        variables = parsed["services"][service]["environment"]
        gone = [name for name in variables if name.startswith(prefix)]
        assert gone, prefix
        for name in gone:
            del variables[name]

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
    "a broker that makes topics by itself": (
        "makes topics by itself",
        _put("kafka", "environment", "KAFKA_AUTO_CREATE_TOPICS_ENABLE", value="true"),
    ),
    "a broker of which nobody said whether it does": (
        "makes topics by itself",
        _drop("kafka", "environment", "KAFKA_AUTO_CREATE_TOPICS_ENABLE"),
    ),
    "a broker that waits for others to copy its offsets": (
        "more copies of its own topics than brokers",
        _drop("kafka", "environment", "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR"),
    ),
    "more copies of a topic than brokers": (
        "makes topics with 3 copies for 1 brokers",
        _env("deployer-1", "GANTRY_COMMON__BUS", "kafka://kafka:9092?replication=3"),
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
    "a peer that only the monitor's pools are asked of": (
        "monitor-1: calls ipam, and has no address of it",
        _env("monitor-1", "GANTRY_COMMON__PEERS", '{scheduler: "http://scheduler-1:8082"}'),
    ),
    "a scheduler that can't tell who signed a request": (
        "scheduler-2: calls gateway, and has no address of it",
        _env("scheduler-2", "GANTRY_COMMON__PEERS", '{ipam: "http://ipam-1:8083"}'),
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
        _leave("scheduler-1", "/run/secrets/leaders"),
    ),
    "a password of ZooKeeper's that is not mounted": (
        "zookeeper_secret is not mounted",
        _leave("monitor-1", "/run/secrets/leaders"),
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
        _leave("gateway-1", "/run/secrets/gateways"),
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
    "services that would each make a secret of their own": (
        "ipam-2: secret_file is not set",
        _unset("GANTRY_COMMON__SECRET_FILE"),
    ),
    "a scheduler that Mesos does not know": (
        "scheduler-2: credential_file is not set",
        _env("scheduler-2", "GANTRY_SCHEDULER__CREDENTIAL_FILE", "null"),
    ),
    "gateways with nothing for agents": (
        "gateway-1: agent_credential_file is not set",
        _env("gateway-1", "GANTRY_GATEWAY__AGENT_CREDENTIAL_FILE", "null"),
    ),
    "a master that asks nobody": (
        "mesos-master-2: MESOS_AUTHENTICATE_FRAMEWORKS is ''",
        _unset_all("MESOS_AUTHENTICATE_", "mesos-master-2"),
    ),
    "a master whose API is open": (
        "MESOS_AUTHENTICATE_HTTP_READWRITE is 'false'",
        _env("mesos-master-3", "MESOS_AUTHENTICATE_HTTP_READWRITE", "false"),
    ),
    "a master without access lists": (
        "MESOS_ACLS is ''",
        _unset("MESOS_ACLS", "mesos-master-2"),
    ),
    "a master that knows nobody": (
        "MESOS_CREDENTIALS is '', and not a mounted secret",
        _unset("MESOS_CREDENTIALS", "mesos-master-2"),
    ),
    "a master that is missing": (
        "mesos-master: 2, and with one of them away nobody leads",
        lambda parsed: parsed["services"].pop("mesos-master-3"),
    ),
    "a master that counts on itself alone": (
        "mesos-master-2: 1 of 3 are no majority",
        _env("mesos-master-2", "MESOS_QUORUM", "1"),
    ),
    "masters that share a log": (
        "mesos-master-3: has no replica of the log to itself",
        _put("mesos-master-3", "volumes", value=["mesos-master-1:/var/lib/mesos:rw"]),
    ),
    "a master whose log goes with its container": (
        "mesos-master-1: has no replica of the log to itself",
        _put("mesos-master-1", "volumes", value=[]),
    ),
    "a master that takes itself for the leader": (
        "mesos-master-2: is elected by nobody",
        _unset("MESOS_ZK", "mesos-master-2"),
    ),
    "a master of another election": (
        "the masters elect a leader each in their own way",
        _env("mesos-master-2", "MESOS_ZK", "zk://zookeeper:2181/other"),
    ),
    "a master that says it is where another one is": (
        "mesos-master-2: says that it is at 192.0.2.10:5050, where it is not",
        _env("mesos-master-2", "MESOS_ADVERTISE_PORT", "5050"),
    ),
    "a master that sends its askers nowhere": (
        "mesos-master-3: says that it is at mesos-master-3:5053, where it is not",
        _env("mesos-master-3", "MESOS_HOSTNAME", "mesos-master-3"),
    ),
    "a scheduler that knows one master of three": (
        "scheduler-1: knows the masters mesos-master-1:5050",
        _env("scheduler-1", "GANTRY_SCHEDULER__MASTERS", '["mesos-master-1:5050"]'),
    ),
    "a registry for everybody": (
        "registry: REGISTRY_AUTH is ''",
        _unset("REGISTRY_AUTH", "registry"),
    ),
    "a registry whose logins are not mounted": (
        "REGISTRY_AUTH_HTPASSWD_PATH is '/run/secrets/registry/registry_htpasswd', and not a mounted secret",
        _leave("registry", "/run/secrets/registry"),
    ),
    "a secret that can't be replaced while it is used": (
        "cluster_secret is a single file",
        _mount("ipam-2", "services/cluster_secret"),
    ),
    "a secret of compose's own": (
        "ipam-2: cluster_secret is a single file",
        _put("ipam-2", "secrets", value=[{"source": "cluster_secret"}]),
    ),
    "secrets of others": (
        "ipam-2: has /run/secrets/leaders/mesos_secret and no use for it",
        _mount("ipam-2", "leaders"),
    ),
    "a registry that deletes for whoever may push": (
        "may delete",
        _env("registry", "REGISTRY_STORAGE_DELETE_ENABLED", "true"),
    ),
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
    found = compose.complaints(parsed, compose_doors.CONTROL_PLANE)
    assert any(reason in each for each in found), found


ON_A_HOST: dict[str, tuple[str, Callable[[Parsed], None]]] = {
    "a host without a key of its own": (
        "hostd: host_key_file is not set",
        _unset("GANTRY_HOSTD__HOST_KEY_FILE", "hostd"),
    ),
    "a host's key that is not mounted": (
        "hostd: host_key_file: /etc/gantry/secrets/host/host_key is not mounted",
        _leave("hostd", str(SECRETS)),
    ),
    "a host with the cluster's secrets": (
        "hostd: /etc/gantry/secrets has /etc/gantry/secrets/services in it",
        _put("hostd", "volumes", value=["/etc/gantry/secrets:/etc/gantry/secrets:ro"]),
    ),
    "an installation that could read secrets": (
        "install: /etc/gantry has /etc/gantry/secrets/host in it",
        _drop("install", "tmpfs"),
    ),
    "an agent whose API is open": (
        "mesos-agent: MESOS_AUTHENTICATE_HTTP_READONLY is ''",
        _unset_all("MESOS_AUTHENTICATE_", "mesos-agent"),
    ),
    "an agent that takes anybody for an executor": (
        "mesos-agent: MESOS_AUTHENTICATE_HTTP_EXECUTORS is 'false'",
        _env("mesos-agent", "MESOS_AUTHENTICATE_HTTP_EXECUTORS", "false"),
    ),
    "an agent that has no tokens to give": (
        "MESOS_JWT_SECRET_KEY is ''",
        _unset("MESOS_JWT_SECRET_KEY", "mesos-agent"),
    ),
    "an agent that can't say who it is": (
        "MESOS_CREDENTIAL is ''",
        _unset("MESOS_CREDENTIAL", "mesos-agent"),
    ),
    "no deployer to ask for secrets": (
        "does not know http://192.0.2.10:8181 of deployer",
        _env("hostd", "GANTRY_COMMON__PEERS", '{ipam: "http://192.0.2.10:8183"}'),
    ),
    "a deployer at another port": (
        "http://192.0.2.10:8190 is nobody of deployer",
        _env("hostd", "GANTRY_COMMON__PEERS", '{deployer: "http://192.0.2.10:8190"}'),
    ),
    "one ipam of two": (
        "does not know http://192.0.2.10:8184 of ipam",
        _env("hostd", "GANTRY_COMMON__PEERS", '{ipam: "http://192.0.2.10:8183"}'),
    ),
    "a host of another cluster": ("is of other", _env("hostd", "GANTRY_COMMON__CLUSTER", "other")),
    "a hostd that no gateway finds": (
        "no attribute says that hostd listens",
        _env("mesos-agent", "MESOS_ATTRIBUTES", "zone:a"),
    ),
    "an agent by another name": (
        "is host-2, and hostd",
        _env("mesos-agent", "MESOS_HOSTNAME", "host-2"),
    ),
    "an agent without a master": (
        "asks zk://192.0.2.11:2181/mesos for the master",
        _env("mesos-agent", "MESOS_MASTER", "zk://192.0.2.11:2181/mesos"),
    ),
    "a host's health that is not asked": (
        "hostd: health is asked at 8085",
        _env("hostd", "GANTRY_HOSTD__LISTEN", "192.0.2.20:8086"),
    ),
    "a host's daemon without a bound": ("hostd: no mem_limit", _drop("hostd", "mem_limit")),
}


@pytest.mark.parametrize("mistake", ON_A_HOST)
def test_a_mistake_on_a_host_is_noticed(mistake: str) -> None:
    reason, change = ON_A_HOST[mistake]
    parsed = host()
    change(parsed)
    found = compose.complaints(parsed, compose_doors.ON_HOSTS)
    found += compose_doors.wrong_neighbours(parsed, control())
    assert any(reason in each for each in found), found


def test_a_replica_that_is_closed_to_hosts_is_noticed() -> None:
    parsed = control()
    del parsed["services"]["deployer-2"]["ports"]
    found = [*compose_doors.wrong_neighbours(host(), parsed)]
    assert "deployer: not every replica is open to hosts" in found
