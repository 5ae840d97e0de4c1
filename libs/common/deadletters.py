"""Dead letters: records that a consumer group could not handle, in the topic `dead.<group>`, with why and whence.

A letter is the record as it was, with headers of its own beside the record's: `Letter.record` is what to publish again.
"""

from __future__ import annotations

from dataclasses import dataclass

from libs.common.bus.base import MAX_RECORD_BYTES, Delivered, Record

PREFIX = "dead."
_OWN = "gantry_dead_"
_TOPIC = f"{_OWN}topic"
_REASON = f"{_OWN}reason"
_OFFSET = f"{_OWN}offset"
_CUT = f"{_OWN}cut"
_REASON_BYTES = 2000
_ROOM_BYTES = 100_000  # for a letter's key and headers, those of the bus included


def dead_topic(group: str) -> str:
    """Where a group's poison goes."""
    return PREFIX + group


def bury(each: Delivered, group: str, reason: str) -> Record:
    """The letter for a record that `group` can't handle."""
    record = each.record
    headers = [
        *record.headers,
        (_TOPIC, record.topic.encode()),
        (_REASON, reason.encode()[:_REASON_BYTES]),
        (_OFFSET, f"{each.partition}:{each.offset}".encode()),
    ]
    value = record.value
    if len(value) > MAX_RECORD_BYTES - _ROOM_BYTES:
        # It grew: better cut than in the way for ever.
        value = value[: MAX_RECORD_BYTES - _ROOM_BYTES]
        headers.append((_CUT, str(len(record.value)).encode()))
    return Record(dead_topic(group), record.key, value, tuple(headers))


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter. `cut_from` is the length of a value of which only the beginning is here, 0 of a whole one."""

    group: str
    partition: int
    offset: int
    time: float  # when it was buried, Unix seconds
    record: Record  # as it was; its topic is "" when nobody said where it came from
    origin: str = ""  # partition:offset in that topic
    reason: str = ""
    cut_from: int = 0

    @property
    def place(self) -> str:
        """partition:offset in the group's dead letters."""
        return f"{self.partition}:{self.offset}"

    @classmethod
    def of(cls, each: Delivered) -> Letter:
        """What lies in a dead-letter topic, read."""
        own, kept = {}, []
        for name, value in each.record.headers:
            if name.startswith(_OWN):
                own[name] = value.decode(errors="replace")
            else:
                kept.append((name, value))
        cut = own.get(_CUT, "")
        return cls(
            group=each.record.topic.removeprefix(PREFIX),
            partition=each.partition,
            offset=each.offset,
            time=each.timestamp,
            record=Record(own.get(_TOPIC, ""), each.record.key, each.record.value, tuple(kept)),
            origin=own.get(_OFFSET, ""),
            reason=own.get(_REASON, ""),
            cut_from=int(cut) if cut.isdigit() else 0,
        )
