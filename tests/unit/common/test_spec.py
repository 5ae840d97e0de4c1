"""App specs: each field wrong in turn is refused and named; amounts resolve so that a roll can always move."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from libs.common.problems import invalid
from libs.common.spec import AppSpec, InstanceSpec, Strategy, budget_of

GOOD: dict[str, Any] = {
    "image": "registry.example:5000/team/web:1.2",
    "instances": 3,
    "network": "blue",
    "resources": {"cpus": 0.5, "mem_mib": 64, "disk_mib": 10, "pids": 64},
    "class": "thin",
    "command": ["/bin/web", "--port", "80"],
    "user": "www:www",
    "env": {"PORT": "80"},
    "labels": {"team.example/name": "x"},
    "health": [{"type": "http", "port": 80, "path": "/healthz"}],
    "strategy": {"max_surge": "25%", "max_unavailable": 1},
    "constraints": [{"attribute": "hostname", "operator": "UNIQUE"}],
    "load_balancer": {"driver": "haproxy", "backend": "web", "port": 80},
    "stop_grace_s": 5,
    "keep_address": False,
}

# The dotted field that must be named, the path of the change, the wrong value.
WRONG: list[tuple[str, Any]] = [
    *(("image", value) for value in (None, 7, "", "UPPER/case", "a b", "web:", "web\n", "web@sha256:12")),
    *(("instances", value) for value in (-1, 10_001, 1.5, "many", None)),
    *(("network", value) for value in ("", "Blue", "-x", "x" * 41, "a_b", None, "blue\n")),
    *(("resources.cpus", value) for value in (0, -1, 257, "fast", float("nan"))),
    *(("resources.mem_mib", value) for value in (0, 3, 4_194_305, 1.5)),
    *(("resources.disk_mib", value) for value in (-1, "big")),
    *(("resources.pids", value) for value in (0, -5)),
    ("resources", 7),
    ("resources.gpu", 1),
    ("class", "huge"),
    ("command", "not a list"),
    ("command", [1]),
    ("user", "a b"),
    ("user", "root; rm"),
    ("env", {"1A": "x"}),
    ("env", {"A-B": "x"}),
    ("env", {"A\n": "x"}),
    ("env.A", 7),
    ("labels.a", None),
    *(("health.0.port", value) for value in (0, 65536, "http")),
    ("health.0.path", "no-slash"),
    ("health.0.type", "ping"),
    ("health.0.interval_s", 0),
    ("health.0.timeout_s", 0),
    ("health.0.grace_s", -1),
    ("health.0.max_consecutive_failures", 0),
    ("health.0", {"type": "tcp"}),
    ("health.0", {"type": "command"}),
    ("health", {"type": "tcp"}),
    *(("strategy.max_surge", value) for value in (-1, "101%", "x", "%", "-5%", 1.5)),
    *(("strategy.max_unavailable", value) for value in (-1, "200%")),
    ("strategy", {"max_surge": 0, "max_unavailable": 0}),
    ("strategy", {"max_surge": "0%", "max_unavailable": "0%"}),
    ("strategy.type", "big-bang"),
    ("strategy.min_ready_s", -1),
    ("strategy.deadline_s", 0),
    ("strategy.max_failures", -1),
    ("strategy.max_sugre", 1),
    ("constraints.0.operator", "SAME"),
    ("constraints.0.attribute", ""),
    ("constraints.0", {"attribute": "zone", "operator": "LIKE"}),
    ("constraints.0", {"attribute": "zone", "operator": "LIKE", "value": "("}),
    ("constraints.0", {"attribute": "zone", "operator": "MAX_PER", "value": "x"}),
    ("constraints.0", {"attribute": "zone", "operator": "MAX_PER", "value": "²"}),
    ("constraints.0", {"attribute": "zone", "operator": "MAX_PER", "value": "1" * 20}),
    ("constraints.0", {"attribute": "zone", "operator": "GROUP_BY", "value": "²"}),
    ("constraints.0", {"attribute": "zone", "operator": "LIKE", "value": "(?=a)"}),
    ("load_balancer.driver", "f5"),
    ("load_balancer", {"driver": "haproxy"}),
    ("load_balancer.port", 0),
    ("load_balancer.drain_s", -1),
    ("stop_grace_s", -1),
    ("stop_grace_s", 3601),
    ("keep_address", "perhaps"),
    ("instancse", 3),
    ("env", "A=1"),
    ("labels", ["a"]),
    ("network_options.mtu", 100),
    ("network_options.bandwidth.egress_kbit", 1),
    ("network_options.bandwidth.ingress_kbit", "much"),
    ("secrets.0.name", "No Name"),
    ("secrets.0.env", "1A"),
    ("secrets.0.file", "/etc/hosts"),
    ("constraints.0.value", 7),
    ("spread", ["zone", ""]),
    ("spread", "zone"),
    ("apart_from", ["No Name"]),
    ("priority", 101),
    ("environment", "No Name"),
    ("health.0.command", "check"),
    ("strategy.auto_rollback", "perhaps"),
    ("disruption_budget", "101%"),
    ("unreachable.replace_after_s", -1),
    ("unreachable.keep", "both"),
    ("load_balancer.backend", "x" * 201),
    ("load_balancer.deadline_s", 0),
    ("address.reservation", "No Name"),
    ("address.requested", "10.0.0"),
]  # fmt: skip


def leaves(schema: Mapping[str, Any], defs: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted paths of all fields that have no fields of their own."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    kinds = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if len(kinds) == 1:
        yield from leaves(kinds[0], defs, path)
    elif "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from leaves(inner, defs, f"{path}.{name}".removeprefix("."))
    elif "$ref" in schema.get("items", {}):
        yield from leaves(schema["items"], defs, f"{path}.0")
    else:
        yield path


def leaves_without(wrong: Iterable[str]) -> set[str]:
    """The fields of an app's spec of which there is no wrong value at these paths."""
    schema = AppSpec.model_json_schema()
    paths = set(wrong)
    found = set(leaves(schema, schema["$defs"]))
    assert {"image", "network_options.bandwidth.egress_kbit", "secrets.0.name"} <= found
    return {each for each in found if not any(f"{path}.".startswith(f"{each}.") for path in paths)}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one field at a dotted path set."""

    def put(content: Any, names: list[str]) -> Any:
        if not names:
            return value
        if isinstance(content, list):
            at = int(names[0])
            return [put(each, names[1:]) if n == at else each for n, each in enumerate(content)]
        return {**(content or {}), names[0]: put((content or {}).get(names[0]), names[1:])}

    made: dict[str, Any] = put({**GOOD, "secrets": REFS[:1]}, path.split("."))
    return made


def test_the_good_one_is_taken_and_comes_back_as_it_was() -> None:
    spec = AppSpec.model_validate(GOOD)
    again = AppSpec.model_validate_json(spec.model_dump_json(by_alias=True))
    assert again == spec
    assert AppSpec.model_validate({"image": "web", "network": "blue"}).instances == 1


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda each: str(each)[:40])
def test_each_wrong_field_is_named(path: str, value: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        AppSpec.model_validate(changed(path, value))
    problems = invalid(raised.value).problems
    assert any(each.field == path or each.field.startswith(f"{path}.") for each in problems)
    assert all(each.problem and each.expected for each in problems)


@pytest.mark.parametrize(
    ("path", "value", "problem", "expected"),
    [
        ("disruption_budget", -1, "must be 0 or more", "0 or more"),
        ("image", "a b", "not an image reference", "e.g. registry.example:5000/team/web:1.2"),
        (
            "load_balancer",
            {"driver": "haproxy"},
            "driver haproxy needs `port`, 1 to 65535",
            "needs `port`, 1 to 65535",
        ),
        ("keep_address", "perhaps", None, "true or false"),
        ("instances", 10_001, None, "le 10000"),
    ],
)
def test_what_would_be_right_is_said(
    path: str, value: Any, problem: str | None, expected: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        AppSpec.model_validate(changed(path, value))
    (found,) = invalid(raised.value).problems
    assert found.expected == expected and problem in (None, found.problem)


def test_there_is_a_wrong_value_of_each_field() -> None:
    assert leaves_without(path for path, _ in WRONG) == set()


@pytest.mark.parametrize("field", ["image", "network"])
def test_what_is_needed_is_said(field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        AppSpec.model_validate({name: value for name, value in GOOD.items() if name != field})
    assert [(each.field, each.expected) for each in invalid(raised.value).problems] == [
        (field, "it is required")
    ]


@pytest.mark.parametrize(
    "image",
    [
        "web",
        "web:1.2",
        "team/web",
        "localhost:5000/web",
        "registry.example/a/b/c:v1_2.3-x",
        "web@sha256:" + "0" * 64,
        "registry.example:5000/team/web:1.2@sha256:" + "f" * 64,
    ],
)
def test_images_that_are_good(image: str) -> None:
    assert AppSpec.model_validate(changed("image", image)).image == image


AMOUNTS = st.one_of(st.integers(0, 50), st.integers(0, 100).map(lambda n: f"{n}%"))


@given(surge=AMOUNTS, unavailable=AMOUNTS, wanted=st.integers(1, 500))
def test_a_roll_can_always_move(surge: int | str, unavailable: int | str, wanted: int) -> None:
    try:
        strategy = Strategy(max_surge=surge, max_unavailable=unavailable)
    except ValidationError:
        assert {surge, unavailable} <= {0, "0%"}
        return
    above, missing = strategy.surge(wanted), strategy.unavailable(wanted)
    assert above >= 0 and missing >= 0 and above + missing > 0
    if isinstance(surge, str):
        assert above <= wanted
    if isinstance(unavailable, str) and above:
        assert missing <= wanted * int(unavailable[:-1]) / 100


def test_an_instance_is_what_the_host_needs_of_the_app() -> None:
    spec = AppSpec.model_validate(GOOD)
    pinned = "registry.example:5000/team/web@sha256:" + "0" * 64
    instance = InstanceSpec.of(spec, pinned, "sticky")
    # And an address by the slot, and a budget in percent, below.
    own = {"image", "sticky_key", "registry_login", "disruption_budget_pct"}
    for name in InstanceSpec.model_fields.keys() - own:
        assert getattr(instance, name) == getattr(spec, name)
    assert (instance.image, instance.sticky_key) == (pinned, "sticky")


@pytest.mark.parametrize(
    ("said", "of_four", "of_eight"), [(0, 0, 0), (3, 3, 3), ("50%", 2, 4), ("30%", 1, 2)]
)
def test_a_budget_in_percent_is_of_what_is_wanted_by_then(
    said: int | str, of_four: int, of_eight: int
) -> None:
    spec = AppSpec.model_validate({**GOOD, "instances": 8, "disruption_budget": said})
    instance = InstanceSpec.of(spec, spec.image)
    assert instance.disruption_budget == of_eight  # what an older scheduler reads
    assert tuple(budget_of(instance.budgeted, wanted) for wanted in (4, 8)) == (of_four, of_eight)
    assert (spec.budget(4), spec.budget(8)) == (of_four, of_eight)
    assert InstanceSpec.model_validate_json(instance.model_dump_json()) == instance


REFS = [{"name": "db", "env": "DB_PASSWORD"}, {"name": "tls", "file": "/run/secrets/tls.key"}]


def test_secrets_travel_by_name() -> None:
    spec = AppSpec.model_validate({**GOOD, "secrets": REFS})
    instance = InstanceSpec.of(spec, spec.image, registry_login=True)
    assert InstanceSpec.model_validate_json(instance.model_dump_json()) == instance
    assert [(each.name, each.env, each.file) for each in instance.secrets] == [
        ("db", "DB_PASSWORD", None),
        ("tls", None, "/run/secrets/tls.key"),
    ]


def test_a_spec_without_later_fields_is_written_as_before_there_were_any() -> None:
    # Older executors refuse fields that they don't know, and adopt containers by the hash of this very text.
    spec = AppSpec.model_validate(GOOD)
    for each in (spec, InstanceSpec.of(spec, spec.image)):
        later = {"secrets", "registry_login", "address", "disruption_budget_pct"}
        assert not later & each.model_dump().keys()


def test_network_options_travel_and_are_left_out_when_there_are_none() -> None:
    plain = AppSpec.model_validate(GOOD)
    options = {"mtu": 1400, "bandwidth": {"egress_kbit": 1000}}
    spec = AppSpec.model_validate({**GOOD, "network_options": options})
    for each in (plain, InstanceSpec.of(plain, plain.image)):
        assert "network_options" not in each.model_dump()
    instance = InstanceSpec.of(spec, spec.image)
    assert InstanceSpec.model_validate_json(instance.model_dump_json()) == instance
    assert instance.network_options.model_dump(exclude_defaults=True) == options
    with pytest.raises(ValidationError, match="egress_kbit"):
        AppSpec.model_validate({**GOOD, "network_options": {"bandwidth": {"egress_kbit": 1}}})


def test_the_environment_travels_and_is_left_out_when_there_is_none() -> None:
    plain = AppSpec.model_validate(GOOD)
    spec = AppSpec.model_validate({**GOOD, "environment": "lab"})
    for each in (plain, InstanceSpec.of(plain, plain.image)):
        assert "environment" not in each.model_dump()
    instance = InstanceSpec.of(spec, spec.image)
    assert InstanceSpec.model_validate_json(instance.model_dump_json()).environment == "lab"
    for wrong in ("Lab", "a b", "x" * 41):
        with pytest.raises(ValidationError, match="environment"):
            AppSpec.model_validate({**GOOD, "environment": wrong})


@pytest.mark.parametrize(
    ("field", "refs"),
    [
        ("secrets.0", [{"name": "db"}]),
        ("secrets.0", [{"name": "db", "env": "A", "file": "/a"}]),
        ("secrets.0.name", [{"name": "No Name", "env": "A"}]),
        ("secrets.0.env", [{"name": "db", "env": "1A"}]),
        ("secrets.0.env", [{"name": "db", "env": "A\n"}]),
        ("secrets.0.file", [{"name": "db", "file": "run/secrets"}]),
        ("secrets.0.file", [{"name": "db", "file": "/run/../etc/x"}]),
        ("secrets.0.file", [{"name": "db", "file": "/"}]),
        ("secrets.0.file", [{"name": "db", "file": "/a\n"}]),
        ("secrets.0.file", [{"name": "db", "file": "/proc/1/x"}]),
        ("secrets.0.file", [{"name": "db", "file": "/etc/hosts"}]),
        ("secrets.0.value", [{"name": "db", "env": "A", "value": "x"}]),
        ("secrets", [{"name": "a", "env": "A"}, {"name": "b", "env": "A"}]),
        ("secrets", [{"name": "a", "env": "TAKEN"}]),
        ("secrets", [{"name": "a", "file": "/x"}, {"name": "b", "file": "/x"}]),
        ("secrets", [{"name": "a", "file": "/x/y"}, {"name": "b", "file": "/x"}]),
        ("secrets", [{"name": "a", "env": f"A{n}"} for n in range(33)]),
    ],
)
def test_a_wrong_secret_is_named(field: str, refs: list[dict[str, str]]) -> None:
    with pytest.raises(ValidationError) as raised:
        AppSpec.model_validate({**GOOD, "env": {"TAKEN": "1"}, "secrets": refs})
    problems = invalid(raised.value).problems
    assert {each.field for each in problems} == {field}
    assert all(each.expected for each in problems)


ALONE: dict[str, Any] = {**GOOD, "instances": 1, "strategy": {"max_surge": 0, "max_unavailable": 1}}


def test_an_instance_asks_for_its_own_slots_reservation() -> None:
    wish = {"reservation": "db-{slot}"}
    spec = AppSpec.model_validate({**ALONE, "instances": 3, "address": wish})
    third = InstanceSpec.of(spec, spec.image, slot=2)
    assert InstanceSpec.model_validate_json(third.model_dump_json()) == third
    assert third.address is not None and third.address.reservation == "db-2"
    fixed = AppSpec.model_validate({**ALONE, "address": {"requested": "FD00:0::7"}})
    only = InstanceSpec.of(fixed, fixed.image, slot=0).address
    assert only is not None and (only.requested, only.reservation) == ("fd00::7", None)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("address", {"address": {}}),
        ("address", {"address": {"reservation": "db", "requested": "10.0.0.7"}}),
        ("address.requested", {"address": {"requested": "10.0.0"}}),
        ("address.requested", {"address": {"requested": "fe80::1%eth0"}}),
        ("address.reservation", {"address": {"reservation": "No Name"}}),
        ("address.reservation", {"address": {"reservation": "{slot}" + "x" * 37}}),
        ("address.sticky", {"address": {"reservation": "db", "sticky": True}}),
        ("address", {"address": {"reservation": "db"}, "instances": 2}),
        ("address", {"address": {"requested": "10.0.0.7"}, "strategy": {"max_surge": 1}}),
        ("address", {"address": {"requested": "10.0.0.7"}, "strategy": {"max_surge": "25%"}}),
    ],
)
def test_a_wrong_wish_for_an_address_is_named(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        AppSpec.model_validate({**ALONE, **changes})
    problems = invalid(raised.value).problems
    assert [each.field for each in problems] == [field] and problems[0].expected


def test_how_long_an_instance_waits_on_a_silent_host_is_said_by_its_app() -> None:
    def patience_s(**unreachable: object) -> float:
        return AppSpec.model_validate(GOOD | {"unreachable": unreachable}).unreachable.patience_s(
            300.0
        )

    assert patience_s() == 300.0
    assert patience_s(replace_after_s=20) == 20.0
    assert patience_s(replace_after_s="never") == float("inf")
