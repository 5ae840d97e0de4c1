"""What a kafka:// URL says.

    kafka://[user:password@]host[:port][,host[:port]][?option=value&…]

Ports are 9092 by default. Options: `tls` (1), `cafile`, `certfile`, `keyfile`; `sasl` (PLAIN, SCRAM-SHA-256,
SCRAM-SHA-512; default the last when there is a user; PLAIN over TLS or loopback only); `password_file` in place of the
password, read again for each new connection; `replication` of topics that are made (default 1); `session_s` until a
silent consumer counts as dead (default 10); `linger_ms` (0 to 5, default 0); `prefix` of topic and group names, for
clusters that share a Kafka.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from libs.common.errors import InvalidInput

_OPTIONS = frozenset(
    [
        "tls",
        "cafile",
        "certfile",
        "keyfile",
        "sasl",
        "password_file",
        "replication",
        "session_s",
        "linger_ms",
        "prefix",
    ]
)

PORT = 9092
SASL = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class KafkaSettings:
    """Where the brokers are and how to speak to them."""

    bootstrap: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    sasl: str = "SCRAM-SHA-512"
    tls: bool = False
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    replication: int = 1
    session_s: float = 10.0
    linger_ms: int = 0
    prefix: str = ""

    def connection(self) -> dict[str, Any]:
        """The arguments that all of aiokafka's clients take."""
        security = ("SASL_" if self.user else "") + ("SSL" if self.tls else "PLAINTEXT")
        arguments: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap),
            "security_protocol": security,
            "ssl_context": self._ssl_context() if self.tls else None,
        }
        if self.user:
            arguments["sasl_mechanism"] = self.sasl
            arguments["sasl_plain_username"] = self.user
            arguments["sasl_plain_password"] = self._password_now()
        return arguments

    def _password_now(self) -> str:
        if self.password_file is None:
            return self.password
        try:
            return read_password(self.password_file, "common.bus?password_file")
        except InvalidInput:
            return self.password  # as it was at the start, while the file is being replaced

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            return self._trusting()
        except OSError as error:  # SSLError is one
            files = f"cafile={self.cafile} certfile={self.certfile} keyfile={self.keyfile}"
            raise InvalidInput.of(
                "common.bus", f"no TLS with {files}: {error}", "files in PEM"
            ) from None

    def _trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.cafile)
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context


def parse_url(url: str) -> KafkaSettings:
    """Read the URL. Raises InvalidInput, never showing the password."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    bootstrap = tuple(_with_port(host) for host in hosts.split(",") if host)
    if not bootstrap or not all(host.rpartition(":")[2].isdigit() for host in bootstrap):
        raise InvalidInput.of("common.bus", f"no brokers in {hosts!r}", "host:port[,host:port]")
    options = dict(parse_qsl(parts.query))
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        known = ", ".join(sorted(_OPTIONS))
        raise InvalidInput.of("common.bus", f"unknown options {unknown}", f"one of {known}")
    settings = KafkaSettings(
        bootstrap=bootstrap,
        user=unquote(user),
        password=_password(unquote(password), options),
        password_file=Path(options["password_file"]) if "password_file" in options else None,
        sasl=options.get("sasl", "SCRAM-SHA-512"),
        tls=options.get("tls", "") in ("1", "true"),
        cafile=options.get("cafile"),
        certfile=options.get("certfile"),
        keyfile=options.get("keyfile"),
        replication=int(_number(options, "replication", 1)),
        session_s=_number(options, "session_s", 10.0),
        linger_ms=int(_number(options, "linger_ms", 0)),
        prefix=options.get("prefix", ""),
    )
    _check(settings, options)
    return settings


def _with_port(host: str) -> str:
    has_port = ":" in host.rpartition("]")[2]  # an IPv6 address is in brackets
    return host if has_port else f"{host}:{PORT}"


def _is_loopback(broker: str) -> bool:
    name = broker.rpartition(":")[0].strip("[]")
    return name in ("localhost", "::1") or name.startswith("127.")


def _password(given: str, options: Mapping[str, str]) -> str:
    file = options.get("password_file")
    if file is None:
        return given
    if given:
        raise InvalidInput.of("common.bus", "password given twice", "in the URL or in a file")
    return read_password(Path(file), "common.bus?password_file")


def read_password(file: Path, field: str) -> str:
    """The first line of a file. Raises InvalidInput, never showing it."""
    try:
        password = file.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput.of(field, f"{file} can't be read: {type(error).__name__}") from None
    if not password:
        raise InvalidInput.of(field, f"{file} is empty", "the password in its first line")
    return password


def _check(settings: KafkaSettings, options: Mapping[str, str]) -> None:
    """Refuse what would be ignored, or would show the password to the network."""
    if settings.sasl not in SASL:
        raise InvalidInput.of(
            "common.bus?sasl", f"unknown mechanism {settings.sasl!r}", f"one of {SASL}"
        )
    if settings.user and not settings.password:
        raise InvalidInput.of(
            "common.bus", f"no password for {settings.user!r}", "?password_file=…"
        )
    if not settings.user and ("sasl" in options or settings.password):
        raise InvalidInput.of("common.bus", "SASL without a user", "kafka://user@host:port")
    is_seen = not settings.tls and not all(map(_is_loopback, settings.bootstrap))
    if settings.user and settings.sasl == "PLAIN" and is_seen:
        raise InvalidInput.of(
            "common.bus?sasl", "PLAIN shows the password to the network", "tls=1, or SCRAM"
        )
    files = sorted(options.keys() & {"cafile", "certfile", "keyfile"})
    if files and not settings.tls:
        raise InvalidInput.of("common.bus", f"{', '.join(files)} without TLS", "tls=1")


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(options.get(name, default))
    except ValueError:
        value = -1.0
    if value < 0:
        raise InvalidInput.of(f"common.bus?{name}", f"bad value {options[name]!r}", "a number")
    return value
