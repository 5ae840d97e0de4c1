"""Signed, short-lived tokens on every call between services and hosts.

A token is a compact JWS (HS256, joserfc) with iss, sub, iat and exp. Every party signs with a key of its own,
derived from the cluster's secret by HMAC-SHA256 over `kind:name`; so a host that is broken into can sign as
that host only. Verifying takes the cluster's secret, which control-plane services have and hosts don't.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from libs.common.clock import Clock
from libs.common.errors import Unauthenticated
from libs.common.http import ANONYMOUS, Kind, Principal, Role

LIFETIME_S = 60.0
LEEWAY_S = 30.0
_CACHE_LIMIT = 4096


def derive_key(cluster_secret: bytes, kind: Kind, name: str) -> bytes:
    """The signing key of one party, 32 bytes."""
    return hmac.new(cluster_secret, f"{kind}:{name}".encode(), hashlib.sha256).digest()


class TokenSigner:
    """Makes the tokens of one party; a token is used again for half its life."""

    def __init__(self, kind: Kind, name: str, key: bytes, clock: Clock) -> None:
        self._header = {"alg": "HS256", "kid": f"{kind}:{name}"}
        self._claims = {"iss": "gantry", "sub": f"{kind}:{name}"}
        self._key = OctKey.import_key(key)
        self._clock = clock
        self._token = ""
        self._renew_at = 0.0

    def token(self) -> str:
        """A token that is good for at least half of LIFETIME_S."""
        now = self._clock.now()
        if not self._renew_at - LIFETIME_S / 2 <= now < self._renew_at:
            claims = {**self._claims, "iat": int(now), "exp": int(now + LIFETIME_S)}
            self._token = jwt.encode(self._header, claims, self._key)
            self._renew_at = now + LIFETIME_S / 2
        return self._token

    def headers(self) -> dict[str, str]:
        """The Authorization header."""
        return {"authorization": f"Bearer {self.token()}"}


class TokenVerifier:
    """An `Authenticator` for the routes of services: tells which service or host signed."""

    def __init__(self, cluster_secret: bytes, clock: Clock) -> None:
        self._secret = cluster_secret
        self._clock = clock
        self._known: dict[str, tuple[Principal, float]] = {}

    async def __call__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal:
        """The signer. Raises Unauthenticated when the token is wrong or too old."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not token:
            return ANONYMOUS
        if scheme.lower() != "bearer":
            raise Unauthenticated("the Authorization scheme must be Bearer")
        return self.verify(token)

    def verify(self, token: str) -> Principal:
        """The signer of `token`. Raises Unauthenticated."""
        now = self._clock.now()
        principal, expires = self._known.get(token) or self._check(token)
        if now > expires + LEEWAY_S:
            raise Unauthenticated("the token has expired")
        if len(self._known) >= _CACHE_LIMIT:
            self._known.clear()
        self._known[token] = (principal, expires)
        return principal

    def _check(self, token: str) -> tuple[Principal, float]:
        try:
            decoded = jwt.decode(token, self._key_of, algorithms=["HS256"])
            subject, expires = str(decoded.claims["sub"]), float(decoded.claims["exp"])
            if subject != decoded.header["kid"]:
                raise Unauthenticated("the token was signed by somebody else")
            kind, _, name = subject.partition(":")
            return Principal(Kind(kind), name, "*", Role.ADMIN), expires
        except (JoseError, ValueError, KeyError, TypeError):
            raise Unauthenticated("the token is not valid") from None

    def _key_of(self, signed: object) -> OctKey:
        header: Mapping[str, object] = signed.headers()  # type: ignore[attr-defined]
        kind, _, name = str(header.get("kid", "")).partition(":")
        if Kind(kind) not in (Kind.SERVICE, Kind.HOST):
            raise ValueError(kind)
        return OctKey.import_key(derive_key(self._secret, Kind(kind), name))
