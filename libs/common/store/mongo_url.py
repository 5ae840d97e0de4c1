"""What a mongodb:// URL says, and what must not be told of it.

    mongodb://[user[:password]@]host[:port][,host:port]/database[?option=value&…]

Options are MongoDB's own: `authSource` (the database that knows the user; default: the one in the URL), `tls`,
`tlsCAFile`, `tlsCertificateKeyFile`, `replicaSet`, …; and one of ours, `passwordFile`, in place of the password, read
again when the server refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from libs.common.bus.kafka_url import read_password
from libs.common.errors import InvalidInput

FILE = "passwordFile"


@dataclass(frozen=True, slots=True)
class MongoSettings:
    """What the driver is given: `url` without the password, which is apart."""

    url: str
    database: str
    password: str = field(default="", repr=False)
    password_file: Path | None = None

    def read_again(self) -> MongoSettings:
        """The same with the password that the file holds now. Raises InvalidInput when there is none."""
        if self.password_file is None:
            return self
        return replace(self, password=_read(self.password_file))

    def arguments(self) -> dict[str, Any]:
        """Arguments of the driver beside the URL."""
        return {"password": self.password} if self.password else {}

    def scrub(self, text: str) -> str:
        """The text without the password, should it stand there."""
        for secret in (self.password, quote(self.password, safe="")):
            text = text.replace(secret, "***") if secret else text
        return text


def parse_url(url: str) -> MongoSettings:
    """Read the URL. Raises InvalidInput, never showing the password."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    user, _, given = login.partition(":")
    options = parse_qsl(parts.query, keep_blank_values=True)
    files = [value for name, value in options if name == FILE]
    password = unquote(given)
    if files and password:
        raise InvalidInput.of("common.store", "password given twice", "in the URL or in a file")
    if files:
        password = _read(Path(files[0]))
    if user and not password and "authMechanism" not in dict(options):
        raise InvalidInput.of("common.store", f"no password for {unquote(user)!r}", f"?{FILE}=…")
    if not user and (password or files):
        raise InvalidInput.of("common.store", "a password without a user", "mongodb://user@host/db")
    query = urlencode([each for each in options if each[0] != FILE])
    path = parts.path if parts.path.strip("/") else "/gantry"
    without = urlunsplit((parts.scheme, f"{user}{at}{hosts}", path, query, ""))
    file = Path(files[0]) if files else None
    return MongoSettings(without, path.strip("/"), password, file)


def _read(file: Path) -> str:
    return read_password(file, f"common.store?{FILE}")
