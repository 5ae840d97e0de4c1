"""JSON to messages: canonical form and Mesos' error texts."""

from __future__ import annotations

from typing import Any

import pytest

from libs.minimesos.schema import ProtoError
from libs.minimesos.schema_calls import EXECUTOR_CALL, EXECUTOR_INFO, SCHEDULER_CALL, TASK_INFO

SUBSCRIBE: dict[str, Any] = {"framework_info": {"user": "root", "name": "x"}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "Expecting a JSON object"),
        ({"type": 1}, "Not expecting a JSON number for field 'type'"),
        (
            {"type": "SUBSCRIBE", "subscribe": {"framework_info": {"user": 5, "name": "x"}}},
            "Not expecting a JSON number for field 'user'",
        ),
        (
            {"type": "SUBSCRIBE", "subscribe": {"framework_info": {"name": "x"}}},
            "Missing required fields: subscribe.framework_info.user",
        ),
        (
            {"accept": {"offer_ids": [{"value": "o"}, {}], "filters": {}}},
            "Missing required fields: accept.offer_ids[1].value",
        ),
        (
            {"acknowledge": {"uuid": "!!not base64!!"}},
            "Failed to base64 decode bytes field 'uuid': Invalid character '!'",
        ),
        ({"subscribe": "x"}, "Not expecting a JSON string for field 'subscribe'"),
        ({"subscribe": [SUBSCRIBE]}, "Not expecting a JSON array for field 'subscribe'"),
        ({"type": {"value": 1}}, "Not expecting a JSON object for field 'type'"),
        ({"type": True}, "Not expecting a JSON boolean for field 'type'"),
    ],
)
def test_errors_are_worded_as_mesos_words_them(value: object, text: str) -> None:
    """Texts recorded from Mesos, or of the same pattern."""
    with pytest.raises(ProtoError) as caught:
        SCHEDULER_CALL.parse(value)
    assert str(caught.value) == text


def test_all_missing_fields_are_named_outer_first() -> None:
    """In declaration order."""
    with pytest.raises(ProtoError) as caught:
        EXECUTOR_CALL.parse({})
    assert str(caught.value) == "Missing required fields: executor_id, framework_id"


def test_unknown_fields_enums_and_nulls_vanish() -> None:
    """As protobuf would drop them."""
    parsed = SCHEDULER_CALL.parse({"type": "NO_SUCH", "nope": 1, "accept": None})
    assert parsed == {}
    info = {**SUBSCRIBE["framework_info"], "capabilities": [{"type": "ZZZ"}]}
    call = SCHEDULER_CALL.parse({"subscribe": {"framework_info": info}})
    assert call["subscribe"]["framework_info"]["capabilities"] == [{}]


def test_the_canonical_form_has_order_doubles_and_defaults() -> None:
    """Declaration order, floats for doubles, declared defaults filled in."""
    parsed = TASK_INFO.parse(
        {
            "command": {"value": "x"},
            "resources": [{"type": "SCALAR", "name": "mem", "scalar": {"value": 32}}],
            "agent_id": {"value": "a"},
            "task_id": {"value": "t"},
            "name": "n",
        }
    )
    assert list(parsed) == ["name", "task_id", "agent_id", "resources", "command"]
    assert list(parsed["resources"][0]) == ["name", "type", "scalar"]
    value = parsed["resources"][0]["scalar"]["value"]
    assert isinstance(value, float)
    assert value == 32
    assert parsed["command"] == {"shell": True, "value": "x"}


def test_parsing_is_idempotent() -> None:
    """The canonical form is a fixed point."""
    call = {"type": "SUBSCRIBE", "subscribe": SUBSCRIBE}
    once = SCHEDULER_CALL.parse(call)
    assert SCHEDULER_CALL.parse(once) == once


def test_text_format_leaves_defaults_out() -> None:
    """As in Mesos' message about incompatible executors."""
    info = EXECUTOR_INFO.parse(
        {
            "type": "CUSTOM",
            "executor_id": {"value": "e1"},
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.2}}],
            "command": {"value": 'say "hi"'},
        }
    )
    assert EXECUTOR_INFO.debug_string(info) == (
        'executor_id {\n  value: "e1"\n}\n'
        'resources {\n  name: "cpus"\n  type: SCALAR\n  scalar {\n    value: 0.2\n  }\n}\n'
        'command {\n  value: "say \\"hi\\""\n}\ntype: CUSTOM\n'
    )
