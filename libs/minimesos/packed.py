"""Serialised JSON that is kept: trimmed to its size.

orjson leaves its working buffer (4 KiB and more) attached to what it returns, which matters for
messages that are kept by the hundred thousand.
"""

from __future__ import annotations

import orjson


def packed(value: object) -> bytes:
    """Compact JSON in a bytes object of exactly its size."""
    return bytes(memoryview(orjson.dumps(value)))
