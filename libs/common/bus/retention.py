"""How long topics are kept: by kind, told to the bus when it makes a topic that says nothing itself."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from libs.common.deadletters import PREFIX

DAY_S = 86_400.0
AUDIT = "audit.recorded"


class Retention(BaseModel):
    """The part `common.retention`. Times are seconds; state never depends on them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    events_s: float = Field(7 * DAY_S, ge=60, description="of every topic but those below")
    audit_s: float = Field(
        30 * DAY_S, ge=60, description="of audit.recorded, which others read too"
    )
    dead_s: float = Field(30 * DAY_S, ge=60, description="of dead letters")

    def of(self, topic: str) -> float:
        """Seconds that the topic's records are kept."""
        if topic.startswith(PREFIX):
            return self.dead_s
        return self.audit_s if topic == AUDIT else self.events_s


def fair_limit(sizes: Iterable[int], total: int) -> int:
    """The size to which the largest have to be cut so that all together have no more than `total`."""
    left = sorted(sizes)
    if sum(left) <= total:
        return max(left, default=0)
    room = total
    for at, size in enumerate(left):
        share = room // (len(left) - at)
        if size > share:
            return share
        room -= size
    return 0
