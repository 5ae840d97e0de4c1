"""What somebody else sends, read to its end if that comes soon enough."""

from __future__ import annotations

from collections.abc import AsyncIterable

from libs.common.errors import Unavailable


async def read_to_end(chunks: AsyncIterable[bytes], limit: int, whose: str) -> bytes:
    """All of them. Raises Unavailable for more than `limit` bytes: `whose` is "registry X has a manifest", say."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > limit:
            raise Unavailable(f"{whose} without end")
    return bytes(content)
