"""docker-compose.yml and infra/compose/host.yml say what the code needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from infra.compose import credentials
from libs.cli.host_cmd import SECRETS
from services.executor.config import ExecutorConfig
from services.hostd.settings import HostdConfig
from services.scheduler.settings import SchedulerConfig
from tests.unit.infra import compose, compose_doors
from tests.unit.infra.calls import calls
from tests.unit.infra.compose import CONTROL_FILE, HOST_FILE, control, host

OUTSIDE_FILE = compose.REPOSITORY / "infra/compose/kafka-outside.yml"
FILES = pytest.mark.parametrize("file", [CONTROL_FILE, HOST_FILE], ids=lambda file: file.name)


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
    assert compose.complaints(control(), compose_doors.CONTROL_PLANE) == []


def test_a_host_is_what_the_code_needs() -> None:
    assert compose.complaints(host(), compose_doors.ON_HOSTS) == []


def test_a_host_has_a_directory_of_secrets_with_what_its_containers_read_and_nothing_else(
    tmp_path: Path,
) -> None:
    credentials.make_cluster(tmp_path)
    credentials.make_host(tmp_path, "host-1", tmp_path / SECRETS.name)
    written = {SECRETS / each.name for each in (tmp_path / SECRETS.name).iterdir()}
    read = set[Path]()
    for service in host()["services"].values():
        given = compose_doors.secrets_of(service)
        read |= {given[each] for each in compose.environment(service).values() if each in given}
    assert read == written
    cluster = {compose_doors.CLUSTERS / each.name for each in tmp_path.iterdir()} - {SECRETS}
    mounts = {each for one in host()["services"].values() for each in compose.mounted(one).values()}
    assert SECRETS in mounts and not mounts & cluster


def test_hosts_find_the_control_plane() -> None:
    assert [*compose_doors.wrong_neighbours(host(), control())] == []


def test_kafkas_door_for_others_is_the_only_thing_that_it_opens() -> None:
    arguments = ("-f", str(OUTSIDE_FILE), "config")
    assert compose.run_compose(CONTROL_FILE, *arguments).returncode != 0, "without a name"
    variables = {**compose.VARIABLES, "KAFKA_NAME": "kafka.example"}
    done = compose.run_compose(CONTROL_FILE, *arguments, variables=variables)
    assert done.returncode == 0, done.stderr
    parsed = yaml.safe_load(done.stdout)
    found = compose.complaints(parsed, compose_doors.CONTROL_PLANE)
    assert found == ["kafka: can be reached from outside"]
    assert compose.published(parsed["services"]["kafka"]) == {9094: (compose.CONTROL, 9094)}
    beside = [n for n, each in parsed["services"].items() if "outside" in each["networks"]]
    assert beside == ["kafka"], "would reach the listener that asks for no password"
    variables = compose.environment(parsed["services"]["kafka"])
    own = compose.environment(control()["services"]["kafka"])
    for name in ("LISTENERS", "ADVERTISED_LISTENERS", "LISTENER_SECURITY_PROTOCOL_MAP"):
        before, after = own[f"KAFKA_{name}"], variables[f"KAFKA_{name}"]
        assert after.startswith(f"{before},OUTSIDE:"), f"{name} is another for the services"
    assert variables["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].endswith("OUTSIDE:SASL_SSL")


def test_who_calls_whom_is_on_a_network_with_it() -> None:
    services = control()["services"]

    def meet(one: str, other: str) -> bool:
        return bool(set(services[one]["networks"]) & set(services[other]["networks"]))

    for name in compose.ours(control()):
        called = calls()[compose.service_of(name)]
        peers = [each for each in services if compose.service_of(each) in called]
        for other in (*peers, "kafka", "mongo"):
            assert meet(name, other), (name, other)
        if compose.service_of(name) in ("scheduler", "monitor"):
            for other in (*compose.masters(control()), "zookeeper"):
                assert meet(name, other), (name, other)


def test_mesos_lets_in_whom_the_services_say_they_are() -> None:
    acls = json.loads((compose.REPOSITORY / "infra/compose/mesos-acls.json").read_text())
    allowed = acls["register_frameworks"][0]
    for name in ("scheduler-1", "scheduler-2", "monitor-1", "monitor-2"):
        _, section = compose.settings(name, control()["services"][name])
        assert [getattr(section, "principal", "")] == allowed["principals"]["values"]
    _, section = compose.settings("scheduler-1", control()["services"]["scheduler-1"])
    assert isinstance(section, SchedulerConfig)
    assert allowed["roles"]["values"] == list(section.roles)
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


def test_a_key_that_compose_does_not_know_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(CONTROL_FILE.read_text().replace("mem_limit:", "memory_limit:"))
    assert compose.run_compose(broken, "config", "--quiet").returncode != 0
