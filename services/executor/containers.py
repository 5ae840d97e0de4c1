"""Pure: what container an attempt needs, and whether one that exists is it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace

from libs.common.delivery import Delivery, is_text
from libs.common.spec import InstanceSpec
from libs.common.task import TaskPayload
from services.executor.config import ExecutorConfig
from services.executor.model import (
    LABEL_AGENT,
    LABEL_APP,
    LABEL_ATTEMPT,
    LABEL_CLUSTER,
    LABEL_GENERATION,
    LABEL_INSTANCE,
    LABEL_JOB,
    LABEL_PAYLOAD,
    LABEL_POOL,
    LABEL_RUN,
    LABEL_SPEC,
    AttachmentSpec,
    Attempt,
    ContainerSpec,
    Identity,
    Limits,
    SecretFile,
    View,
)
from services.executor.runs import chronos
from services.executor.runs.wire import CAPABILITIES, PROGRAM

MIB = 1024 * 1024
NOTHING_DELIVERED = Delivery()
MAX_HOSTNAME = 63
_MIN_MEMORY_BYTES = 6 * MIB  # the engine refuses less


def spec_hash(spec: InstanceSpec) -> str:
    """Tells specs apart: 16 hex digits of SHA-256 over the canonical JSON."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]


def hostname(instance: str) -> str:
    """The instance's id as a DNS label; a long one keeps its end, which is the unique part."""
    plain = re.sub(r"[^a-z0-9-]", "-", instance.lower())
    return plain[-MAX_HOSTNAME:].strip("-") or "instance"


def hosts_file(name: str, ip: str) -> str:
    """/etc/hosts of a container."""
    return f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{ip}\t{name}\n"


def resolv_conf(config: ExecutorConfig) -> str:
    """/etc/resolv.conf of every container: what is configured, and nothing of the host's."""
    lines = [f"search {' '.join(config.dns_search)}"] if config.dns_search else []
    lines += [f"nameserver {server}" for server in config.dns]
    return "\n".join(lines or ["# no name servers are configured"]) + "\n"


def limits(spec: InstanceSpec, config: ExecutorConfig) -> Limits:
    """Shares divide the CPU under contention; the quota holds always, or from `cpu_burst_floor` cores on."""
    wanted = spec.resources
    return Limits(
        cpu_shares=max(2, round(wanted.cpus * 1024)),
        nano_cpus=round(max(wanted.cpus, config.cpu_burst_floor) * 1e9),
        mem_bytes=max(wanted.mem_mib * MIB, _MIN_MEMORY_BYTES),
        pids=wanted.pids,
    )


def labels(payload: TaskPayload, identity: Identity) -> dict[str, str]:
    """The user's labels, and ours over them."""
    memory = payload.model_copy(update={"spec": payload.spec.model_copy(update={"env": {}})})
    return {
        **{k: v for k, v in payload.spec.labels.items() if not k.startswith("gantry.")},
        LABEL_CLUSTER: identity.cluster,
        LABEL_AGENT: identity.agent,
        LABEL_INSTANCE: payload.instance,
        LABEL_ATTEMPT: payload.attempt,
        LABEL_GENERATION: str(payload.generation),
        LABEL_SPEC: spec_hash(payload.spec),
        LABEL_APP: payload.app,
        LABEL_RUN: identity.run,
        LABEL_PAYLOAD: memory.model_dump_json(),
        **({LABEL_JOB: payload.run.job} if payload.run is not None else {}),
    }


def container_spec(
    attempt: Attempt,
    identity: Identity,
    config: ExecutorConfig,
    delivery: Delivery = NOTHING_DELIVERED,
) -> ContainerSpec:
    """The container of an attempt, with the values of its secrets."""
    payload = attempt.payload
    spec = payload.spec
    secrets = delivery.secrets
    in_variables = {each.env: each.content.decode() for each in secrets if each.env}
    return ContainerSpec(
        name=attempt.container,
        image=spec.image,
        hostname=hostname(payload.instance),
        runtime=config.runtime,
        limits=limits(spec, config),
        labels=labels(payload, identity),
        env={**spec.env, **chronos.variables(payload), **in_variables},
        secret_files=tuple(
            SecretFile(each.file, each.content) for each in secrets if each.file is not None
        ),
        command=spec.command,
        user=spec.user,
        cap_add=config.cap_add,
        resolv_conf=resolv_conf(config),
        log_driver=config.log_driver,
        log_max_mib=config.log_max_mib,
        log_files=config.log_files,
    )


# What the init of a shared container needs: to make cells, to become users, to clear away what they left.
INIT_CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_CHROOT",
)
_UNLIMITED = Limits(cpu_shares=0, nano_cpus=0, mem_bytes=0, pids=0)


def pool_spec(
    attempt: Attempt, key: str, identity: Identity, config: ExecutorConfig
) -> ContainerSpec:
    """A shared container. It is held to nothing itself: each task in it is."""
    spec = container_spec(attempt, identity, config)
    capabilities = sum(1 << CAPABILITIES.index(_plain(each)) for each in config.cap_add)
    return replace(
        spec,
        limits=_UNLIMITED,
        labels={**spec.labels, LABEL_POOL: key},
        command=(
            PROGRAM,
            f"--capabilities={capabilities:x}",
            f"--output={config.pool_output_kib * 1024}",
        ),
        user="0:0",
        cap_add=tuple(dict.fromkeys((*INIT_CAPABILITIES, *config.cap_add))),
        init=config.init,
    )


def spec_of(
    attempt: Attempt, identity: Identity, config: ExecutorConfig, delivery: Delivery
) -> ContainerSpec:
    """The container of an attempt, be it a shared one or not."""
    if attempt.pool is not None:
        return pool_spec(attempt, attempt.pool.key, identity, config)
    return container_spec(attempt, identity, config, delivery)


def attachment_of(attempt: Attempt) -> AttachmentSpec:
    """The network that the container of an attempt is to have."""
    payload = attempt.payload
    spec, wish = payload.spec, payload.spec.address
    return AttachmentSpec(
        container=attempt.container,
        network=spec.network,
        instance=payload.instance,
        attempt=attempt.id,
        generation=attempt.generation,
        sticky_key=spec.sticky_key,
        options=spec.network_options,
        ip=(wish.requested or "") if wish else "",
        reservation=(wish.reservation or "") if wish else "",
        app=payload.app,
        environment=spec.environment,
    )


def _plain(capability: str) -> str:
    return capability.upper().removeprefix("CAP_")


def not_as_asked(spec: InstanceSpec, delivery: Delivery) -> str:
    """Which of the spec's secrets was not delivered as it is asked for, or ""."""
    given = {(each.name, each.env, each.file) for each in delivery.secrets}
    missing = [ref.name for ref in spec.secrets if (ref.name, ref.env, ref.file) not in given]
    if missing:
        return f"nothing was told of {', '.join(missing)}"
    binary = [each.name for each in delivery.secrets if each.env and not is_text(each.content)]
    return f"{', '.join(binary)} is not text, and no variable" if binary else ""


def foreign(view: View, payload: TaskPayload, identity: Identity, *, adopt: bool) -> str:
    """Why a container that exists is not this payload's, or "". One to adopt may be of an older attempt."""
    wanted: Mapping[str, str] = {
        LABEL_CLUSTER: identity.cluster,
        LABEL_AGENT: identity.agent,
        LABEL_INSTANCE: payload.instance,
        LABEL_SPEC: spec_hash(payload.spec),
        **({} if adopt else {LABEL_ATTEMPT: payload.attempt}),
    }
    for label, value in wanted.items():
        if view.labels.get(label) != value:
            return f"its label {label} is {view.labels.get(label)!r}, not {value!r}"
    return ""


def generation_of(view: View, default: int = 0) -> int:
    """Of the attempt that it was made for, by its label."""
    label = view.labels.get(LABEL_GENERATION, "")
    return int(label) if label.isdigit() else default


def wrong_runtime(view: View, runtime: str) -> str:
    """Says that a container has not the runtime that joins hostd's namespaces."""
    return f"container {view.name} has the runtime {view.runtime!r}, not {runtime!r}"
