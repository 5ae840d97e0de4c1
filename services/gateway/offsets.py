"""A place in the event log as a compact text: the id of a server-sent event, good at any replica.

A place is the next offset of each partition. Encoded as a version byte, then per topic a 4-byte CRC-32 of its name, the
number of partitions and that many offsets (+1, 0 = unknown) as LEB128 varints; base64url without padding.
Topics that a reader doesn't know are skipped, so replicas of different versions understand each other.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping

from libs.common.bus.base import TopicPartition
from libs.common.errors import InvalidInput

_VERSION = 1
_MAX_CHARS = 16_384


def encode(offsets: Mapping[TopicPartition, int]) -> str:
    """The text of a place."""
    by_topic: dict[str, dict[int, int]] = {}
    for (topic, partition), offset in offsets.items():
        by_topic.setdefault(topic, {})[partition] = offset
    out = bytearray([_VERSION])
    for topic in sorted(by_topic):
        partitions = by_topic[topic]
        out += zlib.crc32(topic.encode()).to_bytes(4, "big")
        count = max(partitions) + 1
        _put(out, count)
        for partition in range(count):
            _put(out, partitions.get(partition, -1) + 1)
    return base64.urlsafe_b64encode(bytes(out)).rstrip(b"=").decode()


def decode(text: str, topics: Iterable[str]) -> dict[TopicPartition, int]:
    """The place that a text stands for, as far as it speaks about `topics`. Raises InvalidInput."""
    names = {zlib.crc32(topic.encode()): topic for topic in topics}
    offsets: dict[TopicPartition, int] = {}
    try:
        if len(text) > _MAX_CHARS:
            raise ValueError("too long")
        data = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
        if not data or data[0] != _VERSION:
            raise ValueError("unknown version")
        at = 1
        while at < len(data):
            topic = names.get(int.from_bytes(data[at : at + 4], "big"))
            count, at = _get(data, at + 4)
            for partition in range(count):
                plus_one, at = _get(data, at)
                if topic is not None and plus_one:
                    offsets[(topic, partition)] = plus_one - 1
    except (ValueError, IndexError, binascii.Error):
        raise InvalidInput.of(
            "Last-Event-ID", "is not an id of this event stream", "the id of an event received"
        ) from None
    return offsets


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(0x80 | (number & 0x7F))
        number >>= 7
    out.append(number)


def _get(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number that is too long")
