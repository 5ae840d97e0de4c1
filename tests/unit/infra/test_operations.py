"""The operations guide's tables are what the code and the compose files say; its commands and settings exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command

from libs.cli.host_cmd import SECRETS
from libs.cli.main import make_app
from libs.client.hostfiles import HostFiles
from libs.common.bus.base import MAX_RECORD_BYTES, TopicSpec
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.kafka_url import KafkaSettings
from libs.common.bus.retention import DAY_S, Retention
from libs.common.bus.sqlite import PARTITION_BYTES, TOTAL_BYTES
from libs.common.clock import SystemClock
from libs.common.disk import MIB
from libs.common.events import TOPICS, model
from libs.common.generations import ASK_EVERY_S
from libs.common.runtime import CommonConfig
from libs.common.store.base import CollectionSpec
from libs.common.supervision import RESTART_WINDOW_S, RESTARTS
from services.executor.config import ExecutorConfig
from services.monitor import core
from tests.unit.infra import compose, compose_doors
from tests.unit.infra.compose import CONTROL_FILE, HOST_FILE, MODELS, REPOSITORY

GUIDE = (REPOSITORY / "docs/operations.md").read_text()
EVENTS = {each.__name__: each.TOPIC for each in model.ALL}
CONTROL_PLANE = sorted(MODELS.keys() - {"hostd"})


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    below = re.split(rf"^#+ {re.escape(heading)}$", GUIDE, maxsplit=1, flags=re.MULTILINE)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert lines, heading
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()]
    return rows[2:]


def names(cell: str) -> list[str]:
    """The words in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def parsed(service: str) -> Iterator[tuple[Path, ast.Module]]:
    """A service's modules; "common" for what they share."""
    place = "libs/common" if service == "common" else f"services/{service}"
    for file in sorted((REPOSITORY / place).rglob("*.py")):
        yield file, ast.parse(file.read_text())


def test_topics() -> None:
    documented = {
        names(topic)[0]: (partitions, kept) for topic, partitions, kept in table("Topics")
    }
    assert documented == {
        each.name: (
            str(each.partitions),
            f"{Retention().of(each.name) / DAY_S:g} days",
        )
        for each in TOPICS
    }
    assert f"{MAX_RECORD_BYTES:,}" in GUIDE
    broker = compose.environment(compose.resolved(CONTROL_FILE)["services"]["kafka"])
    assert f"`KAFKA_LOG_RETENTION_HOURS`, {broker['KAFKA_LOG_RETENTION_HOURS']} in" in GUIDE
    bus = KafkaBus(KafkaSettings(("kafka:9092",)), SystemClock())
    made = bus._new_topic(TOPICS[0])
    assert made.topic_configs["retention.ms"] == str(7 * 86_400 * 1000)
    letters = bus._new_topic(TopicSpec("dead.deployer"))
    assert letters.topic_configs["retention.ms"] == str(30 * 86_400 * 1000)
    assert "`dead.<group>` is kept for 30 days" in GUIDE
    assert f"{PARTITION_BYTES // MIB} MiB a partition and {TOTAL_BYTES // MIB // 1024} GiB" in GUIDE
    assert f"`max.message.bytes` of {int(made.topic_configs['max.message.bytes']):,}" in GUIDE


def _handled(service: str) -> set[str]:
    """Topics of the events that a service's handler tables name: `{ev.X: …}`."""
    return {topic for _, tree in parsed(service) for topic in _topics(tree)}


def _topics(tree: ast.AST) -> set[str]:
    return {
        EVENTS[key.attr]
        for node in ast.walk(tree)
        for key in (node.keys if isinstance(node, ast.Dict) else ())
        if isinstance(key, ast.Attribute) and key.attr in EVENTS
    }


def _groups(service: str) -> dict[str, set[str]]:
    """Its consumer groups and what each reads: one with a name of its own has its table in the call itself."""
    handled, groups = _handled(service), {}
    calls = [
        node
        for _, tree in parsed(service)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "subscription"
    ]
    for call in sorted(calls, key=lambda each: -len(each.args)):
        assert {each.arg for each in call.keywords} <= {"together"}, service  # how, not what
        own = _topics(call.args[0]) if len(call.args) > 1 else handled
        name = ast.literal_eval(call.args[1]) if len(call.args) > 1 else service
        assert name not in groups and own, service
        groups[name], handled = own, handled - own
    assert not handled or service in groups
    return groups


def test_consumer_groups() -> None:
    documented = {
        group: (set(names(reads)), names(dead)) for group, reads, dead in table("Consumer groups")
    }
    assert documented == {
        group: (reads, [f"dead.{group}"])
        for service in CONTROL_PLANE
        for group, reads in _groups(service).items()
    }


def test_collections_and_indexes() -> None:
    documented: dict[str, tuple[str, dict[str, bool]]] = {}
    for collection, service, indexes, _ in table("Collections"):
        found = re.findall(r"`(\w+)`( \(unique\))?", indexes)
        documented[names(collection)[0]] = (service, {name: bool(only) for name, only in found})
    stored: dict[str, tuple[str, dict[str, bool]]] = {}
    for service in CONTROL_PLANE:
        module = importlib.import_module(f"services.{service}.store")
        for spec in vars(module).values():
            if isinstance(spec, CollectionSpec):
                stored[spec.name] = (service, {each.name: each.unique for each in spec.indexes})
    assert documented == stored


def test_collections_are_made_in_the_stores_only() -> None:
    for service in CONTROL_PLANE:
        for file, tree in parsed(service):
            made = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "CollectionSpec"
            ]
            assert not made or file.name == "store.py", file


def test_sizes() -> None:
    both = {
        **compose.resolved(CONTROL_FILE)["services"],
        **compose.resolved(HOST_FILE)["services"],
    }
    documented = {part: (memory, float(cpus)) for part, memory, cpus in table("Sizes")}
    for name, each in both.items():
        assert documented[compose.service_of(name)] == (each["mem_limit"], each["cpus"]), name
    assert documented.keys() == {compose.service_of(name) for name in both}


def test_ports() -> None:
    documented = {who: int(port) for who, port, _ in table("Ports")}
    control = compose.resolved(CONTROL_FILE)
    for name, each in compose.ours(control).items():
        common, _ = compose.settings(name, each)
        service = compose.service_of(name)
        assert documented[service] == compose.port_of(common.listen[service])
    _, hostd = compose.settings("hostd", compose.resolved(HOST_FILE)["services"]["hostd"])
    assert documented["hostd"] == compose.port_of(getattr(hostd, "listen", ""))
    outside = {port for each in control["services"].values() for port in compose.published(each)}
    told = {int(each) for each in re.findall(r"\b\d{4,5}\b", GUIDE)}
    assert outside <= told


def test_alerts() -> None:
    rules = {core.APP_CRASHING, core.NODE_LOST, core.BREAKER_OPEN, core.COMPONENT_DOWN}
    rules |= {core.DRAIN_OVERDUE, core.BLIND, core.CONSUMER_LAG, core.DISK_LOW, core.POOL_LOW}
    rules |= {core.FRAMEWORK_REMOVED, core.JOB_FAILING}
    rules |= {core.EXECUTOR_SILENT, core.EXECUTOR_RESTARTED, core.COMPONENT_RESTARTED}
    constants = {
        value for name, value in vars(core).items() if name.isupper() and isinstance(value, str)
    }
    assert rules == constants
    assert all(re.search(rf"`{rule}[:`]", GUIDE) for rule in rules)


def test_replicas() -> None:
    documented = {service: replicas for service, replicas, _ in table("How many of each")}
    assert documented.keys() == MODELS.keys()
    for service, replicas in documented.items():
        leads = "leader_lease_s" in MODELS[service].model_fields
        expected = "one, and hot standbys" if leads else "any number"
        assert replicas == ("one a host" if service == "hostd" else expected)


def _metrics(service: str) -> Iterator[str]:
    """Names as Prometheus sees them; the helpers of Telemetry itself have no literal name."""
    kinds = {"counter", "gauge", "histogram", "Counter", "Histogram"}
    for _, tree in parsed(service):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = node.args[0]
            if called in kinds and isinstance(name, ast.Constant) and isinstance(name.value, str):
                total = "_total" if called.lower() == "counter" else ""
                yield f"gantry_{name.value.removeprefix('gantry_').removesuffix('_total')}{total}"


def test_metrics() -> None:
    documented = {names(metric)[0]: of for metric, of, _ in table("Metrics")}
    for service in (*CONTROL_PLANE, "hostd"):
        theirs = {name for name, of in documented.items() if of == service}
        assert theirs == set(_metrics(service)), service
    shared = {name for name, of in documented.items() if of.startswith("all")}
    assert shared == set(_metrics("common"))
    assert len(documented) == len(table("Metrics"))


def test_the_scrape_configuration_names_every_replica() -> None:
    example = yaml.safe_load((REPOSITORY / "docs/examples/prometheus.yml").read_text())
    services, host = example["scrape_configs"]
    told = {f"http://{each}" for job in services["static_configs"] for each in job["targets"]}
    control = compose.resolved(CONTROL_FILE)
    assert told == {url for name in CONTROL_PLANE for url in compose.addresses(control, name)}
    assert host["static_configs"] == [{"targets": [f"{compose.HOST}:8085"]}]
    for job in (services, host):
        assert job["authorization"]["credentials_file"].startswith("/etc/prometheus/")


NOT_SETTINGS = {each.name for each in TOPICS} | {
    *(f"dead.{service}" for service in CONTROL_PLANE),
    "host.yml",
    "password.properties",
    "unique.x",
    "retention.ms",
}
SETTINGS = sorted(set(re.findall(r"`([a-z]+\.[a-z_]+)`", GUIDE)) - NOT_SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_exist(setting: str) -> None:
    section, _, field = setting.partition(".")
    model_of: dict[str, type[BaseModel]] = {
        **MODELS,
        "common": CommonConfig,
        "executor": ExecutorConfig,
    }
    assert field in model_of[section].model_fields


def test_numbers_are_the_defaults() -> None:
    for text, section, field, unit in (
        (r"`scheduler.breaker_limit` \((\d+)\)", "scheduler", "breaker_limit", 1),
        (
            r"`scheduler.failover_timeout_s` \((\d+) days\)",
            "scheduler",
            "failover_timeout_s",
            86_400,
        ),
        (r"`scheduler.adoption_deadline_s` \((\d+) s\)", "scheduler", "adoption_deadline_s", 1),
        (r"`scheduler.unreachable_after_s` \((\d+) s\)", "scheduler", "unreachable_after_s", 1),
        (r"`hostd.ipam_wait_s` \((\d+) s\)", "hostd", "ipam_wait_s", 1),
        (r"`gateway.audit_s`, (\d+) days", "gateway", "audit_s", 86_400),
        (r"`deployer.keep_releases` \((\d+)\)", "deployer", "keep_releases", 1),
        (
            r"`deployer.keep_deployments_s`, (\d+) days",
            "deployer",
            "keep_deployments_s",
            86_400,
        ),
        (r"`monitor.keep_lost_s` after a host was lost, (\d+) d", "monitor", "keep_lost_s", 86_400),
        (
            r"`monitor.keep_alerts_s` after they are over, (\d+) d",
            "monitor",
            "keep_alerts_s",
            86_400,
        ),
        (r"\((\d+) exits nobody wanted", "monitor", "crash_count", 1),
        (r"nobody wanted within (\d+) s", "monitor", "crash_window_s", 1),
        (r"nobody watched\s+for more than (\d+) s", "monitor", "blind_after_s", 1),
    ):
        found = re.search(text, GUIDE)
        assert found, text
        assert int(found[1]) * unit == MODELS[section].model_fields[field].default
    for field, text in (
        ("log_files", "`executor.log_files` ({:g})"),
        ("log_max_mib", "`executor.log_max_mib` ({:g} MiB)"),
        ("image_high_pct", "`executor.image_high_pct` ({:g}) percent"),
        ("image_low_pct", "`executor.image_low_pct` ({:g})"),
        ("image_min_age_s", "`executor.image_min_age_s` ({:g} s)"),
        ("min_free_mib", "`executor.min_free_mib` ({:g})"),
        ("min_free_inodes_pct", "`executor.min_free_inodes_pct` ({:g})"),
        ("orphan_grace_s", "`executor.orphan_grace_s` ({:g} s)"),
        ("pool_output_kib", "`executor.pool_output_kib` ({:g} KiB)"),
        ("pool_tasks", "`executor.pool_tasks` ({:g})"),
        ("pool_uses", "`executor.pool_uses` ({:g})"),
        ("pool_age_s", "`executor.pool_age_s` ({:g} s)"),
        ("pool_idle_s", "`executor.pool_idle_s` ({:g} s)"),
        ("pool_warm_s", "`executor.pool_warm_s` ({:g} s)"),
        ("pool_closes", "`executor.pool_closes` ({:g})"),
    ):
        assert text.format(ExecutorConfig.model_fields[field].default) in GUIDE.replace("\n", " ")
    deadline_s = ExecutorConfig.model_fields["network_deadline_s"].default
    assert f"`executor.network_deadline_s` ({deadline_s:g} s)" in GUIDE
    assert f"more than {RESTARTS} failures in {RESTART_WINDOW_S / 60:g} minutes" in GUIDE
    assert f"within {ASK_EVERY_S:g} s at ipam" in GUIDE
    leases = {
        getattr(compose.settings(name, each)[1], "leader_lease_s", None)
        for name, each in compose.ours(compose.resolved(CONTROL_FILE)).items()
    }
    assert leases == {None, 15.0}
    assert "(20 s with the compose files' 15)" in GUIDE


def test_commands_of_the_cli_exist() -> None:
    root = get_command(make_app())
    for words in re.findall(r"`gantry (?:--bu \S+ )?((?:[a-z-]+ ?)+)", GUIDE):
        command = root
        for word in words.split():
            children = getattr(command, "commands", None)
            if children is None:
                break
            assert word in children, f"gantry {words}"
            command = children[word]


def test_a_host_enrols_as_the_guide_says() -> None:
    found = re.search(r"`docker run (.+?) gantry:(\S+) (\S+) host enrol ([^`]+)`", GUIDE)
    assert found
    docker, image, module, options = found.groups()
    assert image == compose.version() and (REPOSITORY / f"{module.replace('.', '/')}.py").exists()
    assert "-i" in docker.split() and "--user 0:0" in docker
    root = get_command(make_app())
    command = root.commands["host"].commands["enrol"]  # type: ignore[attr-defined]
    known = {name for each in (*command.params, *root.params) for name in each.opts}
    assert set(re.findall(r"--[a-z-]+", options)) <= known
    # It writes what host.yml mounts: by default, from where the guide mounts it into the container.
    files = HostFiles(SECRETS)
    written = {
        files.host_key,
        files.agent_credential,
        files.agent_http_credentials,
        files.executor_secret,
    }
    for service in ("hostd", "mesos-agent"):
        daemon = compose.resolved(HOST_FILE)["services"][service]
        assert written <= set(compose_doors.secrets_of(daemon).values())
    assert f"-v {SECRETS}:{SECRETS}" in docker


def test_files_exist() -> None:
    for path in re.findall(r"\b((?:infra|docs|tests)/[\w./-]+\w)", GUIDE):
        assert (REPOSITORY / path).exists(), path
