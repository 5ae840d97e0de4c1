"""Producers of other business units: their registered keys, asked of the gateway, and the signatures made with them.

A signature is a compact JWS (RFC 7515; alg Ed25519, or EdDSA as it was called before RFC 9864) whose payload is the
record's claims as JSON (proofs.py) and whose `kid` is the id that the gateway gave to the public key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from libs.common.clock import Clock
from libs.common.errors import Forbidden, GantryError, InvalidInput, NotFound, Unavailable
from libs.common.http import ServiceClient, call_json
from libs.common.proofs import Proof

KEY_ID = re.compile(r"pk-[0-9a-z]{4,40}")
ALGORITHMS = ("Ed25519", "EdDSA")
KNOWN_S = 10.0  # a key that was removed opens nothing after this long
UNKNOWN_S = 2.0
_CACHE_LIMIT = 1000
_MAX_SIGNATURE = 4000
_MAX_PEM = 1000


@dataclass(frozen=True, slots=True)
class ProducerKey:
    """A registered public key (PEM), and whose it is."""

    id: str
    bu: str
    producer: str
    public_key: str

    @property
    def actor(self) -> str:
        """The name under which its holder acts."""
        return f"{self.producer}#{self.id}"


def read_public_key(text: str) -> str:
    """The Ed25519 public key as PEM again. Raises InvalidInput, and for a private one says what it is."""
    expected = "a public Ed25519 key in PEM, as `openssl pkey -pubout` prints it"
    if "PRIVATE" in text:
        raise InvalidInput.of("public_key", "is a private key; keep it, and make another", expected)
    try:
        key = OKPKey.import_key(text) if len(text) <= _MAX_PEM else None
    except (JoseError, ValueError, TypeError):
        key = None
    if key is None or key.curve_name != "Ed25519" or key.is_private:
        raise InvalidInput.of("public_key", "is not a public Ed25519 key", expected)
    return key.as_pem(private=False).decode()


class ProducerKeys:
    """What the gateway knows of producers' keys, remembered for a moment."""

    def __init__(self, peers: ServiceClient, clock: Clock) -> None:
        self._peers = peers
        self._clock = clock
        self._known: dict[str, tuple[float, ProducerKey | None]] = {}

    async def signer(self, proof: Proof) -> ProducerKey:
        """Whose key signed it. Raises Forbidden saying what is wrong; Unavailable when the gateway can't be asked."""
        key_id = _key_id(proof.signature)
        key = await self._key(key_id)
        if key is None:
            raise Forbidden(f"no producer has the key {key_id}")
        try:
            signed = jws.deserialize_compact(
                proof.signature, OKPKey.import_key(key.public_key), algorithms=list(ALGORITHMS)
            )
            claims = orjson.loads(signed.payload or b"")
        except (JoseError, ValueError, TypeError):
            raise Forbidden(f"the signature is not one of the key {key_id}") from None
        if claims != proof.claims:
            wrong = _difference(claims, proof)
            raise Forbidden(f"the signature of the key {key_id} is over another {wrong}")
        return key

    async def _key(self, key_id: str) -> ProducerKey | None:
        now = self._clock.monotonic()
        at, key = self._known.get(key_id, (None, None))
        if at is not None and now - at < (UNKNOWN_S if key is None else KNOWN_S):
            return key
        try:
            told = await call_json(self._peers, "gateway", "GET", f"/v1/producer-keys/{key_id}")
            key = ProducerKey(key_id, told["bu"], told["producer"], told["public_key"])
        except NotFound:
            key = None
        except Unavailable:
            raise
        except (GantryError, KeyError, TypeError) as error:  # its fault or ours, not the producer's
            raise Unavailable(f"the gateway did not tell of {key_id}: {error}") from None
        if len(self._known) >= _CACHE_LIMIT:
            self._known.clear()
        self._known[key_id] = (now, key)
        return key


def _key_id(signature: str) -> str:
    """Which key a signature claims to be made with. Raises Forbidden for what is none of ours."""
    try:
        if len(signature) > _MAX_SIGNATURE:
            raise ValueError
        key_id = str(jws.extract_compact(signature.encode()).headers().get("kid", ""))
    except (JoseError, ValueError, TypeError):
        raise Forbidden("the signature is no compact JWS") from None
    if not KEY_ID.fullmatch(key_id):
        raise Forbidden("the signature's kid is not the id of a producer's key (pk-…)")
    return key_id


def _difference(claims: object, proof: Proof) -> str:
    given = claims if isinstance(claims, dict) else {}
    wrong = [name for name, value in proof.claims.items() if given.get(name) != value]
    return ", ".join(wrong) or "set of claims"
