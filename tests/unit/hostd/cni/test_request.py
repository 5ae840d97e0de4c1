"""What is understood of a call, and that whatever is not becomes an error in CNI's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.hostd.cni.model import VERSIONS, Call, CniError, Code, Command
from services.hostd.cni.request import Ask, mac_of, parse, routes_of, spec_of, unframe
from services.hostd.model import AttachmentSpec, Owner

MESOS = Path(__file__).parent / "mesos"
ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/var/run/netns/c1",
    "CNI_PATH": "/opt/cni/bin",
}


def frame(conf: object, plugin: str = "gantry", **env: str) -> bytes:
    """As the shim sends it."""
    said = {"GANTRY_PLUGIN": plugin, **ENV, **env}
    head = b"".join(f"{name}={value}".encode() + b"\0" for name, value in said.items())
    return head + b"\0" + (conf if isinstance(conf, bytes) else orjson.dumps(conf))


def ask(conf: object, plugin: str = "gantry", **env: str) -> Ask:
    """A call, understood."""
    return parse(unframe(frame(conf, plugin, **env)))


def conf(**more: Any) -> dict[str, Any]:
    """A configuration of the network red."""
    return {"cniVersion": "1.1.0", "name": "red", "type": "gantry", **more}


def code(*arguments: Any, **env: str) -> tuple[int, str]:
    """The error that a call leads to."""
    with pytest.raises(CniError) as raised:
        asked = ask(*arguments, **env)
        spec_of(asked), mac_of(asked), routes_of(asked)
    return int(raised.value.code), str(raised.value)


def test_the_environment_and_the_configuration_are_understood() -> None:
    asked = ask(conf(network="blue"), "gantry", CNI_ARGS="IP=10.0.0.7/24;K8S_POD_NAME=web")
    assert (asked.command, asked.key, asked.netns) == (
        Command.ADD, ("c1", "eth0"), "/var/run/netns/c1",
    )  # fmt: skip
    expected = AttachmentSpec(network="blue", instance="c1", ip="10.0.0.7", owner=Owner.CNI)
    assert spec_of(asked) == expected
    assert not asked.call.is_ipam and asked.delegate == ""
    assert ask(conf()).network == "red"


def test_an_ipam_plugin_looks_at_its_own_section() -> None:
    section = {"type": "gantry-ipam", "network": "blue", "defaultRoute": False}
    asked = ask(conf(type="bridge", ipam=section), "gantry-ipam")
    assert asked.call.is_ipam and asked.delegate == ""
    assert (asked.network, routes_of(asked)) == ("blue", (False, ()))
    mine = ask(conf(ipam={"type": "gantry-ipam", "network": "blue"}))
    assert (mine.network, mine.delegate) == ("blue", "")
    other = ask(conf(ipam={"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}]}))
    assert other.delegate == "host-local"


@pytest.mark.parametrize(
    ("more", "args", "expected"),
    [
        ({"runtimeConfig": {"ips": ["10.0.0.1/24"]}, "args": {"cni": {"ips": ["10.0.0.2"]}}},
         "IP=10.0.0.3", "10.0.0.1"),
        ({"args": {"cni": {"ips": ["10.0.0.2"]}}}, "IP=10.0.0.3", "10.0.0.2"),
        ({}, "IP=10.0.0.3/16", "10.0.0.3"),
        ({"runtimeConfig": None, "args": {"cni": None}}, "", None),
    ],
)  # fmt: skip
def test_who_may_ask_for_an_address(more: dict[str, Any], args: str, expected: str | None) -> None:
    assert spec_of(ask(conf(**more), CNI_ARGS=args)).ip == expected


def test_macs() -> None:
    for more, args in (
        ({"runtimeConfig": {"mac": "02:AA:00:00:00:01"}}, "MAC=02:bb:00:00:00:01"),
        ({"args": {"cni": {"mac": "02:aa:00:00:00:01"}}}, "MAC=02:bb:00:00:00:01"),
        ({}, "MAC=02:aa:00:00:00:01"),
    ):
        assert mac_of(ask(conf(**more), CNI_ARGS=args)) == "02:aa:00:00:00:01"
    assert mac_of(ask(conf())) is None
    for wrong in ("01:00:5e:00:00:01", "00:00:00:00:00:00", "02:aa", "ff:ff:ff:ff:ff:ff"):
        assert code(conf(runtimeConfig={"mac": wrong}))[0] == Code.CONFIG


def test_mesos_tasks_say_whose_the_address_is() -> None:
    task = spec_of(ask((MESOS / "task.json").read_bytes()))
    assert (task.instance, task.sticky_key, task.ip) == ("shop-web-7", "shop/web/7", None)
    assert spec_of(ask((MESOS / "bare.json").read_bytes())).instance == "c1"
    assert spec_of(ask((MESOS / "fixed.json").read_bytes())).ip == "10.88.0.77"
    said = ask((MESOS / "bare.json").read_bytes(), CNI_ARGS="GANTRY_INSTANCE=shop-web-8")
    assert spec_of(said).instance == "shop-web-8"


def test_the_environment_is_the_tasks_or_the_configurations() -> None:
    assert spec_of(ask(conf())).environment == ""
    assert spec_of(ask(conf(environment="lab"))).environment == "lab"
    said = ask(conf(environment="lab"), CNI_ARGS="GANTRY_ENVIRONMENT=dev")
    assert spec_of(said).environment == "dev"
    labels = [{"key": "gantry.environment", "value": "dev"}]
    assert spec_of(ask(conf(args={"cni": {"labels": labels}}))).environment == "dev"
    section = {"type": "gantry-ipam", "environment": "lab"}
    assert spec_of(ask(conf(type="bridge", ipam=section), "gantry-ipam")).environment == "lab"


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"CNI_COMMAND": ""}, "CNI_COMMAND"),
        ({"CNI_COMMAND": "PUT"}, "CNI_COMMAND"),
        ({"CNI_CONTAINERID": ""}, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "../c1"}, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": ""}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a/b"}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "sixteen-letters-"}, "CNI_IFNAME"),
        ({"CNI_NETNS": ""}, "CNI_NETNS"),
        ({"CNI_NETNS": "netns"}, "CNI_NETNS"),
        ({"CNI_ARGS": "IP"}, "CNI_ARGS"),
    ],
)
def test_errors_name_the_variable(env: dict[str, str], name: str) -> None:
    number, text = code(conf(), **env)
    assert number == Code.ENVIRONMENT and name in text


def test_what_needs_no_namespace() -> None:
    assert ask(conf(), CNI_COMMAND="DEL", CNI_NETNS="").netns == ""
    for command in ("GC", "STATUS"):
        assert ask(conf(), CNI_COMMAND=command, CNI_CONTAINERID="", CNI_NETNS="").container == ""
    assert ask(b"", CNI_COMMAND="VERSION", CNI_CONTAINERID="").command is Command.VERSION


@pytest.mark.parametrize(
    ("said", "number", "what"),
    [
        (b"", Code.DECODE, "not JSON"),
        (b"[1]", Code.DECODE, "not a JSON object"),
        ({"cniVersion": "1.1.0"}, Code.CONFIG, "name"),
        (conf(name="../red"), Code.CONFIG, "name"),
        (conf(mtu=12), Code.CONFIG, "mtu"),
        (conf(vlan=4095), Code.CONFIG, "vlan"),
        (conf(network="x" * 70), Code.CONFIG, "network"),
        (conf(ipam={"type": "../evil"}), Code.CONFIG, "ipam.type"),
        (conf(runtimeConfig={"ips": ["10.0.0.1", "10.0.0.2"]}), Code.CONFIG, "more than one"),
        (conf(runtimeConfig={"ips": ["none"]}), Code.CONFIG, "none"),
        (conf(routes=[{"dst": "10.0.0.1/8"}]), Code.CONFIG, "route"),
        (conf(routes=[{"dst": "0.0.0.0/0"}]), Code.CONFIG, "defaultRoute"),
        (conf(routes=[{"dst": "10.0.0.0/8", "gw": "fd00::1"}]), Code.CONFIG, "route"),
        (conf(routes=[{"dst": "fd00::/8"}]), Code.CONFIG, "route"),
        (conf(prevResult=7), Code.CONFIG, "prevResult"),
        (conf(prevResult={"ips": 7}), Code.CONFIG, "ips"),
        (conf(prevResult={"interfaces": ["eth0"]}), Code.CONFIG, "interfaces"),
        (conf(cniVersion="2.0.0"), Code.VERSION, "2.0.0"),
        (conf(cniVersion=7), Code.VERSION, "7"),
    ],
)  # fmt: skip
def test_errors_name_the_field(said: object, number: Code, what: str) -> None:
    got, text = code(said)
    assert got == number and what in text


def test_commands_and_the_versions_that_have_them() -> None:
    first = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
    for command in Command:
        for version in VERSIONS:
            said = conf(cniVersion=version)
            if VERSIONS.index(version) >= VERSIONS.index(first.get(command, VERSIONS[0])):
                assert ask(said, CNI_COMMAND=command).conf.version == version
            else:
                assert code(said, CNI_COMMAND=command)[0] == Code.VERSION
    assert ask({"name": "red"}).conf.version == "0.1.0"


def test_which_attachments_are_valid() -> None:
    listed = [{"containerID": "c1", "ifname": "eth0"}]
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        (one,) = ask(conf(**{key: listed}), CNI_COMMAND="GC").conf.valid or ()
        assert (one.container, one.ifname) == ("c1", "eth0")
    assert ask(conf(), CNI_COMMAND="GC").conf.valid is None
    assert ask(conf(**{"cni.dev/valid-attachments": None}), CNI_COMMAND="GC").conf.valid is None
    assert ask(conf(**{"cni.dev/valid-attachments": []}), CNI_COMMAND="GC").conf.valid == ()


def test_names_of_our_fields_are_no_keys_of_the_configuration() -> None:
    asked = ask(conf(valid=7, prev=8, runtime=9, version="x", default_route="maybe"))
    assert (asked.conf.valid, asked.conf.prev, asked.conf.default_route) == (None, None, True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
KEYS = [
    *("cniVersion", "name", "network", "vlan", "mtu", "routes", "ipam", "dns", "args"),
    *("runtimeConfig", "prevResult", "cni.dev/valid-attachments", "defaultRoute"),
]


@given(
    st.dictionaries(st.sampled_from(KEYS), JSON), st.sampled_from([*Command, "X"]), st.booleans()
)
def test_any_configuration_is_understood_or_an_error(
    said: dict[str, Any], command: str, named: bool
) -> None:
    if named:
        said = {"cniVersion": "1.1.0", "name": "red"} | {
            key: value for key, value in said.items() if key not in ("cniVersion", "name")
        }
    try:
        asked = ask(json.dumps(said).encode(), CNI_COMMAND=command)
        spec_of(asked), mac_of(asked), routes_of(asked)
    except CniError as error:
        assert error.msg and 1 <= error.code < 200


@given(st.binary(max_size=200))
def test_any_bytes_are_a_call_or_an_error(body: bytes) -> None:
    try:
        parse(unframe(body))
    except CniError as error:
        assert error.msg


@given(st.dictionaries(st.sampled_from([*ENV, "CNI_ARGS"]), st.text(max_size=30)))
def test_any_environment_is_understood_or_an_error(env: dict[str, str]) -> None:
    try:
        parse(Call("gantry", {**ENV, **env}, orjson.dumps(conf())))
    except CniError as error:
        assert error.code == Code.ENVIRONMENT
