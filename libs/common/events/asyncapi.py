"""The event contract as AsyncAPI 3.0, made of the event classes; nothing is written twice."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from libs.common.events import EVENT_TYPES

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_HEADERS = {
    "ce_specversion": "always 1.0",
    "ce_id": "the same for the same event, however often it is written",
    "ce_source": "/gantry/<service>",
    "ce_type": "gantry.<topic>.v<version>",
    "ce_subject": "what it is about; also the key",
    "ce_time": "RFC 3339, UTC",
    "ce_partitionkey": "the same as ce_subject",
    "ce_sequence": "the subject's version; of two events, the higher is the newer",
    "content-type": "application/json",
}
_OPTIONAL_HEADERS = {
    "ce_correlationid": "of the request that it all began with",
    "ce_causationid": "of the event that this one follows from",
    "gantry-signature": "on requests: who wrote it; docs/producers.md says how a producer outside Gantry makes it",
    "traceparent": "W3C trace context",
}


def document() -> Json:
    """The AsyncAPI document of all events."""
    classes = sorted(EVENT_TYPES.by_type.items())
    refs, definitions = models_json_schema(
        [(each, "serialization") for _, each in classes], by_alias=True, ref_template=_REF
    )
    channels: dict[str, Json] = {}
    messages: Json = {}
    operations: Json = {}
    for type_name, each in classes:
        channel = channels.setdefault(_id(each.TOPIC), {"address": each.TOPIC, "messages": {}})
        channel["messages"][each.__name__] = {"$ref": f"#/components/messages/{each.__name__}"}
        messages[each.__name__] = {
            "name": type_name,
            "title": each.__name__,
            "summary": (each.__doc__ or "").strip().partition("\n")[0],
            "contentType": "application/json",
            "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
            "payload": refs[(each, "serialization")],
            "bindings": {"kafka": {"key": {"type": "string", "description": "ce_subject"}}},
        }
    for name in channels:
        target = {"$ref": f"#/channels/{name}"}
        operations[f"publish_{name}"] = {"action": "send", "channel": target}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Gantry's events",
            "version": "1.0.0",
            "description": "CloudEvents 1.0 in Kafka's binary mode; one topic a type of event.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {name: channels[name] for name in sorted(channels)},
        "operations": dict(sorted(operations.items())),
        "components": {
            "messages": messages,
            "schemas": {
                "CloudEventHeaders": _headers(),
                **dict(sorted(definitions["$defs"].items())),
            },
        },
    }


def _headers() -> Json:
    known = {**_HEADERS, **_OPTIONAL_HEADERS}
    return {
        "type": "object",
        "required": list(_HEADERS),
        "properties": {
            name: {"type": "string", "description": text} for name, text in known.items()
        },
    }


def _id(topic: str) -> str:
    return topic.replace(".", "_")
