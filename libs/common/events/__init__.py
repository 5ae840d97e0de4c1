"""The event contract: `model.py` lists the events, `base.py` has the envelope they travel in."""

from libs.common.bus.base import TopicSpec
from libs.common.events import model
from libs.common.events.base import NO_CAUSE, Cause, Envelope, Event, EventTypes, seal, to_record

EVENT_TYPES = EventTypes.of(model.ALL)
TOPICS = tuple(TopicSpec(topic) for topic in sorted({each.TOPIC for each in model.ALL}))

__all__ = [
    "EVENT_TYPES",
    "NO_CAUSE",
    "TOPICS",
    "Cause",
    "Envelope",
    "Event",
    "EventTypes",
    "seal",
    "to_record",
]
