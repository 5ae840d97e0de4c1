"""The table of differences that a live run may show against its recording. Everything else fails.

A rule names paths (a regular expression on the end of the path, list indexes written `[]`) and a
check on the pair (recorded, live). A check is not a blank cheque: a kind `bind:x` demands that the
same recorded name always stands for the same live one and the other way round.
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.contract.mesos.binder import Binder

Check = Callable[[Any, Any, Binder], str | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One allowed difference: where, what still has to hold, and why it is allowed."""

    path: str
    check: Check
    why: str

    def matches(self, path: str) -> bool:
        """Whether it speaks of `path`."""
        return re.search(rf"(?:^|[.\]]){self.path}$", path) is not None


_MESOS_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(-[SO]?\d+)?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _shape(text: str) -> str:
    """What kind of Mesos id it is: the digits of its number do not count."""
    return re.sub(r"\d+$", "N", _UUID.sub("U", text))


def bind(kind: str) -> Check:
    """Another id of the same shape, the same one every time; ids we made up stay as they are."""

    def check(recorded: Any, live: Any, binder: Binder) -> str | None:
        if not isinstance(recorded, str) or not isinstance(live, str):
            return f"{recorded!r} → {live!r}: no id"
        if not _MESOS_ID.fullmatch(recorded):
            return None if binder.text(recorded) == live else f"{recorded!r} → {live!r}"
        if _shape(recorded) != _shape(live):
            return f"{recorded!r} → {live!r}: another shape of id"
        return binder.bind(kind, recorded, live)

    return check


def name(kind: str) -> Check:
    """Another name or number of the same type, the same one every time."""

    def check(recorded: Any, live: Any, binder: Binder) -> str | None:
        if type(recorded) is not type(live) or (live == "") != (recorded == ""):
            return f"{recorded!r} → {live!r}: another type"
        if recorded == "":
            return None
        return binder.bind(kind, str(recorded), str(live))

    return check


def uuid16(recorded: Any, live: Any, binder: Binder) -> str | None:
    """16 bytes in base64, bound."""
    try:
        size = len(base64.b64decode(live, validate=True))
    except (binascii.Error, TypeError, ValueError):
        return f"{live!r} is not base64"
    return binder.bind("uuid", recorded, live) if size == 16 else f"{live!r}: {size} bytes"


def same_type(recorded: Any, live: Any, _: Binder) -> str | None:
    """Any value of the same JSON type (an integer is not a float); strings and lists non-empty."""
    if type(recorded) is not type(live):
        return f"{recorded!r} → {live!r}: another type"
    return f"{recorded!r} → {live!r}" if (live == "") != (recorded == "") else None


def http_date(_: Any, live: Any, __: Binder) -> str | None:
    """An RFC 1123 date in GMT."""
    parsed = (
        email.utils.parsedate(live) if isinstance(live, str) and live.endswith(" GMT") else None
    )
    return None if parsed else f"{live!r} is no HTTP date"


def version(_: Any, live: Any, __: Binder) -> str | None:
    """Three numbers."""
    return None if re.fullmatch(r"\d+\.\d+\.\d+", str(live)) else f"{live!r} is no version"


def address(recorded: Any, live: Any, binder: Binder) -> str | None:
    """`…host:port…`: the same text around another address; the port is bound, hosts have aliases."""
    pattern = r"[\w.\-\[\]]+:(\d+)"
    if re.sub(pattern, "A", str(recorded)) != re.sub(pattern, "A", str(live)):
        return f"{recorded!r} → {live!r}: not only the address"
    pair = re.search(pattern, str(recorded)), re.search(pattern, str(live))
    return binder.bind("port", pair[0][1], pair[1][1]) if pair[0] and pair[1] else None


def launcher(recorded: Any, live: Any, binder: Binder) -> str | None:
    """The directory of Mesos' own programs may be another one."""
    pattern = re.escape(binder.text(str(recorded))).replace("/usr/libexec/mesos", r"[^ ]+")
    same = isinstance(live, str) and re.fullmatch(pattern, live)
    return None if same else f"{recorded!r} → {live!r}"


def digits(_: Any, live: Any, __: Binder) -> str | None:
    """A number; that it is the true length is checked with the body."""
    return None if isinstance(live, str) and live.isdigit() else f"{live!r} is no number"


ALLOWED: tuple[Rule, ...] = (
    # Times
    Rule(r"headers\.Date", http_date, "time"),
    Rule(r"timestamp", same_type, "time"),
    Rule(r"((\w+_)?time|timestamp)\.nanoseconds", same_type, "time"),
    Rule(r"(\w+_)?time", same_type, "time"),
    Rule(r"uptime_secs", same_type, "time"),
    # Ids
    Rule(r"headers\.Mesos-Stream-Id", bind("stream"), "id"),
    Rule(r"framework_ids?(\[\])?(\.value)?", bind("framework"), "id"),
    Rule(r"framework_info\.id\.value", bind("framework"), "id"),
    Rule(r"(completed_|unregistered_)?frameworks\[\]\.(id|value)", bind("framework"), "id"),
    Rule(r"(agent_id|slave_id|agent_info\.id)(\.value)?", bind("agent"), "id"),
    Rule(r"slaves\[\]\.id", bind("agent"), "id"),
    Rule(r"(inverse_)?(offer_id|offers\[\]\.id)\.value", bind("offer"), "id"),
    Rule(r"offers\[\]\.id", bind("offer"), "id"),
    Rule(r"container_id(\.parent)?\.value", bind("container"), "id"),
    Rule(r"container_id", bind("container"), "id"),
    Rule(r"container", bind("container"), "id"),
    Rule(r"(master_info|leader_info|json)\.id", bind("master"), "id"),
    Rule(r"uuid", uuid16, "id"),
    Rule(r"executor_pid", name("os_pid"), "id of a process"),
    # Addresses
    Rule(r"flags\.\w+", same_type, "how this master or agent was started"),
    Rule(r"(master_info|leader_info)(\.address)?\.hostname", name("master_hostname"), "address"),
    Rule(r"master_hostname", same_type, "address, as an agent resolves it"),
    Rule(r"json\.hostname", same_type, "address, of a master or an agent"),
    Rule(r"hostname", name("hostname"), "address"),
    Rule(r"master_info\.(address\.)?ip", name("master_ip"), "address"),
    Rule(r"ip_address", name("ip"), "address"),
    Rule(r"ip", name("ip"), "address"),
    Rule(r"port", name("port"), "address"),
    Rule(r"pid", address, "address"),
    Rule(r"leader", address, "address"),
    Rule(r"headers\.Location", address, "address"),
    Rule(r"env\.(MESOS_AGENT_ENDPOINT|MESOS_SLAVE_PID)", address, "address"),
    # What was built and where it runs
    Rule(r"version", version, "version"),
    Rule(r"build_(date|user|time)", same_type, "version"),
    Rule(r"git_(sha|branch|tag)", same_type, "version"),
    Rule(r"env\.(MESOS_DIRECTORY|MESOS_SANDBOX)", same_type, "path of the machine"),
    Rule(r"executor_info\.command\.(value|arguments\[\])", launcher, "path of the machine"),
    Rule(r"directory", same_type, "path of the machine"),
    Rule(r"flags\[\]\.value", same_type, "how this master or agent was started"),
    Rule(r"cluster", same_type, "how this master was started"),
    # Measured amounts
    Rule(r"json\.(master|slave)/\w+", same_type, "a measurement; the name and type count"),
    Rule(r"metrics\[\]\.value", same_type, "a measurement; the name and type count"),
    # A length follows from the ids in the body; `compare` demands that it is the true length.
    Rule(r"headers\.Content-Length", digits, "follows from the body"),
)

SUBSET_BY: dict[str, tuple[str, ...]] = {
    # Lists that also hold what others did before us: every recorded entry must be there.
    "frameworks": ("framework_info.id.value", "id", "value", ""),
    "completed_frameworks": ("framework_info.id.value", "id"),
    "unregistered_frameworks": ("",),
    "tasks": ("task_id.value", "id"),
    "completed_tasks": ("task_id.value", "id"),
    "unreachable_tasks": ("task_id.value", "id"),
    "executors": ("executor_info.executor_id.value", "executor_id", "id"),
    "completed_executors": ("executor_info.executor_id.value", "executor_id", "id"),
    "terminated_tasks": ("task_id.value", "id"),
    "launched_tasks": ("task_id.value", "id"),
    "metrics": ("name",),
    "flags": ("name",),
}
"""Lists compared as keyed sets (path of the key; the first one that exists), extra entries allowed:
they are the history of other frameworks, metrics and flags that we do not read."""

UNORDERED_BY: dict[str, str] = {
    "resources": "name",
    "total_resources": "name",
    "allocated_resources": "name",
    "offered_resources": "name",
    "unreserved_resources": "name",
    "roles": "name",
}
"""Lists compared as keyed sets without extra entries: their order carries no meaning."""


OPTIONAL = frozenset({"response.json.cluster"})
"""Fields that a master has only if it was started with the flag: a cluster need not have a name."""


def may_have_more(path: str, recorded: Mapping[str, Any]) -> bool:
    """Objects in which the live side may have more names: flags and metrics we do not read."""
    measured = bool(recorded) and all(key.startswith(("master/", "slave/")) for key in recorded)
    return measured or path.endswith(".flags")
