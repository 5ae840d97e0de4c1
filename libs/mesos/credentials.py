"""Credentials from a configuration: a principal by name, its secret from a file, never by value.

A secret is used until a peer refuses it; then the file is read again. A master knows the credentials of its own start
only, so that neither order is wrong: a secret that is replaced before the master has been restarted breaks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from libs.common.errors import InvalidInput
from libs.mesos.http import basic_auth
from libs.mesos.ports import Credentials

UNAUTHENTICATED = 401


class CredentialFile:
    """A principal, and its secret as it was last read. Raises OSError at first."""

    def __init__(self, principal: str, file: Path) -> None:
        self._file = file
        self.current = Credentials(principal, file.read_text().strip())

    def look(self) -> None:
        """Read the file again; the secret stays while there is none in it, or it can't be read."""
        try:
            secret = self._file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return
        if secret:
            self.current = Credentials(self.current.principal, secret)


def open_credentials(section: str, principal: str, file: Path | None) -> CredentialFile | None:
    """None without a file. Raises InvalidInput naming `<section>.principal` when only the secret is given."""
    if file is None:
        return None
    if not principal:
        raise InvalidInput.of(f"{section}.principal", "is missing", "the name beside the secret")
    return CredentialFile(principal, file)


class Login:
    """How a client authenticates: with fixed credentials, with those of a file, or not at all."""

    def __init__(self, credentials: Credentials | CredentialFile | None) -> None:
        self._file = credentials if isinstance(credentials, CredentialFile) else None
        fixed = credentials if isinstance(credentials, Credentials) else None
        self.headers: Mapping[str, str] = basic_auth(self._file.current if self._file else fixed)

    @property
    def may_change(self) -> bool:
        """Is it worth asking again later after a 401."""
        return self._file is not None

    def is_other_than(self, refused: Mapping[str, str]) -> bool:
        """Do we have other headers than these, which a peer has answered with 401? Looks into the file if need be."""
        if self._file is not None and self.headers == refused:
            self._file.look()
            self.headers = basic_auth(self._file.current)
        return self.headers != refused


ANONYMOUS = Login(None)
