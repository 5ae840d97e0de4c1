"""Pure: messages of `native/gantry-init.c`, whose head describes them. A message is NUL-terminated fields."""

from __future__ import annotations

import signal

from services.executor.runs.model import TaskStart, TaskView

PROGRAM, PLACE = "/.gantry/init", "/.gantry/run"
"""Where a shared container has the init, and the directory that it shares with the host."""

CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
"""By their numbers: include/uapi/linux/capability.h."""

MAX_MESSAGE = 256 * 1024
MOST_S = 400 * 86_400.0
"""The longest time-out and grace that the init takes, its MAX_WAIT_MS."""
_BY_SIGNAL = 128


def encode(*fields: str | int) -> bytes:
    """A request. Raises ValueError for what would be read otherwise than it was meant."""
    texts = [str(each) for each in fields]
    if any("\0" in each for each in texts):
        raise ValueError("an argument or variable has a NUL character")
    message = b"".join(each.encode(errors="surrogateescape") + b"\0" for each in texts)
    if len(message) > MAX_MESSAGE:
        raise ValueError(f"arguments and variables are longer than {MAX_MESSAGE} bytes")
    return message


def fields_of(message: bytes) -> list[str]:
    """The fields of an answer."""
    return [each.decode(errors="replace") for each in message.split(b"\0")[:-1]]


def start_of(cell: str, task: TaskStart) -> bytes:
    """The request that starts a task in a cell. Raises ValueError."""
    return encode(
        "start",
        cell,
        task.task,
        task.user,
        task.directory or "/",
        milliseconds(task.timeout_s),
        milliseconds(task.grace_s),
        number_of(task.stop_signal),
        len(task.command),
        *task.command,
        *task.env,
    )


def milliseconds(seconds: float) -> int:
    """As the init takes them; more than MOST_S are cut to that."""
    return round(min(max(0.0, seconds), MOST_S) * 1000)


def number_of(name: str) -> int:
    """A signal's number by its name, with or without SIG, or by its number; of an unknown one TERM's."""
    if name.isdecimal() and 1 <= int(name) <= 64:
        return int(name)
    known = name if name.startswith("SIG") else f"SIG{name}"
    return int(getattr(signal.Signals, known, signal.Signals.SIGTERM))


def view_of(fields: list[str]) -> TaskView:
    """A task, of a `running` or `ended` answer. Raises ValueError."""
    match fields:
        case ["running", task, cell, began]:
            return TaskView(task, cell, int(began) / 1000)
        case ["ended", task, cell, how, code, began, ended, late, leaked, user, system, rss, why]:
            return TaskView(
                task=task,
                cell=cell,
                began_at=int(began) / 1000,
                ended_at=int(ended) / 1000,
                exit_code=int(code) + (_BY_SIGNAL if how == "signal" else 0),
                failed=(why or "it did not start") if how == "failed" else "",
                timed_out=late == "1",
                leaked=leaked == "1",
                user_s=int(user) / 1e6,
                system_s=int(system) / 1e6,
                max_rss_kib=int(rss),
            )
    raise ValueError(f"not a task: {fields!r}")
