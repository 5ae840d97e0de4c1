"""A Chronos job as a JobSpec, and back: what is put is got again.

What the spec can't carry, and what it carries in other words, is kept in a label: each such field as it was written,
with a digest of how it would be told from the spec. So it holds as long as the spec says the same: what our own API
changes later is told as it is then.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from libs.common.errors import InvalidInput
from libs.common.jobs import CHRONOS_ASYNC, CHRONOS_NAME, JobSpec
from libs.common.problems import invalid
from libs.common.spec import NAME_PATTERN
from services.gateway.chronos import schedules
from services.gateway.chronos.model import (
    DEFAULT_USER,
    ChronosJob,
    Container,
    Parameter,
    Variable,
    Version,
)
from services.gateway.model import ChronosConfig

KEPT_LABEL = "chronos.fields"
NO_EPSILON = "P3650D"
"""How 2.x is told of a job that may be late by any time."""
HIGH_PRIORITY = 1
RETRY_DELAY_S = 60.0  # the flag --failure_retry
SHELL = ("/bin/sh", "-c")
_NAME = re.compile(NAME_PATTERN)
_URL = re.compile(r"(https?|ftp)://")
_LOGINS = re.compile(
    r".*(\.dockercfg|docker(cfg|config)?\.(tar\.gz|tgz|tar|json)|\.docker/config\.json)"
)
_OPERATORS = {"EQUALS": "IS", "LIKE": "LIKE", "UNLIKE": "UNLIKE"}
_TOLD = {"IS": "EQUALS", "CLUSTER": "EQUALS", "LIKE": "LIKE", "UNLIKE": "UNLIKE"}
_OWN = ("CHRONOS_JOB_NAME", "CHRONOS_JOB_OWNER", "CHRONOS_RESOURCE_CPU", "CHRONOS_RESOURCE_MEM",
        "CHRONOS_RESOURCE_DISK")  # fmt: skip

_USUAL = ChronosJob(name="").wire()
_CONTAINER = Container(image="", network="USER").wire()

Names = Mapping[str, str]
Timing = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class Translated:
    """A spec, and what is otherwise than with Chronos, for people to read."""

    spec: JobSpec
    notes: tuple[str, ...] = ()


def read(body: bytes, version: Version, config: ChronosConfig) -> ChronosJob:
    """The job in a request. Raises InvalidInput."""
    try:
        job = ChronosJob.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None
    changes: dict[str, Any] = {
        # Nothing, and less than nothing, is what the cluster gives by default.
        "cpus": job.cpus if job.cpus > 0 else config.cpus,
        "mem": job.mem if job.mem > 0 else float(config.mem_mib),
        "disk": job.disk if job.disk > 0 else float(config.disk_mib),
    }
    if job.parents is not None:
        changes |= {"schedule": None, "schedule_time_zone": ""}
    elif job.schedule is None:
        changes |= {"schedule": schedules.NOW, "schedule_time_zone": ""}
    if version is Version.V3:
        changes |= {"epsilon": NO_EPSILON, "asynchronous": False}
    else:
        changes["concurrent"] = False
    return job.model_copy(update=changes)


# -- there -----------------------------------------------------------------------------------------


def to_spec(
    job: ChronosJob, bu: str, parents: Names, config: ChronosConfig, timing: Timing | None = None
) -> Translated:
    """The spec of a job of a business unit. `parents` has our names of its parents.

    `timing` is its schedule and time zone in our words, where they are known already.

    Raises InvalidInput for what Gantry can't do, and would change what the job does.
    """
    _refuse(job)
    # Chronos' is for times that a schedule names: no success of a parent's may be lost by it.
    deadline = deadline_s(job.epsilon)
    schedule, zone = timing or (None, "UTC")
    if job.schedule is not None and timing is None:
        schedule, zone = schedules.our_schedule(job.schedule, job.schedule_time_zone)
    fields: dict[str, Any] = {
        "schedule": schedule,
        "time_zone": zone,
        "parents": [parents[name] for name in dict.fromkeys(job.parents or ())],
        "description": job.description[:1000],
        "owner": job.owner[:200],
        "enabled": not job.disabled,
        **_container(job, bu, config),
        "resources": {
            "cpus": job.cpus,
            "mem_mib": max(4, math.ceil(job.mem)),
            "disk_mib": math.ceil(job.disk),
        },
        "command": command_of(job),
        "env": _env(job),
        "labels": {CHRONOS_NAME: job.name} | ({CHRONOS_ASYNC: "true"} if job.asynchronous else {}),
        "constraints": [_constraint(each) for each in job.constraints],
        "priority": HIGH_PRIORITY if job.high_priority else 0,
        "concurrency": "allow" if job.concurrent else "forbid",
        "start_deadline_s": deadline if job.parents is None else None,
        "timeout_s": config.async_s if job.asynchronous else None,
        "retry": {"limit": max(0, job.retries), "delay_s": RETRY_DELAY_S},
        "soft_errors": job.soft_error,
    }
    try:
        spec = JobSpec.model_validate(fields)
    except ValidationError as error:
        raise invalid(error) from None
    kept = _differing(_told(spec, job.name, {ours: name for name, ours in parents.items()}), job)
    if kept:
        text = orjson.dumps(kept).decode()
        spec = spec.model_copy(update={"labels": {**spec.labels, KEPT_LABEL: text}})
    return Translated(spec, tuple(_notes(job)))


def _refuse(job: ChronosJob) -> None:
    for field, wrong, why in (
        ("executor", job.executor, "Gantry runs commands and images, no Mesos executors"),
        ("command", _URL.match(job.command), "Gantry fetches no commands: put them into the image"),
        (
            "shell",
            not job.shell and job.arguments and not job.command,
            "arguments need a command: an image's entry point gets none",
        ),
    ):
        if wrong:
            raise InvalidInput.of(field, f"can't be had: {why}")
    for uri in (*job.uris, *(each.uri for each in job.fetch)):
        if not _LOGINS.fullmatch(uri):
            why = "Gantry fetches no files: put them into the image"
            raise InvalidInput.of("fetch", f"{uri!r} can't be had: {why}")


def _notes(job: ChronosJob) -> list[str]:
    notes = []
    if job.uris or job.fetch:
        notes.append("fetch: registry logins are the business unit's own (gantry bu-registry)")
    container = job.container
    if container is None:
        return notes
    if container.force_pull_image:
        notes.append("container.forcePullImage: a tag is resolved when the job is put")
    if container.network != "HOST" or container.network_infos:
        notes.append("container.network: runs that share a container share its address and ports")
    return notes


def command_of(job: ChronosJob, arguments: str | None = None) -> tuple[str, ...] | None:
    """What a job runs, and what a run-now with `arguments` runs. Raises InvalidInput.

    To a shell's command line Chronos appends them, or else the job's own, whatever its documentation says, without
    semicolons. To another command, what is given comes before the job's own.
    """
    if not job.command:
        if arguments is not None:
            raise InvalidInput.of("arguments", "need a command", "a job that has one")
        return None
    if job.shell:
        words = " ".join(job.arguments) if arguments is None else arguments
        words = words.replace(";", "")
        return (*SHELL, f"{job.command} {words}" if words.strip() else job.command)
    try:
        return (job.command, *shlex.split(arguments or ""), *job.arguments)
    except ValueError as error:
        raise InvalidInput.of("arguments", str(error), "words, as in a shell") from None


def _env(job: ChronosJob) -> dict[str, str]:
    env: dict[str, str] = {}
    for each in _variables(job):
        env.setdefault(each.name, each.value)  # the first one counts
    values = (job.name, job.owner, f"{job.cpus}", f"{job.mem}", f"{job.disk}")
    return {**env, **dict(zip(_OWN, values, strict=True))}


def _variables(job: ChronosJob) -> list[Variable]:
    """The variables of a job, and those that it gives to `docker run`."""
    given = [
        Variable(name=name, value=value)
        for name, _, value in (text.partition("=") for text in _parameters(job.container, "env"))
    ]
    return [*job.environment_variables, *given]


def _constraint(given: tuple[str, ...]) -> dict[str, str]:
    if len(given) != 3 or given[1] not in _OPERATORS:
        known = ", ".join(f'["rack", "{each}", "…"]' for each in _OPERATORS)
        raise InvalidInput.of("constraints", f"{list(given)} is no constraint", known)
    return {"attribute": given[0], "operator": _OPERATORS[given[1]], "value": given[2]}


def deadline_s(epsilon: str) -> float | None:
    """So late a run of a schedule may start; None: whenever. Raises InvalidInput."""
    length_s = schedules.seconds(epsilon)
    return None if length_s > schedules.LONGEST_S else max(1.0, length_s)


# -- containers ------------------------------------------------------------------------------------


def _container(job: ChronosJob, bu: str, config: ChronosConfig) -> dict[str, Any]:
    """Image, network and user."""
    container = job.container
    user = None if job.run_as_user in ("", DEFAULT_USER) else job.run_as_user
    network = config.networks.get(bu, config.network)
    image = config.image
    if container is not None:
        _check_container(container)
        image = container.image
        network = _network(container) or network
        user = next(iter(_parameters(container, "user", "u")), user)
    if not image:
        raise InvalidInput.of(
            "container", "is missing", "an image; gateway.chronos.image is not set"
        )
    if not network:
        raise InvalidInput.of(
            "container.networkName",
            f"is missing, and gateway.chronos.networks has none for {bu}",
            "the name of a network",
        )
    return {"image": image, "network": network, "user": user}


def _network(container: Container) -> str:
    names = [each.name for each in container.network_infos]
    names += [container.network_name] if container.network_name else []
    names += [
        each for each in _parameters(container, "net", "network") if each not in ("host", "bridge")
    ]
    if len(set(names)) > 1:
        raise InvalidInput.of("container.networkInfos", "has several networks", "one of them")
    if names and not _NAME.fullmatch(names[0]):
        raise InvalidInput.of("container.networkName", f"{names[0]!r} is no network", NAME_PATTERN)
    return names[0] if names else ""


def _parameters(container: Container | None, *keys: str) -> list[str]:
    found: tuple[Parameter, ...] = container.parameters if container is not None else ()
    return [each.value for each in found if each.key in keys]


def _check_container(container: Container) -> None:
    for volume in container.volumes:
        why = "Gantry mounts nothing of a host's"
        raise InvalidInput.of("container.volumes", f"{volume.container_path!r} can't be had: {why}")
    for network in container.network_infos:
        if network.port_mappings:
            why = "a run has all ports of its address, which is not the host's"
            raise InvalidInput.of("container.networkInfos", f"no portMappings: {why}")
    known = ("env", "user", "u", "net", "network", "rm")
    for each in container.parameters:
        if each.key not in known:
            raise InvalidInput.of(
                "container.parameters", f"{each.key!r} can't be had", f"one of {', '.join(known)}"
            )


# -- and back --------------------------------------------------------------------------------------


def of_spec(spec: JobSpec, name: str, parents: Names) -> ChronosJob:
    """The job that a spec stands for. `parents` has the Chronos names of its parents."""
    told = _told(spec, name, parents)
    kept = {
        field: original
        for field, (digest, original) in _kept(spec).items()
        if _digest(told.get(field)) == digest
    }
    try:
        return ChronosJob.model_validate({**told, **kept, "name": name})
    except ValidationError:  # as above: it must not hide the business unit's other jobs
        return ChronosJob.model_validate(told)


def _kept(spec: JobSpec) -> dict[str, tuple[str, Any]]:
    try:
        kept = orjson.loads(spec.labels.get(KEPT_LABEL, "{}"))
        return {field: (digest, original) for field, (digest, original) in kept.items()}
    except (ValueError, TypeError, AttributeError):  # somebody has written the label by hand
        return {}


def _differing(told: Mapping[str, Any], job: ChronosJob) -> dict[str, tuple[str, Any]]:
    wanted = job.wire()
    return {
        field: (_digest(told.get(field)), wanted.get(field))
        for field in sorted(told.keys() | wanted.keys())
        if told.get(field) != wanted.get(field)
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _told(spec: JobSpec, name: str, parents: Names) -> dict[str, Any]:
    """The job as the spec alone tells it, as `ChronosJob.wire` does."""
    fields: dict[str, Any] = {
        **_USUAL,
        "name": name,
        **_told_command(spec.command),
        "epsilon": NO_EPSILON
        if spec.start_deadline_s is None
        else schedules.duration(spec.start_deadline_s),
        "retries": spec.retry.limit,
        "owner": spec.owner,
        "description": spec.description,
        "cpus": spec.resources.cpus,
        "mem": float(spec.resources.mem_mib),
        "disk": float(spec.resources.disk_mib),
        "disabled": not spec.enabled,
        "softError": spec.soft_errors,
        "environmentVariables": [
            {"name": each, "value": value} for each, value in spec.env.items() if each not in _OWN
        ],
        "highPriority": spec.priority > 0,
        "runAsUser": spec.user or DEFAULT_USER,
        "async": spec.labels.get(CHRONOS_ASYNC) == "true",
        "concurrent": spec.concurrency == "allow",
        "container": {**_CONTAINER, "image": spec.image, "networkName": spec.network},
        "constraints": [
            [each.attribute, _TOLD[each.operator], each.value]
            for each in spec.constraints
            if each.operator in _TOLD and each.value is not None
        ],
    }
    if spec.parents:
        fields["parents"] = [parents.get(each, each) for each in spec.parents]
    else:
        fields["schedule"] = spec.schedule or schedules.NEVER
        fields["scheduleTimeZone"] = "" if spec.time_zone == "UTC" else spec.time_zone
    return fields


def _told_command(command: tuple[str, ...] | None) -> dict[str, Any]:
    if command is None:
        return {"command": "", "shell": True}
    if len(command) == 3 and command[:2] == SHELL:
        return {"command": command[2], "shell": True}
    return {"command": command[0], "shell": False, "arguments": list(command[1:])}
