"""Bounded exponential back-off with full jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays of `base_s`, doubled by `factor` a failure up to `max_s`, each drawn from its upper half."""

    base_s: float = 0.05
    max_s: float = 5.0
    factor: float = 2.0

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """The pause after the `failures`-th failure in a row (1 is the first)."""
        ceiling = min(self.max_s, self.base_s * self.factor ** min(failures - 1, 64))
        return float(ceiling * rng.uniform(0.5, 1.0))
