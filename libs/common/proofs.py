"""Who wrote a record: the proof in its header `gantry-signature`, over its value and the headers that name it.

What is proven is a record's claims: ce_id, ce_type, ce_subject, ce_source, ce_time, and the SHA-256 of its value in
hex. A service proves with an HMAC under a key of its own, derived from the cluster's secret:
`<service>:<mac>[.<mac>…]`, one a secret while one is being replaced. Another business unit's producer sends a JWS of
the claims: see producers.py.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson

from libs.common.bus.base import Record
from libs.common.keys import DerivedKeys, Macs, Secret

SIGNATURE = "gantry-signature"
CLAIMED = ("ce_id", "ce_type", "ce_subject", "ce_source", "ce_time")
DIGEST = "sha256"
SOURCES = "/gantry/"
"""How the sources of Gantry's own services begin; no producer may use it."""

# What others may ask for, too. The rest is for Gantry's services alone to write: the bus's own access list says so.
SIGNED_TOPICS = frozenset({"deploy.requested", "job.requested"})


@dataclass(frozen=True, slots=True)
class Proof:
    """A signature as it came, and what it must be over."""

    signature: str
    claims: Mapping[str, str]


def claims_of(headers: Mapping[str, str], value: bytes) -> dict[str, str]:
    """What there is to prove of a record; a missing header is empty."""
    claims = {name: headers.get(name, "") for name in CLAIMED}
    return {**claims, DIGEST: hashlib.sha256(value).hexdigest()}


def service_of(source: str) -> str:
    """The service that a source belongs to: `/gantry/<service>[/…]`; "" for sources outside Gantry."""
    return source.removeprefix(SOURCES).partition("/")[0] if source.startswith(SOURCES) else ""


class ServiceProofs:
    """Proofs of Gantry's own services, made and checked."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._macs: dict[str, Macs] = {}

    def sign(self, record: Record) -> Record:
        """The record with its writer's proof; others than of SIGNED_TOPICS as they are."""
        if record.topic not in SIGNED_TOPICS:
            return record
        headers = {name: value.decode() for name, value in record.headers}
        service = service_of(headers["ce_source"])
        proof = self._of(service).prove(_text(claims_of(headers, record.value)))
        signature = (SIGNATURE, f"{service}:{proof}".encode())
        return replace(record, headers=(*record.headers, signature))

    def proves(self, service: str, proof: Proof) -> bool:
        """Did `service` write it?"""
        name, _, macs = proof.signature.partition(":")
        return (
            bool(service)
            and name == service
            and self._of(service).proves(_text(proof.claims), macs)
        )

    def _of(self, service: str) -> Macs:
        if service not in self._macs:
            derive = lambda secret: _event_key(secret, service)  # noqa: E731
            self._macs[service] = Macs(DerivedKeys(self._secret, derive))
        return self._macs[service]


def _event_key(secret: bytes, service: str) -> bytes:
    # Not the key of the service's tokens: a proof must never pass for one, nor the other way round.
    return hmac.new(secret, f"events/{service}".encode(), hashlib.sha256).digest()


def _text(claims: Mapping[str, str]) -> str:
    return orjson.dumps(claims, option=orjson.OPT_SORT_KEYS).decode()
