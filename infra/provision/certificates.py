"""Certificates for servers of tests: an authority of their own, and one server on loopback, made by openssl."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.provision import process

DAYS = "30"
_TIMEOUT_S = 30.0
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM: the authority's certificate; the server's key (PKCS#8) and its certificate."""

    authority: Path
    key: Path
    certificate: Path


async def make_certificates(directory: Path) -> Certificates:
    """Those of a directory; made once. Raises CommandError, MissingToolError."""
    made = Certificates(directory / "ca.pem", directory / "server.key", directory / "server.pem")
    if made.certificate.exists():
        return made
    process.require("openssl")
    authority_key, request = directory / "ca.key", directory / "server.csr"
    await _openssl(
        directory,
        *("req", "-x509", *_KEY, "-days", DAYS, "-subj", "/CN=authority of a test"),
        *("-keyout", authority_key, "-out", made.authority),
    )
    await _openssl(
        directory,
        *("req", *_KEY, "-subj", "/CN=localhost", "-addext", _NAMES),
        *("-keyout", made.key, "-out", request),
    )
    await _openssl(
        directory,
        *("x509", "-req", "-in", request, "-CA", made.authority, "-CAkey", authority_key),
        *("-CAcreateserial", "-copy_extensions", "copy", "-days", DAYS, "-out", made.certificate),
    )
    return made


async def _openssl(directory: Path, *arguments: str | Path) -> None:
    await process.run(["openssl", *arguments], timeout_s=_TIMEOUT_S, cwd=directory)
