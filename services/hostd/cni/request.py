"""What a call asks for: the frame of the shim, the environment, the network configuration. No I/O.

A configuration may say more than is known here: runtimes and other plugins have their own keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from services.hostd.cni.model import (
    IPAM_SUFFIX,
    PLUGIN_KEY,
    SINCE,
    UNSAID,
    VERSIONS,
    Call,
    CniError,
    Code,
    Command,
)
from services.hostd.model import CONTAINER, IFNAME, AttachmentSpec, Hop, Owner

MAC = re.compile(r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$")
GROUP_BIT = 0x01
M = TypeVar("M", bound=BaseModel)

LABELS = {
    "gantry.instance": "instance",
    "gantry.attempt": "attempt",
    "gantry.sticky_key": "sticky_key",
    "gantry.environment": "environment",
}
"""Labels by which a task says whose its address is; in CNI_ARGS: GANTRY_INSTANCE and so on."""


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if each is not None}
    return value


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


def _said(model: type[_Said]) -> Any:
    return Field(default_factory=model)


class Label(_Said):
    """One label of a task; Mesos allows one without a value."""

    key: str
    value: str = ""


class _Labels(_Said):
    labels: tuple[Annotated[Label, BeforeValidator(_without_nulls)], ...] = ()


class _Requested(_Said):
    ip_address: str = ""


class NetworkInfo(_Said):
    """Mesos' NetworkInfo, as its network/cni isolator hands it over."""

    labels: Annotated[_Labels, BeforeValidator(_without_nulls)] = _said(_Labels)
    ip_addresses: tuple[Annotated[_Requested, BeforeValidator(_without_nulls)], ...] = ()


class _Mesos(_Said):
    network_info: Annotated[NetworkInfo, BeforeValidator(_without_nulls)] = _said(NetworkInfo)


class _CniArgs(_Said):
    ips: tuple[str, ...] = ()
    mac: str = ""
    labels: tuple[Label, ...] = ()


class _Args(_Said):
    cni: Annotated[_CniArgs, BeforeValidator(_without_nulls)] = _said(_CniArgs)
    mesos: Annotated[_Mesos, BeforeValidator(_without_nulls)] = Field(
        default_factory=_Mesos, alias="org.apache.mesos"
    )


class _Runtime(_Said):
    ips: tuple[str, ...] = ()
    mac: str = ""


class _Routes(_Said):
    """Which routes go with an address: the default one, and others."""

    default_route: bool = Field(True, alias="defaultRoute")
    routes: tuple[Annotated[Hop, BeforeValidator(_without_nulls)], ...] = ()


class _Ipam(_Routes):
    type: str = Field("", pattern=r"^[^/]*$")
    network: str = ""
    environment: str = ""


class _Prev(_Said):
    """As much of a previous result's form as is relied upon."""

    interfaces: tuple[dict[str, Any], ...] = ()
    ips: tuple[dict[str, Any], ...] = ()
    routes: tuple[dict[str, Any], ...] = ()


def _like_a_result(value: dict[str, Any] | None) -> dict[str, Any] | None:
    if value is not None:
        _Prev.model_validate(_without_nulls(value))
    return value


class Valid(_Said):
    """An attachment that a GC must leave alone."""

    container: str = Field(alias="containerID")
    ifname: str


class Conf(_Routes):
    """A network configuration. Raises ValidationError for what can't be used."""

    version: str = Field(UNSAID, alias="cniVersion")
    name: str = Field(pattern=NAME.pattern)
    network: str = Field("", description="Gantry's name of the network; default: the conf's name")
    environment: str = Field("", description="what its containers belong to, unless they say so")
    vlan: int | None = Field(None, ge=1, le=4094, description="only with another IPAM plugin")
    mtu: int | None = Field(None, ge=576, le=9000)
    ipam: Annotated[_Ipam, BeforeValidator(_without_nulls)] = _said(_Ipam)
    dns: dict[str, Any] = Field(default_factory=dict)
    args: Annotated[_Args, BeforeValidator(_without_nulls)] = _said(_Args)
    runtime: Annotated[_Runtime, BeforeValidator(_without_nulls)] = Field(
        default_factory=_Runtime, alias="runtimeConfig"
    )
    prev: Annotated[dict[str, Any] | None, AfterValidator(_like_a_result)] = Field(
        None, alias="prevResult"
    )
    valid: tuple[Valid, ...] | None = Field(None, alias="cni.dev/valid-attachments")


# The specification's first text of 1.1.0 had it under this name, and libcni sends both.
_OLD_VALID, _VALID = "cni.dev/attachments", "cni.dev/valid-attachments"


@dataclass(frozen=True, slots=True)
class Ask:
    """A call that was understood. `container` and `ifname` are empty where the command has none."""

    call: Call
    command: Command
    conf: Conf
    raw: Mapping[str, Any]  # the configuration as it came, for other plugins
    container: str = ""
    ifname: str = ""
    netns: str = ""
    args: Mapping[str, str] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What the attachment is found by."""
        return self.container, self.ifname

    @property
    def delegate(self) -> str:
        """The IPAM plugin that gives the address, "" when that is ours."""
        own = ("", f"{self.call.plugin}{IPAM_SUFFIX}", f"gantry{IPAM_SUFFIX}")
        return "" if self.call.is_ipam or self.conf.ipam.type in own else self.conf.ipam.type

    @property
    def network(self) -> str:
        """The network in Gantry's words."""
        section = self.conf.ipam.network if not self.delegate else ""
        return section or self.conf.network or self.conf.name

    @property
    def environment(self) -> str:
        """What the container belongs to by the configuration, "" when that does not say."""
        section = self.conf.ipam.environment if not self.delegate else ""
        return section or self.conf.environment


def unframe(body: bytes) -> Call:
    """What the shim sends: `NAME=value` each ended by NUL, an empty one, and then its standard input.

    Raises CniError (IO) when it is cut short.
    """
    head, end, stdin = body.partition(b"\0\0")
    if not end:
        raise CniError(Code.IO, "the call is cut short")
    env = {}
    for each in head.split(b"\0"):
        name, _, value = each.decode(errors="surrogateescape").partition("=")
        env[name] = value
    return Call(env.pop(PLUGIN_KEY, "gantry"), env, stdin)


def parse(call: Call) -> Ask:
    """Understand a call. Raises CniError naming what is wrong."""
    try:
        command = Command(call.env.get("CNI_COMMAND", ""))
    except ValueError:
        raise _bad_env("CNI_COMMAND", f"one of {', '.join(Command)}") from None
    if command is Command.VERSION:
        raw = _decode(call.stdin or b"{}")
        return Ask(call, command, _conf({**raw, "name": "version"}), raw)
    raw = _decode(call.stdin)
    version = _version(raw)
    if version not in VERSIONS:
        raise CniError(
            Code.VERSION, "incompatible CNI version", f"{version!r} is not {', '.join(VERSIONS)}"
        )
    if VERSIONS.index(version) < VERSIONS.index(SINCE.get(command, UNSAID)):
        raise CniError(Code.VERSION, "incompatible CNI version", f"{version} has no {command}")
    ask = Ask(call, command, _conf(raw), raw)
    if command in (Command.GC, Command.STATUS):
        return ask
    return _with_attachment(ask)


def _decode(stdin: bytes) -> Mapping[str, Any]:
    try:
        raw = orjson.loads(stdin)
    except ValueError as error:
        raise CniError(Code.DECODE, "the network configuration is not JSON", str(error)) from None
    if not isinstance(raw, dict):
        raise CniError(Code.DECODE, "the network configuration is not a JSON object")
    return raw


def _version(raw: Mapping[str, Any]) -> str:
    return str(raw.get("cniVersion") or UNSAID)


def _conf(raw: Mapping[str, Any]) -> Conf:
    said = {key: value for key, value in raw.items() if value is not None}
    said.setdefault(_VALID, said.get(_OLD_VALID))
    said["cniVersion"] = _version(raw)
    return checked(Conf, said)


def checked(model: type[M], values: Mapping[str, Any]) -> M:
    """The values as a model. Raises CniError (CONFIG) naming each wrong field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
            for each in error.errors()
        )
        raise CniError(Code.CONFIG, "the network configuration can't be used", wrong) from None


def _bad_env(name: str, expected: str) -> CniError:
    return CniError(Code.ENVIRONMENT, f"{name} is missing or wrong", f"expected {expected}")


def _with_attachment(ask: Ask) -> Ask:
    env = ask.call.env
    container, ifname = env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", "")
    if CONTAINER.fullmatch(container) is None:
        raise _bad_env("CNI_CONTAINERID", "letters, digits, . _ -")
    if IFNAME.fullmatch(ifname) is None:
        raise _bad_env("CNI_IFNAME", "a name such as eth0, of at most 15 characters")
    netns = env.get("CNI_NETNS", "")
    if ask.command is not Command.DEL and not netns.startswith("/"):
        raise _bad_env("CNI_NETNS", "the path of a network namespace")
    args = _args(env.get("CNI_ARGS", ""))
    return replace(ask, container=container, ifname=ifname, netns=netns, args=args)


def _args(text: str) -> dict[str, str]:
    found = {}
    for pair in filter(None, text.split(";")):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise _bad_env("CNI_ARGS", "NAME=value;NAME=value")
        found[name] = value
    return found


# -- wishes ----------------------------------------------------------------------------------------


def spec_of(ask: Ask) -> AttachmentSpec:
    """What hostd is asked for. Raises CniError (CONFIG)."""
    labels = _labels(ask)
    values: dict[str, Any] = {
        "network": ask.network,
        "instance": ask.container,
        "mtu": ask.conf.mtu,
        "environment": ask.environment,
        "owner": Owner.CNI,
        **{field: labels[key] for key, field in LABELS.items() if labels.get(key)},
    }
    if not ask.delegate:
        values["ip"] = _ip(ask)
    return checked(AttachmentSpec, values)


def _labels(ask: Ask) -> dict[str, str]:
    args = ask.conf.args
    found = {
        f"gantry.{name.removeprefix('GANTRY_').lower()}": value
        for name, value in (ask.args or {}).items()
        if name.startswith("GANTRY_")
    }
    said = (*args.cni.labels, *args.mesos.network_info.labels.labels)
    return found | {each.key: each.value for each in said}


def _ip(ask: Ask) -> str | None:
    """The address that is asked for: the first of the ways to ask in which there is one."""
    conf, args = ask.conf, ask.args or {}
    requested = conf.args.mesos.network_info.ip_addresses
    ways = (
        conf.runtime.ips,
        conf.args.cni.ips,
        tuple(each.ip_address for each in requested if each.ip_address),
        tuple(filter(None, (args.get("IP"),))),
    )
    wanted = next(filter(None, ways), ())
    if len(wanted) > 1:
        raise CniError(Code.CONFIG, "more than one address is asked for", ", ".join(wanted))
    try:
        return str(ip_interface(wanted[0]).ip) if wanted else None
    except ValueError as error:
        raise CniError(Code.CONFIG, "the address asked for is none", str(error)) from None


def mac_of(ask: Ask) -> str | None:
    """The MAC that is asked for. Raises CniError (CONFIG) when it is none that an interface can have."""
    conf = ask.conf
    mac = (conf.runtime.mac or conf.args.cni.mac or (ask.args or {}).get("MAC", "")).lower()
    if not mac:
        return None
    if (
        MAC.fullmatch(mac) is None
        or int(mac[:2], 16) & GROUP_BIT
        or not int(mac.replace(":", ""), 16)
    ):
        raise CniError(Code.CONFIG, "the MAC asked for is none", mac)
    return mac


def routes_of(ask: Ask) -> tuple[bool, tuple[Hop, ...]]:
    """Whether the default route goes with the address, and which others. Raises CniError (CONFIG)."""
    section = ask.conf.ipam if ask.call.is_ipam else ask.conf
    for each in section.routes:
        try:
            network, gateway = ip_network(each.dst), ip_address(each.gw) if each.gw else None
        except ValueError as error:
            raise CniError(Code.CONFIG, "a route can't be used", str(error)) from None
        if network.prefixlen == 0:
            raise CniError(Code.CONFIG, "a route can't be used", "see defaultRoute for that one")
        if network.version != 4 and not ask.call.is_ipam:
            raise CniError(Code.CONFIG, "a route can't be used", f"{network} is not of IPv4")
        if gateway is not None and gateway.version != network.version:
            raise CniError(Code.CONFIG, "a route can't be used", f"{gateway} to {network}")
    return section.default_route, section.routes
