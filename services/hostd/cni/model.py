"""The words of CNI: commands, versions, error codes, a call as the shim forwards it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from libs.common.errors import (
    Conflict,
    GantryError,
    InvalidInput,
    NotFound,
    TooMany,
    Unavailable,
)
from services.hostd.model import Hop

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
UNSAID = "0.1.0"  # of a configuration that names no version
LATEST = VERSIONS[-1]
PLUGIN_KEY = "GANTRY_PLUGIN"  # by which the shim says under which name it was called
IPAM_SUFFIX = "-ipam"


class Command(StrEnum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


SINCE: Mapping[Command, str] = {
    Command.CHECK: "0.4.0",
    Command.GC: "1.1.0",
    Command.STATUS: "1.1.0",
}
"""The first version that has a command, where it is not the first of all."""


class Code(IntEnum):
    """What went wrong; 100 and above are our own."""

    VERSION = 1
    UNKNOWN_CONTAINER = 3
    ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    CONFIG = 7
    TRY_AGAIN = 11
    UNAVAILABLE = 50
    LIMITED = 51  # as 50, and those that are there may not be reachable
    REFUSED = 100
    BROKEN = 101  # a CHECK found something missing
    PLUGIN = 102  # another plugin failed in a way that CNI has no words for


NEVER = frozenset({Code.VERSION, Code.ENVIRONMENT, Code.DECODE, Code.CONFIG})
"""With these the same call fails whenever it is repeated."""


class CniError(GantryError):
    """An answer that is not a result; `details` may be longer."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        self.code = code
        self.msg = msg
        self.details = details
        super().__init__(f"{msg}: {details}" if details else msg)


def as_cni(error: GantryError) -> CniError:
    """The same trouble in CNI's words."""
    if isinstance(error, CniError):
        return error
    codes = (
        (InvalidInput, Code.CONFIG, "the network configuration can't be used"),
        (NotFound, Code.CONFIG, "the network configuration names what is not there"),
        (TooMany, Code.TRY_AGAIN, "no address is free"),
        (Conflict, Code.REFUSED, "it is taken"),
        (Unavailable, Code.TRY_AGAIN, "it can't be done now"),
    )
    for kind, code, msg in codes:
        if isinstance(error, kind):
            return CniError(code, msg, str(error))
    return CniError(Code.REFUSED, "it was refused", str(error))


@dataclass(frozen=True, slots=True)
class Call:
    """One run of the shim: under which name, with which CNI_* variables and which standard input."""

    plugin: str
    env: Mapping[str, str]
    stdin: bytes

    @property
    def is_ipam(self) -> bool:
        """Was it called as an IPAM plugin, by another plugin."""
        return self.plugin.endswith(IPAM_SUFFIX)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the shim prints on stdout, and whether it exits with 0."""

    ok: bool
    stdout: bytes = b""


@dataclass(frozen=True, slots=True)
class Ip:
    """An address with its prefix length, and the gateway of its network. `interface`: index among a result's."""

    address: str
    gateway: str | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface in a result; without a sandbox it is on the host."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What an ADD made, in no version's form."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[Hop, ...] = ()
    dns: Mapping[str, object] = field(default_factory=dict)
