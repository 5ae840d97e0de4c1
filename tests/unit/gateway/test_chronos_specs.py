"""Chronos' jobs as ours and back: names, schedules, and that what is put is got again."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from libs.common.jobs import JobSpec
from libs.common.schedule import parse
from libs.common.wishes import NAME_PATTERN
from services.gateway.chronos import schedules
from services.gateway.chronos.model import ChronosJob, Version
from services.gateway.chronos.names import candidates, check_name, chronos_name, our_name
from services.gateway.chronos.specs import (
    KEPT_LABEL,
    Translated,
    command_of,
    of_spec,
    read,
    to_spec,
)
from services.gateway.model import ChronosConfig

CONFIG = ChronosConfig(networks={"acme": "blue"}, image="debian:12")
JOB: dict[str, Any] = {"name": "etl", "command": "date", "schedule": "R/2026-01-01T00:00:00Z/PT1H"}


def translate(version: Version = Version.V3, **fields: Any) -> Translated:
    job = read(json.dumps({**JOB, **fields}).encode(), version, CONFIG)
    return to_spec(job, "acme", {name: our_name(name) for name in job.parents or ()}, CONFIG)


def spec_of(version: Version = Version.V3, **fields: Any) -> JobSpec:
    return translate(version, **fields).spec


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["etl", "a-b-1", "0", "x" * 40])
def test_a_name_that_is_ours_already_stays(name: str) -> None:
    assert our_name(name) == name


@pytest.mark.parametrize(
    "name", ["ETL", "a b", "a.b", "a_b", "#1", "-a", "a-", "x" * 41, "...", "etl-x0123456789ab"]
)
def test_any_other_gets_one_of_its_own(name: str) -> None:
    ours = our_name(name)
    assert ours != name and re.fullmatch(NAME_PATTERN, ours)
    assert our_name(ours) != ours  # a job that is really called so is another one
    assert chronos_name(ours, spec_of(name=name).labels) == name


@given(st.sets(st.from_regex(r"\A[A-Za-z0-9_ .#-]{1,60}\Z"), min_size=2, max_size=20))
def test_names_never_become_the_same(names: set[str]) -> None:
    made = {our_name(name) for name in names}
    assert len(made) == len(names)
    assert all(re.fullmatch(NAME_PATTERN, each) for each in made)


def test_which_names_each_version_takes_for_new_jobs() -> None:
    check_name("db_export #1.a-b", Version.V2)
    check_name("db_export.a-b", Version.V3)
    for version, name in ((Version.V3, "a b"), (Version.V3, "a#"), (Version.V2, "a/b"), (Version.V2, "ä"),
                          (Version.V2, ""), (Version.V2, "x" * 201)):  # fmt: skip
        with pytest.raises(InvalidInput, match="name"):
            check_name(name, version)
    assert candidates("a b") == (our_name("a b"),)
    assert candidates("etl-x0123456789ab") == (our_name("etl-x0123456789ab"), "etl-x0123456789ab")


# -- schedules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "zone", "ours"),
    [
        ("R/2014-10-10T18:32:00Z/PT60M", "PST", ("R/2014-10-10T18:32:00/PT60M", "America/Los_Angeles")),
        ("R/2014-10-10T18:32:00.123+02:00/P1D", "Europe/Berlin", ("R/2014-10-10T18:32:00.123/P1D", "Europe/Berlin")),
        ("R5/2014-10-10T18:32:00-0730/P1M", "", ("R5/2014-10-10T18:32:00-0730/P1M", "UTC")),
        ("R5/2014-10-10T18:32:00-0730/P1M", "UTC", ("R5/2014-10-10T18:32:00/P1M", "UTC")),
        ("R3//PT10S", "", ("R3//PT10S", "UTC")),
        ("R3//PT10S", "GMT+5", ("R3//PT10S", "Etc/GMT-5")),
        ("R3//PT10S", "GMT+5:30", ("R3//PT10S", "Asia/Kolkata")),
        ("R3//PT10S", "GMT+0545", ("R3//PT10S", "Asia/Kathmandu")),
        ("R3//PT10S", "GMT-930", ("R3//PT10S", "Pacific/Marquesas")),
        ("R3//PT10S", "GMT+10", ("R3//PT10S", "Etc/GMT-10")),
        ("R3//PT10S", "GMT+1:15", ("R3//PT10S", "GMT+1:15")),  # which is refused
        ("R3/2014-10-10/P1W", "GMT-10:00", ("R3/2014-10-10/P1W", "Etc/GMT+10")),
        ("R0//PT0M", "", (None, "UTC")),
        ("R0/2014-01-01T00:00:00Z/PT60M", "", (None, "UTC")),
        ("R1//PT0S", "", ("R1//PT24H", "UTC")),
        ("R10//PT1S", "", ("R10//PT1S", "UTC")),
    ],
)  # fmt: skip
def test_schedules(text: str, zone: str, ours: tuple[str | None, str]) -> None:
    assert schedules.our_schedule(text, zone) == ours


@pytest.mark.parametrize(
    "text", ["", "* * * * *", "R/2014/", "5/2014-01-01/PT1M", "R-1//PT1M", "R//PT", "R//P", "R//PX", "R//1M"]
)  # fmt: skip
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(InvalidInput, match="Cannot parse schedule"):
        schedules.our_schedule(text, "")


def test_durations() -> None:
    told = {
        "PT15M": 900.0,
        "PT0S": 0.0,
        "P1DT1H1M1.5S": 90_061.5,
        "P1M": 2_592_000.0,
        "P2W": 1_209_600.0,
    }
    assert {text: schedules.seconds(text) for text in told} == told
    assert schedules.duration(900.0) == "PT900S" and schedules.duration(0.25) == "PT0.25S"
    assert schedules.duration(100.0) == "PT100S"
    for text in ("", "P", "PT", "15M", "P15", "PT1M1H"):
        with pytest.raises(InvalidInput, match="duration"):
            schedules.seconds(text)


def test_how_far_back_times_are_made_up_for() -> None:
    now = 1_700_000_000.0
    assert schedules.since(spec_of(Version.V2, epsilon="PT5M"), Version.V2, now) == now - 300.0
    assert schedules.since(spec_of(Version.V2, epsilon="P2Y"), Version.V2, now) == 0.0
    assert schedules.since(spec_of(Version.V3), Version.V3, now) == 0.0


@pytest.mark.parametrize(
    ("text", "zone", "begun"),
    [
        ("R1//PT24H", "UTC", "R1/2023-11-14T22:13:21Z/PT24H"),
        ("R//P1M", "America/Los_Angeles", "R/2023-11-14T14:13:21-08:00/P1M"),
    ],
)
def test_what_has_no_start_begins_with_the_next_second(text: str, zone: str, begun: str) -> None:
    assert schedules.begins_at_put(text) and not schedules.begins_at_put(begun)
    assert schedules.begun(text, zone, 1_700_000_000.4) == begun
    assert parse(begun, zone).after(0.0) == 1_700_000_001.0
    # Who reads it as Chronos does, fields in the zone and no offset, reads the same time.
    again, _ = schedules.our_schedule(begun, zone)
    assert again is not None and parse(again, zone).after(0.0) == 1_700_000_001.0


# -- what each field becomes -----------------------------------------------------------------------


def test_what_a_job_is_by_default() -> None:
    for version in Version:
        spec = spec_of(version)
        assert spec.schedule == JOB["schedule"] and spec.time_zone == "UTC" and spec.enabled
        assert (spec.image, spec.network, spec.user) == ("debian:12", "blue", None)
        assert spec.command == ("/bin/sh", "-c", "date")
        resources = spec.resources
        assert (resources.cpus, resources.mem_mib, resources.disk_mib) == (0.1, 128, 256)
        assert (spec.retry.limit, spec.retry.delay_s, spec.retry.factor) == (2, 60.0, 1.0)
        assert (spec.concurrency, spec.catch_up.policy, spec.priority) == ("forbid", "latest", 0)
        assert not spec.soft_errors and spec.labels["chronos.name"] == "etl"
    assert spec_of(Version.V2).start_deadline_s == 60.0
    assert spec_of(Version.V3).start_deadline_s is None


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({"command": "echo 1 && echo 2"}, ("/bin/sh", "-c", "echo 1 && echo 2")),
        ({"command": "run", "arguments": ["-a", "b; rm"]}, ("/bin/sh", "-c", "run -a b rm")),
        ({"command": "/run", "shell": False, "arguments": ["-a", "b; c"]}, ("/run", "-a", "b; c")),
        ({"command": "/run", "shell": "false"}, ("/run",)),
        ({"command": "", "shell": False}, None),
        ({"command": None}, None),
        ({"command": "", "arguments": ["x"]}, None),
    ],
)
def test_commands(fields: dict[str, Any], command: tuple[str, ...] | None) -> None:
    assert spec_of(**fields).command == command


@pytest.mark.parametrize(
    ("fields", "given", "command"),
    [
        ({"command": "run"}, "-x; y", ("/bin/sh", "-c", "run -x y")),
        ({"command": "run", "arguments": ["-a"]}, "-x", ("/bin/sh", "-c", "run -x")),
        ({"command": "/run", "shell": False, "arguments": ["-a"]}, "-x 'y z'", ("/run", "-x", "y z", "-a")),
        ({"command": "/run", "shell": False}, "'", None),
        ({"command": ""}, "-x", None),
    ],
)  # fmt: skip
def test_arguments_of_a_run_now(
    fields: dict[str, Any], given: str, command: tuple[str, ...] | None
) -> None:
    job = read(orjson.dumps({**JOB, **fields}), Version.V3, CONFIG)
    if command is None:
        with pytest.raises(InvalidInput, match="arguments"):
            command_of(job, given)
    else:
        assert command_of(job, given) == command


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cpus": "0.5", "mem": "512", "disk": 1.5}, {"resources": {"cpus": 0.5, "mem_mib": 512, "disk_mib": 2}}),
        ({"mem": 0.5}, {"resources": {"cpus": 0.1, "mem_mib": 4, "disk_mib": 256}}),
        ({"retries": "3"}, {"retry": {"limit": 3, "delay_s": 60.0}}),
        ({"retries": -1}, {"retry": {"limit": 0, "delay_s": 60.0}}),
        ({"disabled": True}, {"enabled": False}),
        ({"disabled": "true"}, {"enabled": False}),
        ({"concurrent": True}, {"concurrency": "allow"}),
        ({"softError": True}, {"soft_errors": True}),
        ({"highPriority": True}, {"priority": 1}),
        ({"runAsUser": "nobody"}, {"user": "nobody"}),
        ({"owner": "a@b.c", "description": "d"}, {"owner": "a@b.c", "description": "d"}),
        ({"constraints": [["rack", "EQUALS", "r1"], ["hostname", "UNLIKE", "x.*"]]},
         {"constraints": [{"attribute": "rack", "operator": "IS", "value": "r1"},
                          {"attribute": "hostname", "operator": "UNLIKE", "value": "x.*"}]}),
        ({"container": {"type": "docker", "image": "a/b:1"}}, {"image": "a/b:1", "network": "blue"}),
        ({"container": {"type": "MESOS", "image": "a", "network": "USER", "networkName": "green"}},
         {"image": "a", "network": "green"}),
        ({"container": {"image": "a", "networkInfos": [{"name": "green", "labels": [{"key": "a", "value": "b"}]}],
                        "parameters": [{"key": "user", "value": "app"}, {"key": "rm", "value": "true"}]}},
         {"network": "green", "user": "app"}),
        ({"container": {"type": "DOCKER"}}, {"image": "debian:12"}),
        ({"parents": ["a b", "c", "c"], "schedule": None},
         {"parents": [our_name("a b"), "c"], "schedule": None}),
    ],
)  # fmt: skip
def test_fields(fields: dict[str, Any], told: dict[str, Any]) -> None:
    spec = spec_of(**fields).model_dump(mode="json")
    for name, value in told.items():
        if isinstance(value, dict):
            assert {part: spec[name][part] for part in value} == value
        else:
            assert spec[name] == value


def test_what_is_in_the_environment() -> None:
    env = spec_of(
        owner="o",
        environmentVariables=[{"name": "A", "value": 1}, {"name": "A", "value": "2"}],
        container={"image": "x", "parameters": [{"key": "env", "value": "B=c=d"}]},
    ).env
    assert env == {
        "A": "1",
        "B": "c=d",
        "CHRONOS_JOB_NAME": "etl",
        "CHRONOS_JOB_OWNER": "o",
        "CHRONOS_RESOURCE_CPU": "0.1",
        "CHRONOS_RESOURCE_MEM": "128.0",
        "CHRONOS_RESOURCE_DISK": "256.0",
    }


def test_epsilon_is_for_times_and_not_for_children() -> None:
    job = read(orjson.dumps({"name": "c", "parents": ["p"]}), Version.V2, CONFIG)
    spec = to_spec(job, "acme", {"p": "p"}, CONFIG).spec
    assert spec.start_deadline_s is None
    assert of_spec(spec, "c", {}).epsilon == "PT60S"
    with pytest.raises(InvalidInput, match="epsilon"):
        spec_of(Version.V2, parents=["p"], epsilon="15M")


def test_epsilon_is_of_2x_and_concurrent_of_3x() -> None:
    assert spec_of(Version.V2, epsilon="PT15M").start_deadline_s == 900.0
    assert spec_of(Version.V2, epsilon="PT0S").start_deadline_s == 1.0
    assert spec_of(Version.V2, epsilon="P2Y").start_deadline_s is None
    assert spec_of(Version.V3, epsilon="PT15M").start_deadline_s is None
    assert spec_of(Version.V2, concurrent=True).concurrency == "forbid"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"container": {"image": "a", "volumes": [{"hostPath": "/a", "containerPath": "/b"}]}}, "volumes"),
        ({"container": {"image": "a", "parameters": [{"key": "privileged", "value": "true"}]}}, "parameters"),
        ({"container": {"image": "a", "networkInfos": [
            {"name": "n", "portMappings": [{"hostPort": 1, "containerPort": 2}]}]}}, "portMappings"),
        ({"container": {"image": "a", "networkInfos": [{"name": "n"}, {"name": "m"}]}}, "networkInfos"),
        ({"container": {"image": "a", "networkName": "N_1"}}, "networkName"),
        ({"container": {"image": "a", "network": "MOON"}}, "network"),
        ({"container": {"image": "no image"}}, "image"),
        ({"uris": ["http://a/b.tgz"]}, "fetch"),
        ({"fetch": [{"uri": "hdfs://x"}]}, "fetch"),
        ({"executor": "/bin/custom"}, "executor"),
        ({"command": "http://a/run.sh"}, "command"),
        ({"command": "", "shell": False, "arguments": ["a"]}, "shell"),
        ({"constraints": [["rack", "CLOSE_TO", "x"]]}, "constraints"),
        ({"constraints": [["rack", "LIKE", "("]]}, "constraints"),
        ({"environmentVariables": [{"name": "a.b", "value": "c"}]}, "env"),
        ({"epsilon": "15M"}, "epsilon"),
        ({"cpus": 1000}, "cpus"),
        ({"disk": 1e300}, "disk"),
        ({"mem": "1e999"}, "mem"),
        ({"retries": -(2**70)}, "retries"),
        ({"retries": 1001}, "retry"),
        ({"name": None}, "name"),
        ({"name": {"a": 1}}, "name"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput) as error:
        spec_of(Version.V2, **fields)
    assert named in "".join(f"{each.field} {each.problem}" for each in error.value.problems)


def test_a_job_needs_an_image_and_a_network() -> None:
    job = read(orjson.dumps(JOB), Version.V3, CONFIG)
    with pytest.raises(InvalidInput, match="container"):
        to_spec(job, "acme", {}, ChronosConfig(network="blue"))
    with pytest.raises(InvalidInput, match="networkName"):
        to_spec(job, "other", {}, CONFIG)
    assert to_spec(job, "other", {}, ChronosConfig(network="n", image="i")).spec.network == "n"


def test_what_is_otherwise_is_said() -> None:
    notes = translate(
        Version.V2,
        uris=["file:///root/.dockercfg"],
        container={"image": "a", "forcePullImage": "true"},
    ).notes
    assert [note.partition(":")[0] for note in notes] == [
        "fetch",
        "container.forcePullImage",
    ]
    assert translate().notes == ()
    for own in (
        {"network": "bridge"},
        {"network": "USER", "networkName": "n"},
        {"networkInfos": [{"name": "n"}]},
    ):
        (note,) = translate(container={"image": "a", **own}).notes
        assert note.startswith("container.network: runs that share a container share its address")
    assert translate(container={"image": "a", "network": "HOST"}).notes == ()


def test_an_async_job_s_end_is_told_within_a_time() -> None:
    spec = spec_of(Version.V2, **{"async": True})
    assert (spec.labels["chronos.async"], spec.timeout_s) == ("true", CONFIG.async_s)
    usual = spec_of(Version.V2)
    assert "chronos.async" not in usual.labels and usual.timeout_s is None
    # 3.x knows no such jobs.
    assert "chronos.async" not in spec_of(Version.V3, **{"async": True}).labels


# -- there and back --------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
env_names = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,8}\Z")
pairs = st.fixed_dictionaries({"key": texts, "value": texts})
containers = st.fixed_dictionaries(
    {"image": st.sampled_from(["a/b:1", "r.test:5000/c"])},
    optional={
        "type": st.sampled_from(["DOCKER", "MESOS", "docker"]),
        "network": st.sampled_from(["HOST", "BRIDGE", "USER"]),
        "networkName": st.just("green"),
        "networkInfos": st.just([{"name": "green", "protocol": "IPv4", "labels": []}]),
        "forcePullImage": st.booleans(),
        "parameters": st.lists(
            st.sampled_from(["rm", "user"]).map(lambda key: {"key": key, "value": "x"}), max_size=2
        ),
    },
)
jobs = st.fixed_dictionaries(
    {"name": st.from_regex(r"\A[A-Za-z0-9_ .#-]{1,30}\Z"), "command": texts},
    optional={
        "shell": st.just(True),
        "epsilon": st.sampled_from(["PT15M", "P1D", "PT60S", "PT1M", "P2Y", "PT0S"]),
        "retries": st.integers(-1, 1000),
        "owner": st.text("ab@,", max_size=300),
        "ownerName": texts,
        "description": st.text("ab ", max_size=1200),
        "async": st.booleans(),
        "cpus": st.floats(0, 200),
        "mem": st.floats(0, 4096),
        "disk": st.integers(0, 10_000),
        "disabled": st.booleans(),
        "softError": st.booleans(),
        "dataProcessingJobType": st.booleans(),
        "executorFlags": texts,
        "taskInfoData": texts,
        "environmentVariables": st.lists(
            st.fixed_dictionaries({"name": env_names, "value": texts}), max_size=4
        ),
        "arguments": st.lists(texts, max_size=3),
        "highPriority": st.booleans(),
        "runAsUser": st.sampled_from(["root", "", "nobody", "1000:1000"]),
        "concurrent": st.booleans(),
        "container": containers,
        "constraints": st.lists(
            st.tuples(env_names, st.sampled_from(["EQUALS", "LIKE", "UNLIKE"]), st.just("r[12]")),
            max_size=3,
        ),
        "uris": st.lists(st.just("file:///root/.dockercfg"), max_size=1),
        "scheduleTimeZone": st.sampled_from(["", "UTC", "PST", "Europe/Berlin", "GMT+1"]),
    },
)
causes = st.one_of(
    st.just({}),
    st.builds(
        lambda text: {"schedule": text},
        st.sampled_from(["R/2026-01-01T00:00:00Z/PT1H", "R5//PT1M", "R0//PT0M", "R1/2026-01-01/P1D"]),
    ),
    st.builds(lambda names: {"parents": sorted(names)}, st.sets(st.sampled_from(["a", "B c"]), min_size=1)),
)  # fmt: skip


@given(jobs, causes, st.sampled_from(Version))
def test_what_is_put_is_got_again(
    content: dict[str, Any], cause: dict[str, Any], version: Version
) -> None:
    if content["command"].startswith(("http", "ftp")):
        return
    job = read(orjson.dumps({**content, **cause}), version, CONFIG)
    ours = {name: our_name(name) for name in job.parents or ()}
    spec = to_spec(job, "acme", ours, CONFIG).spec
    stored = JobSpec.model_validate_json(spec.model_dump_json(by_alias=True))
    assert of_spec(stored, job.name, {each: name for name, each in ours.items()}) == job
    # What is got and put again changes nothing.
    again = read(orjson.dumps(job.wire()), version, CONFIG)
    assert to_spec(again, "acme", ours, CONFIG).spec == spec


def test_what_our_own_api_changes_is_told_as_it_is() -> None:
    spec = spec_of(
        name="A b",
        schedule="R/2026-01-01T00:00:00Z/P1D",
        scheduleTimeZone="PST",
        owner="x" * 300,
        ownerName="me",
        container={"image": "a", "forcePullImage": True},
    )
    changed = spec.model_copy(update={"schedule": "*/5 * * * *", "image": "b:2"})
    job = of_spec(changed, "A b", {})
    assert job.schedule == "*/5 * * * *" and job.schedule_time_zone == "PST"
    assert job.container is not None and job.container.image == "b:2"
    assert job.container.network_name == "blue" and not job.container.force_pull_image
    assert job.owner == "x" * 300 and job.owner_name == "me"


@pytest.mark.parametrize("label", ["", "no json", "[]", '{"owner": 1}', '{"owner": ["a"]}', "null"])
def test_a_label_that_somebody_has_spoilt_is_passed_over(label: str) -> None:
    spec = spec_of(ownerName="me")
    spec = spec.model_copy(update={"labels": {**spec.labels, KEPT_LABEL: label}})
    assert of_spec(spec, "etl", {}).owner_name == ""


def test_a_label_that_was_made_up_is_passed_over() -> None:
    plain = spec_of()
    assert "ownerName" in spec_of(ownerName="me").labels[KEPT_LABEL]
    for field, value in (("retries", {"a": 1}), ("name", "other"), ("ownerName", ["x"])):
        kept = {field: [digest_of(field, plain), value]}
        labels = {**plain.labels, KEPT_LABEL: orjson.dumps(kept).decode()}
        job = of_spec(plain.model_copy(update={"labels": labels}), "etl", {})
        assert (job.name, job.retries, job.owner_name) == ("etl", 2, "")


def digest_of(field: str, spec: JobSpec) -> str:
    """That of how a field is told from the spec alone."""
    bare = spec.model_copy(update={"labels": {}})
    value = of_spec(bare, "etl", {}).wire().get(field)
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]


def test_jobs_that_only_our_own_api_can_make_are_told_too() -> None:
    spec = JobSpec(image="a:1", network="blue", command=("/run", "-x"), parents=("p",))
    job = of_spec(spec, "own", {"p": "P 1"})
    assert (job.command, job.shell, job.arguments) == ("/run", False, ("-x",))
    assert job.parents == ("P 1",) and job.schedule is None
    manual = of_spec(JobSpec(image="a:1", network="blue", start_deadline_s=90.0), "own", {})
    assert manual.schedule == "R0//PT24H" and manual.epsilon == "PT90S" and manual.command == ""
    assert isinstance(manual, ChronosJob)


# -- whatever comes --------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(
    {each.alias or name for name, each in ChronosJob.model_fields.items()} - {"name", "schedule"}
)


@given(
    st.dictionaries(st.sampled_from(FIELDS), anything, max_size=4),
    st.dictionaries(
        st.sampled_from(["type", "image", "network", "networkName", "networkInfos", "volumes"]),
        anything,
        max_size=3,
    ),
    st.just(JOB["schedule"]) | st.just(JOB["schedule"]) | anything,
    st.sampled_from(Version),
)
def test_whatever_comes_is_taken_or_refused_with_a_reason(
    fields: dict[str, Any], container: dict[str, Any], schedule: Any, version: Version
) -> None:
    content = {"name": "etl", "schedule": schedule, "container": container, **fields}
    try:
        job = read(json.dumps(content).encode(), version, CONFIG)
        spec = to_spec(
            job, "acme", {name: our_name(name) for name in job.parents or ()}, CONFIG
        ).spec
    except InvalidInput as error:
        assert all(each.problem for each in error.problems)
    else:
        assert of_spec(spec, "etl", {}).name == "etl"
        assert orjson.dumps(spec.model_dump(mode="json")) and orjson.dumps(job.wire())
