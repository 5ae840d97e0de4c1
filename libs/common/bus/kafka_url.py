"""What a kafka:// URL says.

    kafka://[user:password@]host:port[,host:port][?option=value&…]

Options: `tls` (1), `cafile`, `certfile`, `keyfile`; `sasl` (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512; default the last when
there is a user); `replication` of topics that are made (default 1); `session_s` until a silent consumer counts as
dead (default 10); `linger_ms` (0 to 5, default 0); `prefix` of topic and group names, for clusters that share a Kafka.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        "replication",
        "session_s",
        "linger_ms",
        "prefix",
    ]
)


@dataclass(frozen=True)
class KafkaSettings:
    """Where the brokers are and how to speak to them."""

    bootstrap: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
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
            arguments["sasl_plain_password"] = self.password
        return arguments

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.cafile)
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context


def parse_url(url: str) -> KafkaSettings:
    """Read the URL. Raises InvalidInput, never showing the password."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    bootstrap = tuple(host for host in hosts.split(",") if host)
    if not bootstrap or not all(host.rpartition(":")[2].isdigit() for host in bootstrap):
        raise InvalidInput.of("common.bus", f"no brokers in {hosts!r}", "host:port[,host:port]")
    options = dict(parse_qsl(parts.query))
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        known = ", ".join(sorted(_OPTIONS))
        raise InvalidInput.of("common.bus", f"unknown options {unknown}", f"one of {known}")
    return KafkaSettings(
        bootstrap=bootstrap,
        user=unquote(user),
        password=unquote(password),
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


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(options.get(name, default))
    except ValueError:
        value = -1.0
    if value < 0:
        raise InvalidInput.of(f"common.bus?{name}", f"bad value {options[name]!r}", "a number")
    return value
