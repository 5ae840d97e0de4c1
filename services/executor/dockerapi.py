"""Pure: what Docker's API is told of a container, and what its answers and events say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from services.executor.model import (
    Begun,
    ContainerName,
    ContainerSpec,
    Destroyed,
    Died,
    EngineEvent,
    Image,
    Phase,
    Summary,
    View,
)
from services.executor.runs.model import ImageConfig
from services.executor.runs.wire import PLACE, PROGRAM

_PHASES = {"created": Phase.CREATED, "running": Phase.RUNNING, "paused": Phase.RUNNING}
_NEVER = "0001-"


def bind_of(source: Path, target: str) -> dict[str, Any]:
    """A file of the host in the container, for reading. Unlike `Binds`, it fails when there is no such file."""
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True}


def create_body(spec: ContainerSpec, hosts: Path, resolver: Path) -> dict[str, Any]:
    """The body of Docker's container create."""
    body: dict[str, Any] = {
        "Image": spec.image,
        "Hostname": spec.hostname,
        "Env": [f"{name}={value}" for name, value in sorted(spec.env.items())],
        "Labels": spec.labels,
        "HostConfig": {
            "NetworkMode": "host",
            "Runtime": spec.runtime,
            "RestartPolicy": {"Name": "no"},
            "CapDrop": ["ALL"],
            "CapAdd": list(spec.cap_add),
            "SecurityOpt": ["no-new-privileges"],
            "CpuShares": spec.limits.cpu_shares,
            "NanoCpus": spec.limits.nano_cpus,
            "Memory": spec.limits.mem_bytes,
            "MemorySwap": spec.limits.mem_bytes,
            "PidsLimit": spec.limits.pids,
            "Binds": [f"{hosts}:/etc/hosts:ro", f"{resolver}:/etc/resolv.conf:ro"],
            "LogConfig": {
                "Type": spec.log_driver,
                "Config": {"max-size": f"{spec.log_max_mib}m", "max-file": str(spec.log_files)},
            },
        },
    }
    if spec.command is not None:
        body["Entrypoint"] = list(spec.command)  # the image's own arguments go with its entry point
    if spec.user is not None:
        body["User"] = spec.user
    return body


def as_shared(body: dict[str, Any], init: Path, place: Path) -> None:
    """Make it a shared container: its files are nobody's to write, and what its init needs is in it.

    AppArmor's profile for containers forbids mounts; the init puts each task under it (`native/task.c`).
    """
    settings = body["HostConfig"]
    settings["ReadonlyRootfs"] = True
    settings["SecurityOpt"] += ["apparmor=unconfined"]
    settings["Mounts"] = [
        bind_of(init, PROGRAM),
        {"Type": "bind", "Source": str(place), "Target": PLACE},
    ]


def image_config_of(content: Mapping[str, Any]) -> ImageConfig:
    """An ImageConfig of Docker's inspect."""
    command = (*(content.get("Entrypoint") or ()), *(content.get("Cmd") or ()))
    return ImageConfig(
        command=command,
        env=tuple(content.get("Env") or ()),
        user=content.get("User") or "",
        directory=content.get("WorkingDir") or "/",
        stop_signal=content.get("StopSignal") or "SIGTERM",
    )


def view_of(content: Mapping[str, Any]) -> View:
    """A View of Docker's inspect."""
    state, settings = content["State"], content["Config"]
    phase = _PHASES.get(state["Status"], Phase.EXITED)
    return View(
        id=content["Id"],
        name=ContainerName(content["Name"].removeprefix("/")),
        phase=phase,
        runtime=content["HostConfig"]["Runtime"],
        labels=dict(settings["Labels"] or {}),
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        error=state.get("Error", ""),
        stop_signal=settings.get("StopSignal") or "SIGTERM",
        started_at=_timestamp(state["StartedAt"]),
        ended_at=_timestamp(state["FinishedAt"]) if phase is Phase.EXITED else 0.0,
        pid=state["Pid"],
        netns_inode=_netns_inode(state["Pid"]) if phase is Phase.RUNNING else None,
    )


def _timestamp(text: str) -> float:
    return 0.0 if text.startswith(_NEVER) else datetime.fromisoformat(text).timestamp()


def _netns_inode(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino if pid else None
    except OSError:
        return None


def summary_of(content: Mapping[str, Any]) -> Summary:
    """A Summary of an entry of Docker's list."""
    return Summary(
        id=content["Id"],
        name=ContainerName(content["Names"][0].removeprefix("/")),
        phase=_PHASES.get(content["State"], Phase.EXITED),
        created_at=float(content["Created"]),
        labels=dict(content["Labels"] or {}),
    )


def image_of(content: Mapping[str, Any], used: Collection[str]) -> Image:
    """An Image of an entry of Docker's list; a name that was taken away is shown as <none>."""
    tags, digests = (
        tuple(each for each in content[kind] or () if "<none>" not in each)
        for kind in ("RepoTags", "RepoDigests")
    )
    return Image(content["Id"], tags, digests, content["Id"] in used)


def event_of(content: Mapping[str, Any], out_of_memory: dict[str, None]) -> EngineEvent | None:
    """The event of Docker's JSON; `oom` comes on its own and is remembered until the `die` after it."""
    actor = content["Actor"]
    container, attributes = actor["ID"], actor["Attributes"]
    name, at = ContainerName(attributes.get("name", "")), content["timeNano"] / 1e9
    match content["Action"]:
        case "oom":
            out_of_memory[container] = None
        case "die":
            oom = container in out_of_memory
            out_of_memory.pop(container, None)
            return Died(container, name, int(attributes.get("exitCode", -1)), oom, at)
        case "destroy":
            out_of_memory.pop(container, None)
            return Destroyed(container, name, at)
        case "start":
            return Begun(container, name, at)
    return None
