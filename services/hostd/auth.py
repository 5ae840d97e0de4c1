"""Who may read hostd's port: services, by the cluster's secret, or by this host's own key where only that is known."""

from __future__ import annotations

from collections.abc import Mapping

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from libs.common.clock import Clock
from libs.common.errors import Unauthenticated
from libs.common.http import ANONYMOUS, Kind, Principal, Role
from libs.common.tokens import LEEWAY_S


class OwnKeyVerifier:
    """An `Authenticator` for a host that does not have the cluster's secret.

    The control plane can derive every host's key, so a token signed with this host's is from there (or from this host
    itself); it says nothing to any other host.
    """

    def __init__(self, host: str, key: bytes, clock: Clock) -> None:
        self._subject = f"{Kind.HOST}:{host}"
        self._key = OctKey.import_key(key)
        self._clock = clock

    async def __call__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal:
        """The control plane. Raises Unauthenticated when the token is wrong or too old."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not token:
            return ANONYMOUS
        try:
            claims = jwt.decode(token, self._key, algorithms=["HS256"]).claims
            subject, expires = claims["sub"], float(claims["exp"])
        except (JoseError, ValueError, KeyError, TypeError):
            raise Unauthenticated("the token is not valid") from None
        if scheme.lower() != "bearer" or subject != self._subject:
            raise Unauthenticated("the token is not for this host")
        if self._clock.now() > expires + LEEWAY_S:
            raise Unauthenticated("the token has expired")
        return Principal(Kind.SERVICE, "control-plane", "*", Role.ADMIN)
