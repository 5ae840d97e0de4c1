"""How a host is given secrets over a wire that others can read and change.

Host and gateway share a secret already: that of a one-time token, or the host's present key. The host makes an X25519
key pair for this one exchange and proves, by HMAC-SHA256 under the shared secret, that the claim with its public half
is its own; the shared secret itself is never sent. The gateway seals its answer with AES-256-GCM under a key that HKDF
(RFC 5869) makes of both: of what the two key pairs agree on (RFC 7748), and of the shared secret. So a listener learns
nothing, not even who comes to know the shared secret later; who stands in between can't put keys of its own in the
place of the host's or the gateway's; and an answer opens for the claim it was made for, and for no other.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PUBLIC_BYTES = 32
_NONCE_BYTES = 12
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """What a host asks for: `purpose` (enrol, renew), by which token or when (`by`), and the key to seal to."""

    purpose: str
    by: str
    host: str
    public_key: bytes

    def text(self) -> bytes:
        """What is proven; one text a claim."""
        fields = [_VERSION, self.purpose, self.by, self.host, self.public_key.hex()]
        return orjson.dumps(["gantry-host", *fields])


@dataclass(frozen=True, slots=True)
class Sealed:
    """An answer for the holder of the claim's private key and the shared secret: the gateway's key, and the box."""

    public_key: bytes
    box: bytes


class Unsealable(ValueError):
    """The answer was made for another claim, by somebody else, or changed on its way."""


def new_key() -> X25519PrivateKey:
    """A key pair for one exchange."""
    return X25519PrivateKey.generate()


def prove(secret: bytes, claim: Claim) -> str:
    """The proof, in hex, that the holder of the secret makes this claim."""
    return hmac.new(_subkey(secret, "prove"), claim.text(), hashlib.sha256).hexdigest()


def prover(secrets: Iterable[bytes], claim: Claim, proofs: Iterable[str]) -> bytes | None:
    """The first of the secrets that one of the proofs was made with, or None."""
    given = [each.encode() for each in proofs]
    for secret in secrets:
        expected = prove(secret, claim).encode()
        if any(hmac.compare_digest(expected, each) for each in given):
            return secret
    return None


class Sealer:
    """Seals one answer to a claim whose proof was found right."""

    def __init__(self, secret: bytes, claim: Claim) -> None:
        """Raises ValueError for a public key that agrees on nothing secret (a point of low order)."""
        own = new_key()
        self._public_key = own.public_key().public_bytes_raw()
        peer = X25519PublicKey.from_public_bytes(claim.public_key)
        self._key = _agree(secret, own.exchange(peer), claim, self._public_key)

    def seal(self, content: bytes) -> Sealed:
        """The content, for the claim's maker alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return Sealed(self._public_key, nonce + AESGCM(self._key).encrypt(nonce, content, None))


def unseal(secret: bytes, claim: Claim, private_key: X25519PrivateKey, sealed: Sealed) -> bytes:
    """The content of an answer to our claim. Raises Unsealable."""
    try:
        peer = X25519PublicKey.from_public_bytes(sealed.public_key)
        shared = private_key.exchange(peer)
        key = _agree(secret, shared, claim, sealed.public_key)
        nonce, box = sealed.box[:_NONCE_BYTES], sealed.box[_NONCE_BYTES:]
        return AESGCM(key).decrypt(nonce, box, None)
    except (InvalidTag, ValueError):
        raise Unsealable("the answer is not one to this claim") from None


def _agree(secret: bytes, shared: bytes, claim: Claim, gateways_key: bytes) -> bytes:
    hkdf = HKDF(SHA256(), 32, salt=_subkey(secret, "seal"), info=claim.text() + gateways_key)
    return hkdf.derive(shared)


def _subkey(secret: bytes, use: str) -> bytes:
    # Never the secret itself: a host's key also signs its tokens.
    return hmac.new(secret, f"gantry-host/{use}".encode(), hashlib.sha256).digest()
