"""Jobs as Jepsen's test of Chronos draws them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.cron.checker import FORGIVENESS_S, Job


@dataclass(frozen=True)
class Drawn:
    """A job of the test: `count` runs of `duration_s` seconds, one each `interval_s` from `start` on.

    Windows never touch: an interval is longer than a run, its window and the forgiveness together.
    """

    name: str
    start: float
    count: int
    interval_s: int
    epsilon_s: int
    duration_s: float

    @property
    def schedule(self) -> str:
        """As the job is put."""
        start = datetime.fromtimestamp(self.start, UTC).replace(tzinfo=None)
        return f"R{self.count}/{start.isoformat(timespec='milliseconds')}Z/PT{self.interval_s}S"

    @property
    def targets(self) -> list[float]:
        return [round(self.start + k * self.interval_s, 3) for k in range(self.count)]

    def job(self, acknowledged: float | None, *, doubtful: bool = False) -> Job:
        """For the checker, once it is known what became of the asking."""
        return Job(
            name=self.name,
            targets=self.targets,
            epsilon_s=self.epsilon_s,
            duration_s=self.duration_s,
            count=self.count,
            acknowledged=acknowledged,
            doubtful=doubtful,
        )


def draw(rng: random.Random, name: str, now: float) -> Drawn:
    """One job, by the generator of the analysis; it begins 10 s after `now`."""
    duration, epsilon = rng.randrange(10), 10 + rng.randrange(20)
    return Drawn(
        name=name,
        start=round(now + 10, 3),
        count=1 + rng.randrange(99),
        interval_s=int(1 + duration + epsilon + FORGIVENESS_S + rng.randrange(30)),
        epsilon_s=epsilon,
        duration_s=duration,
    )
