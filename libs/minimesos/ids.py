"""The binary form in which status updates carry uuids."""

from __future__ import annotations

import binascii

UUID_VERSIONS = range(1, 6)


def uuid_bytes64(text: str) -> str:
    """The base64 form (of the 16 raw bytes) in which status updates carry a uuid."""
    raw = bytes.fromhex(text.replace("-", ""))
    return binascii.b2a_base64(raw, newline=False).decode("ascii")


def is_uuid_bytes64(text: str) -> bool:
    """Whether base64 `text` holds 16 bytes whose version nibble Mesos accepts (the nil uuid fails)."""
    try:
        raw = binascii.a2b_base64(text)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == 16 and (raw[6] >> 4) in UUID_VERSIONS
