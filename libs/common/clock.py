"""Time, randomness and ids as things one is handed.

Only `runtime.py` and this module touch the real ones, so that the whole cloud can run in virtual time
from one seed (`tests/simulation/`).
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from hashlib import sha1
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Seconds since the Unix epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Let `delay_s` seconds pass."""
        ...


class Ids(Protocol):
    """Where new identifiers come from."""

    def uuid(self) -> str:
        """A fresh UUID in its 36-character form."""
        ...

    def short(self) -> str:
        """Ten lower-case characters that are unique enough for one app's instances."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(delay_s)


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


class RngIds:
    """Ids drawn from a `random.Random`: a `SystemRandom` in production, a seeded one in simulation."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def uuid(self) -> str:
        """A version 4 UUID made of 122 bits of `rng`."""
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def short(self) -> str:
        """Fifty bits of `rng` in base 32."""
        return short_id(self._rng.getrandbits(50))


def short_id(bits: int) -> str:
    """The lowest fifty bits in base 32: ten characters."""
    return "".join(_ALPHABET[(bits >> shift) & 31] for shift in range(45, -1, -5))


def system_rng() -> random.Random:
    """The operating system's randomness behind `random.Random`'s interface."""
    return random.SystemRandom()


def deterministic_uuid(*parts: str | int) -> str:
    """A UUID (version 5) that is the same for the same parts, for ids that a second run must repeat."""
    # As `uuid.uuid5`, in a third of the time: each event has one (RFC 9562, 5.5).
    named = _NAMESPACE + "\x1f".join(map(str, parts)).encode()
    digest = sha1(named, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


_NAMESPACE = uuid.UUID("6f4d1c1e-4f0b-5a56-9d0e-0a1d5a1f6b77").bytes
