"""Credentials from a configuration: a principal by name, its secret from a file, never by value."""

from __future__ import annotations

from pathlib import Path

from libs.common.errors import InvalidInput
from libs.mesos.ports import Credentials


def read_credentials(section: str, principal: str, file: Path | None) -> Credentials | None:
    """None without a file. Raises InvalidInput naming `<section>.principal` when only the secret is given."""
    if file is None:
        return None
    if not principal:
        raise InvalidInput.of(f"{section}.principal", "is missing", "the name beside the secret")
    return Credentials(principal, file.read_text().strip())
